"""The learning curve: what more architecture families would teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.examples import families
from predictor.held_out import Refits
from predictor.scores import squared_error

SUBSETS = 5
"""Random choices of families for each family held out."""


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """Mean scores of fits on so many families, asked about one that they never saw."""

    num_families: int
    brier: float
    time_saved_mae: float
    accuracy_delta_mae: float


def learning_curve(
    refits: Refits, counts: Sequence[int] | None = None
) -> tuple[LearningPoint, ...]:
    """One point a number of families, by default 2, 3, 5, 8 and so on up to all the others."""
    names = families(refits.examples)
    most = len(names) - 1
    counts = counts or [n for n in (2, 3, 5, 8, 11, 14, 18, 24) if n < most] + [most]
    return tuple(_point(refits, names, count) for count in counts)


def _point(refits: Refits, names: Sequence[str], count: int) -> LearningPoint:
    rng = np.random.default_rng(count)
    errors = []
    for held_out in names:
        others = [n for n in names if n != held_out]
        own = np.flatnonzero(refits.family == held_out)
        truth = np.array(
            [
                (e.benefit_share, e.time_saved_pct, e.accuracy_delta_pp)
                for e in (refits.examples[i] for i in own)
            ],
            float,
        )
        for _ in range(SUBSETS if count < len(others) else 1):
            kept = set(rng.choice(others, size=count, replace=False))
            told = refits.without(*(n for n in names if n not in kept))
            p, saved, delta = (
                told.probability_of_benefit[own],
                told.time_saved_pct[own],
                told.accuracy_delta_pp[own],
            )
            errors.append(
                (
                    np.mean(squared_error(p, truth[:, 0])),
                    np.mean(np.abs(saved - truth[:, 1])),
                    np.mean(np.abs(delta - truth[:, 2])),
                )
            )
    brier, time_saved, accuracy = np.mean(errors, axis=0)
    return LearningPoint(
        num_families=count,
        brier=float(brier),
        time_saved_mae=float(time_saved),
        accuracy_delta_mae=float(accuracy),
    )
