"""Another run's batch sequence, open loop: as it was, or with its changes at random epochs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers.base import Proposal, hold


class Replay:
    """The batch of each epoch as in `batch_sizes`; after its end the last one stays.

    With the seed of the run it came from this repeats that run exactly; with another seed it
    shows what the sequence is worth without the signals. Raises `UsageError` for a sequence that
    is none.
    """

    cooldown = 0

    def __init__(self, *, batch_sizes: Sequence[int] = ()) -> None:
        self.batch_sizes = check_batch_sizes("replay", batch_sizes)
        # Where the run went below its initial batch, so must its replay.
        self.floor = "minimum" if min(self.batch_sizes) < self.batch_sizes[0] else "initial"

    def propose(self, record: EpochRecord) -> Proposal:
        if record.epoch >= len(self.batch_sizes):
            return hold(record, "the sequence has ended")
        wanted = self.batch_sizes[record.epoch]
        if wanted == record.batch_size:
            return hold(record, "as in the sequence")
        return Proposal(batch_size=wanted, reason="as in the sequence")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore: the sequence is an argument."""


class Random(Replay):
    """The sizes of `batch_sizes` in their order, but changed at epochs drawn with `seed`.

    As many changes as the given run, at random times: the control for when to change.
    """

    def __init__(self, *, batch_sizes: Sequence[int] = (), seed: int = 0) -> None:
        sizes = check_batch_sizes("random", batch_sizes)
        super().__init__(batch_sizes=scatter_changes(sizes, seed))

    def propose(self, record: EpochRecord) -> Proposal:
        proposal = super().propose(record)
        return Proposal(batch_size=proposal.batch_size, reason="changes at random epochs")


def scatter_changes(batch_sizes: Sequence[int], seed: int) -> tuple[int, ...]:
    """The same sizes in the same order over as many epochs, changed at random epochs.

    >>> scatter_changes([16, 24, 24, 24], seed=1)
    (16, 24, 24, 24)
    """
    levels = [b for i, b in enumerate(batch_sizes) if i == 0 or b != batch_sizes[i - 1]]
    draws = random.Random(seed).sample(  # noqa: S311 - no secret
        range(1, len(batch_sizes)), len(levels) - 1
    )
    edges = [0, *sorted(draws), len(batch_sizes)]
    lengths = [end - start for start, end in itertools.pairwise(edges)]
    return tuple(b for b, n in zip(levels, lengths, strict=True) for _ in range(n))


def check_batch_sizes(name: str, batch_sizes: object) -> tuple[int, ...]:
    """A batch sequence by epoch. Raises `UsageError` for anything else."""
    sizes = list(batch_sizes) if isinstance(batch_sizes, (list, tuple)) else []
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise UsageError(
            f"{name} needs the batch of every epoch; use --scheduler-arg run=RUN_ID, "
            "or batch_sizes=[16,16,24]"
        )
    return tuple(sizes)
