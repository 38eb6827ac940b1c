"""A batch schedule as Megatron-LM's linear ramp, as near as one comes.

``--rampup-batch-size START INCREMENT SAMPLES`` (megatron/core/num_microbatches_calculator.py):
with n = (global − START) / INCREMENT, a whole number, the batch is START + INCREMENT · ⌊s·n /
SAMPLES⌋ after s samples, and ``--global-batch-size`` from SAMPLES on. Every size must be a
multiple of micro-batch times data-parallel size, and training is counted in samples
(``--train-samples``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stability_probe.errors import UsageError

_LENGTHS = 200
"""Lengths of the ramp that are tried, as fractions of all samples."""

Pieces = Sequence[tuple[float, int]]
"""(samples, batch size) in order."""


@dataclass(frozen=True, kw_only=True)
class Rampup:
    """Megatron's arguments, and how far they are from the schedule they stand for."""

    start: int
    increment: int
    samples: int
    global_batch_size: int
    train_samples: int
    error_pct: float
    """Mean over samples of |batch − batch of the run| / batch of the run."""
    updates: int

    @property
    def arguments(self) -> str:
        return (
            f"--rampup-batch-size {self.start} {self.increment} {self.samples} "
            f"--global-batch-size {self.global_batch_size} --train-samples {self.train_samples}"
        )


def fit_rampup(pieces: Sequence[tuple[int, int]]) -> Rampup:
    """The ramp with the least mean relative error over `pieces`, (samples, batch size) in order.

    Every size of the ramp is a multiple of what divides all sizes of the schedule. Raises
    `UsageError` for a batch that never changes, or falls: no ramp does that.
    """
    sizes = [size for _, size in pieces]
    for index, (before, after) in enumerate(itertools.pairwise(sizes), start=2):
        if after < before:
            raise UsageError(
                f"the batch falls from {before} to {after} in epoch {index}, and Megatron's "
                "--rampup-batch-size only grows; use --to json"
            )
    if sizes[0] == sizes[-1]:
        raise UsageError(
            f"the batch is {sizes[0]} throughout, no ramp; use --global-batch-size {sizes[0]}"
        )
    # Epochs at one size are one piece, however many they are.
    merged = [
        (float(sum(samples for samples, _ in group)), size)
        for size, group in itertools.groupby(pieces, key=lambda piece: piece[1])
    ]
    total = sum(samples for samples, _ in pieces)
    best = min(_ramps(sizes, total), key=lambda ramp: _error(merged, _pieces_of(*ramp)))
    start, end, increment, samples, _ = best
    ramp = _pieces_of(*best)
    return Rampup(
        start=start,
        increment=increment,
        samples=samples,
        global_batch_size=end,
        train_samples=total,
        error_pct=100 * _error(merged, ramp),
        updates=round(sum(length / size for length, size in ramp)),
    )


def _ramps(sizes: Sequence[int], total: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Every ramp worth trying: start, end, increment, its samples, and all samples."""
    unit = math.gcd(*sizes)
    units = (sizes[-1] - sizes[0]) // unit
    for count in range(1, units + 1):
        for part in range(1, _LENGTHS + 1):
            samples = round(total * part / _LENGTHS)
            if units % count == 0 and samples > 0:
                yield sizes[0], sizes[-1], unit * units // count, samples, total


def _pieces_of(start: int, end: int, increment: int, samples: int, total: int) -> Pieces:
    """The stages of a ramp, over `total` samples."""
    count = (end - start) // increment
    stages = [(samples / count, start + increment * stage) for stage in range(count)]
    return [*stages, (float(total - samples), end)]


def _error(pieces: Pieces, ramp: Pieces) -> float:
    """Mean over samples of the relative difference of two piecewise constant schedules."""
    ends = list(itertools.accumulate(length for length, _ in ramp))
    error = done = end = 0.0
    stage = 0
    for samples, size in pieces:
        end += samples
        while done < end:
            last = stage == len(ramp) - 1
            until = end if last else min(end, ends[stage])
            error += (until - done) * abs(ramp[stage][1] - size) / size
            done = until
            if not last and done >= ends[stage]:
                stage += 1
    return error / done
