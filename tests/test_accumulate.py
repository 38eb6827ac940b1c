"""A batch that exceeds memory: split, its gradient accumulated, the limit remembered."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stability_probe import device
from stability_probe.config import RunConfig
from stability_probe.errors import RunError
from stability_probe.noise_pass import measure_noise_scale
from stability_probe.run import run
from stability_probe.run_summary import run_table
from stability_probe.state import make_state
from stability_probe.step import num_micro_batches, train_step
from stability_probe.store import Store
from tests.test_run import Notes, all_timeless, load_checkpoint
from tests.tiny import Hungry, blobs

CONFIG = RunConfig(
    model="tests.tiny:hungry",
    data="tests.tiny:blobs",
    device="cpu",
    epochs=4,
    window_epochs=2,
    batch_size=32,
    channels_last="off",
)
PLAIN = dataclasses.replace(CONFIG, model="tests.tiny:plain")


@pytest.fixture(autouse=True)
def _fed() -> Iterator[None]:
    Hungry.failures, Hungry.LIMIT = 0, 12
    yield
    Hungry.LIMIT = 12


@given(st.integers(1, 3000), st.none() | st.integers(1, 300))
def test_parts_are_near_equal_fit_and_are_never_single(size: int, largest: int | None) -> None:
    count = num_micro_batches(size, largest)
    parts = [len(p) for p in torch.tensor_split(torch.arange(size), count)]
    assert sum(parts) == size
    assert max(parts) - min(parts) <= 1
    if size > 1:
        assert min(parts) > 1
    if largest is not None and largest >= 3:
        assert max(parts) <= largest
        assert count == 1 or max(torch.arange(size).tensor_split(count - 1)[0].shape) > largest


def test_a_noise_pass_that_exceeds_memory_takes_smaller_micro_batches() -> None:
    data = blobs()
    state = make_state(CONFIG, data)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    split = measure_noise_scale(state, data, CONFIG, 1.0)
    assert Hungry.failures == 2, "32 and 16 samples"
    assert state.micro_batch_size is None, "training may still fit"
    assert all(torch.equal(before[k], v) for k, v in state.model.state_dict().items())
    state.micro_batch_size = 8
    known = measure_noise_scale(state, data, CONFIG, 1.0)
    assert Hungry.failures == 2
    assert dataclasses.replace(split, time_s=0.0) == dataclasses.replace(known, time_s=0.0)
    Hungry.LIMIT = 1
    with pytest.raises(torch.OutOfMemoryError):
        measure_noise_scale(state, data, CONFIG, 1.0)


def test_split_batches_give_the_numbers_of_undivided_ones(tmp_path: Path) -> None:
    """No BatchNorm: losses, norms and accuracies are the same up to rounding."""
    split, whole = run(CONFIG, Store(tmp_path)), run(PLAIN, Store(tmp_path))
    assert [e.micro_batch_size for e in split.epochs] == [8] * 4
    assert [e.micro_batch_size for e in whole.epochs] == [32] * 4
    for one, other in zip(split.epochs, whole.epochs, strict=True):
        assert (one.batch_size, one.updates) == (other.batch_size, other.updates) == (32, 3)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
        assert one.grad_component_variance == pytest.approx(other.grad_component_variance, rel=1e-4)
        assert one.test_accuracy == other.test_accuracy
        assert one.lr == other.lr


def test_the_gradient_of_uneven_parts_is_that_of_the_batch() -> None:
    """31 samples in parts of 8, 8, 8 and 7."""
    data = blobs()
    states = [make_state(c, data) for c in (CONFIG, PLAIN)]
    losses = []
    for state in states:
        losses.append(
            train_step(state, data, data.train_images[:31], data.train_labels[:31], "float32")
        )
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for one, other in zip(*(s.model.parameters() for s in states), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_limit_is_met_once_stored_and_told(tmp_path: Path) -> None:
    notes = Notes()
    store = Store(tmp_path)
    result = run(CONFIG, store, notes)
    # 32, then 16, fail; 8 fits and is never left again.
    assert Hungry.failures == 2
    assert load_checkpoint(store, CONFIG)["micro_batch_size"] == 8
    assert notes.notes == ["batch 32 exceeds the memory: micro-batches of 8"]
    told = screen(run_table(result))
    assert "from epoch 1 on batches ran in parts of 8" in told
    assert "an undivided batch gives the same numbers" in told


def test_a_resumed_run_knows_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    whole = run(CONFIG, Store(tmp_path / "whole"))
    from stability_probe.interrupt import Interrupted
    from tests.test_interrupt import RUN, StopAt

    class Twice(StopAt):
        def __enter__(self) -> StopAt:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(RUN, "stopping", lambda: Twice(5))
        with pytest.raises(Interrupted):
            run(CONFIG, store)
    failures = Hungry.failures
    resumed = run(CONFIG, store)
    assert Hungry.failures == failures
    assert all_timeless(resumed) == all_timeless(whole)


def test_batchnorm_sees_the_parts_and_the_run_says_so(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, model="tests.tiny:hungry_net")
    split = run(config, Store(tmp_path))
    Hungry.LIMIT = 1000
    whole = run(config, Store(tmp_path / "whole"))
    assert split.epochs[0].loss != pytest.approx(whole.epochs[0].loss, rel=1e-4)
    assert "BatchNorm saw the parts" in screen(run_table(split))
    assert "parts" not in screen(run_table(whole))


def test_a_growing_batch_meets_the_limit_later(tmp_path: Path) -> None:
    Hungry.LIMIT = 30
    config = dataclasses.replace(
        CONFIG,
        batch_size=16,
        max_batch_size=64,
        epochs=5,
        scheduler="timed",
        scheduler_args={"cooldown": 1},
    )
    result = run(config, Store(tmp_path))
    assert [(e.batch_size, e.micro_batch_size) for e in result.epochs] == [
        *((16, 16), (24, 24), (40, 20), (64, 16), (64, 16)),
    ]


def test_a_cpu_does_not_try_what_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the kernel would kill the process: 1 MB is free, so that no batch may grow undivided.

    Without BatchNorm the numbers are those of undivided batches.
    """
    config = dataclasses.replace(
        PLAIN, batch_size=16, max_batch_size=64, scheduler="timed", scheduler_args={"cooldown": 1}
    )
    whole = run(config, Store(tmp_path / "whole"))
    monkeypatch.setattr(device, "available_memory", lambda: 1e6)
    notes = Notes()
    split = run(config, Store(tmp_path / "split"), notes)
    assert split.batch_sizes == whole.batch_sizes == (16, 24, 40, 64)
    assert [e.micro_batch_size for e in split.epochs] == [16, 12, 14, 16]
    assert notes.notes == ["batch 24 exceeds the memory: micro-batches of 12"]
    for one, other in zip(split.epochs, whole.epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


def test_memory_for_hardly_a_sample_is_one_line(tmp_path: Path) -> None:
    Hungry.LIMIT = 1
    with pytest.raises(RunError, match="out of memory even with 2 samples at a time"):
        run(CONFIG, Store(tmp_path))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    data = blobs()
    state = make_state(PLAIN, data)
    labels = torch.full((16,), 99)
    with pytest.raises(IndexError):
        train_step(state, data, data.train_images[:16], labels, "float32")
    assert state.micro_batch_size is None


def test_moments_are_emptied_at_a_change_only_where_asked(tmp_path: Path) -> None:
    config = dataclasses.replace(
        PLAIN, epochs=6, batch_size=16, max_batch_size=48, scheduler="timed",
        scheduler_args={"cooldown": 2},
    )  # fmt: skip
    kept = run(config, Store(tmp_path))
    reset = run(dataclasses.replace(config, reset_moments=True), Store(tmp_path))
    assert kept.batch_sizes == reset.batch_sizes == (16, 16, 24, 24, 40, 40)
    same = [a.loss == b.loss for a, b in zip(kept.epochs, reset.epochs, strict=True)]
    assert same == [True, True, False, False, False, False]


def test_moments_are_emptied_in_a_resumed_run_as_in_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_run import StopNow, stop_after

    config = dataclasses.replace(
        PLAIN, batch_size=16, max_batch_size=48, scheduler="timed",
        scheduler_args={"cooldown": 2}, reset_moments=True,
    )  # fmt: skip
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    with monkeypatch.context() as patch:
        stop_after(patch, "write_bytes", 3)  # after the change, before its first update
        with pytest.raises(StopNow):
            run(config, cut)
    assert all_timeless(run(config, cut)) == all_timeless(run(config, whole))


def screen(what: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
