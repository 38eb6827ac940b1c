"""What a larger fixed batch did to accuracy in the corpus: the plain rival of every schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.corpus import CorpusRow
from predictor.examples import equal_weights, in_order, usable
from stability_probe.records import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, kw_only=True)
class LargerBatch:
    """A larger fixed batch beside DEBA, in runs of the same models, data and seeds."""

    factor: float
    """Of the initial batch, and of the rate."""
    num_pairs: int
    harm_rate: float
    """Share of the pairs that lost more accuracy than a benefit may; each model counts alike."""
    deba_harm_rate: float


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
    weights = equal_weights([row.model for row in kept])

    def harm(of: Sequence[CorpusRow]) -> float:
        harms = [row.benefit_class(limits) == "harms" for row in of]
        # A sum of weights may exceed 1 in its last digit.
        return min(1.0, float(weights @ harms))

    return LargerBatch(
        factor=factor,
        num_pairs=len(kept),
        harm_rate=harm(kept),
        deba_harm_rate=harm([deba[row.fixed_run_id] for row in kept]),
    )
