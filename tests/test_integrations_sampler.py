"""Index batches for other people's loaders: every sample once, and never a stale size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from stability_probe.errors import UsageError
from stability_probe.integrations import AdaptiveBatchSampler
from stability_probe.order import epoch_batches, generator_for


class Numbers(Dataset[int]):
    """Each sample is its own index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


@given(
    st.integers(2, 300),
    st.lists(st.integers(1, 64), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_every_sample_once_an_epoch_over_all_processes(
    samples: int, sizes: list[int], replicas: int, accumulate: int, seed: int
) -> None:
    parts = replicas * accumulate
    if min(samples, *sizes) < 2 * parts or sizes[0] > samples:
        return
    ranks = [
        AdaptiveBatchSampler(
            samples, sizes[0], seed=seed, accumulate=accumulate, num_replicas=replicas, rank=rank
        )
        for rank in range(replicas)
    ]
    for epoch, size in enumerate(sizes):
        for sampler in ranks:
            sampler.set_epoch(epoch, size)
        mine = [list(sampler) for sampler in ranks]
        assert sorted(i for batches in mine for batch in batches for i in batch) == list(
            range(samples)
        )
        assert {len(batches) for batches in mine} == {len(ranks[0])}
        assert len(ranks[0]) == ranks[0].num_updates * accumulate
        assert min(len(batch) for batches in mine for batch in batches) >= 2
        for sampler, batches in zip(ranks, mine, strict=True):
            assert [sampler.num_samples_of(i) for i in range(len(sampler))] == list(
                map(len, batches)
            )
        for update in range(ranks[0].num_updates):
            own = slice(update * accumulate, (update + 1) * accumulate)
            whole = sum(len(batch) for batches in mine for batch in batches[own])
            last = update == ranks[0].num_updates - 1
            assert whole == size or (last and whole < size + 2 * parts)


def test_the_order_is_that_of_probe_run() -> None:
    sampler = AdaptiveBatchSampler(97, 16, seed=3)
    sampler.set_epoch(4, 24)
    theirs = epoch_batches(97, 24, generator_for(3, 5, "order"))
    assert list(sampler) == [batch.tolist() for batch in theirs]
    assert list(sampler) == list(sampler)  # the epoch decides, not how often it was asked


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_never_see_a_stale_size(persistent: bool) -> None:
    sampler = AdaptiveBatchSampler(Numbers(97), 8)
    loader = DataLoader(
        Numbers(97),
        batch_sampler=sampler,
        num_workers=2,
        persistent_workers=persistent,
        prefetch_factor=4,
    )
    for epoch, size in enumerate([8, 16, 40, 8, 97]):
        sampler.set_epoch(epoch, size)
        lengths = []
        seen: list[int] = []
        for position, batch in enumerate(loader):
            lengths.append(len(batch))
            seen += batch.tolist()
            if position == 0:
                # Prefetching has begun; a size set now must wait for the next epoch.
                sampler.set_epoch(epoch, 32)
        assert set(lengths[:-1]) <= {size}
        assert lengths[-1] <= size + 1
        assert sorted(seen) == list(range(97))
        sampler.set_epoch(epoch, size)
        assert len(loader) == len(lengths)


def test_a_size_is_taken_when_an_epoch_begins() -> None:
    sampler = AdaptiveBatchSampler(64, 8)
    begun = iter(sampler)
    sampler.set_epoch(1, 32)
    assert [len(batch) for batch in begun] == [8] * 8
    assert [len(batch) for batch in sampler] == [32, 32]


def test_no_attribute_that_accelerate_would_plan_with() -> None:
    sampler = AdaptiveBatchSampler(64, 8)
    assert not hasattr(sampler, "batch_size")
    assert not hasattr(sampler, "drop_last")
    assert DataLoader(Numbers(64), batch_sampler=sampler).batch_size is None


def test_state_goes_into_a_checkpoint() -> None:
    sampler, other = AdaptiveBatchSampler(97, 8, seed=1), AdaptiveBatchSampler(97, 8, seed=1)
    sampler.set_epoch(3, 24)
    other.load_state_dict(sampler.state_dict())
    assert list(other) == list(sampler)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"batch_size": 98}, "use 1 to 97"),
        ({"batch_size": 0}, "use 1 to 97"),
        ({"batch_size": 8, "accumulate": 0}, "1 or more parts"),
        ({"batch_size": 8, "rank": 0}, "together"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        AdaptiveBatchSampler(97, **arguments)


def test_too_many_parts_are_refused_where_they_are_known() -> None:
    sampler = AdaptiveBatchSampler(97, 6, num_replicas=2, rank=0, accumulate=2)
    with pytest.raises(UsageError, match="use 8 or more"):
        iter(sampler)


def test_a_batch_of_one_is_allowed_where_nothing_is_shared() -> None:
    assert [len(batch) for batch in AdaptiveBatchSampler(5, 1)] == [1, 1, 1, 2]
    assert torch.tensor(list(AdaptiveBatchSampler(6, 3))).shape == (2, 3)
