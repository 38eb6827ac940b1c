"""What a larger fixed batch did to accuracy in the corpus: the plain rival of every schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.corpus import CorpusRow, in_order
from predictor.examples import equal_weights, usable, weighted_share
from stability_probe.limits import DEFAULT_LIMITS, Limits

_COLLAPSE = 0.5
"""Share of its accuracy that a run has lost when it learned next to nothing."""


@dataclass(frozen=True, kw_only=True)
class LargerBatch:
    """A larger fixed batch beside DEBA, in runs of the same models, data and seeds."""

    factor: float
    """Of the initial batch, and of the rate."""
    num_pairs: int
    harm_rate: float
    """Share of the pairs that lost more accuracy than a benefit may; each model counts alike."""
    deba_harm_rate: float
    collapses: int
    """Pairs of which it diverged, or ended below half the accuracy of the initial batch."""
    deba_collapses: int

    def words(self, limits: Limits) -> str:
        """What it did, for a person; `limits` are those that it was made with."""
        mine, theirs = (f"in {100 * rate:.0f} %" for rate in (self.harm_rate, self.deba_harm_rate))
        told = (
            f"in the corpus one {self.factor:g} times as large as the initial, with its rate "
            f"scaled, lost more than {limits.max_accuracy_loss_pp:g} points {mine} of "
            f"{self.num_pairs} pairs, DEBA {theirs}"
        )
        if self.collapses or self.deba_collapses:
            told += f"; it learned next to nothing in {self.collapses}, DEBA in "
            told += f"{self.deba_collapses}"
        return told


def larger_batch(rows: Sequence[CorpusRow], limits: Limits = DEFAULT_LIMITS) -> LargerBatch | None:
    """Of the factor that most rows have, where the rate is scaled likewise; None without such rows.

    A run that diverged is harm.
    """
    deba = {row.fixed_run_id: row for row in usable(rows)}
    by_factor: dict[float, list[CorpusRow]] = {}
    for row in in_order(rows):
        factor = row.adaptive_batch_sizes[0] / row.fixed_batch_sizes[0]
        scaled = math.isclose(row.adaptive_lr, factor * row.lr)
        if row.scheduler == "fixed" and factor > 1 and scaled and row.fixed_run_id in deba:
            by_factor.setdefault(factor, []).append(row)
    if not by_factor:
        return None
    factor, kept = max(by_factor.items(), key=lambda item: len(item[1]))
    beside = [deba[row.fixed_run_id] for row in kept]
    weights = equal_weights([row.model for row in kept])

    def harm(of: Sequence[CorpusRow]) -> float:
        return weighted_share([row.benefit_class(limits) == "harms" for row in of], weights)

    return LargerBatch(
        factor=factor,
        num_pairs=len(kept),
        harm_rate=harm(kept),
        deba_harm_rate=harm(beside),
        collapses=sum(map(_collapsed, kept)),
        deba_collapses=sum(map(_collapsed, beside)),
    )


def _collapsed(row: CorpusRow) -> bool:
    # A run that diverged has an accuracy of zero.
    return row.accuracy_delta_pp < -100 * _COLLAPSE * row.fixed_accuracies[-1]
