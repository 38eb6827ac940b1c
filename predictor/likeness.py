"""Whether a case is like those that a corpus holds: where it is not, there is no verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.features import FEATURES, Case
from predictor.recipe import too_far
from stability_probe import metrics

FEATURE_MARGIN = 0.15
"""Share of a feature's range by which a case may lie outside the corpus."""
FEATURE_WORDS = dict(
    zip(
        FEATURES,
        (
            "headroom",
            "stability",
            "norm variation",
            "loss variation",
            "noise scale",
            "number of parameters",
            "number of multiply-adds",
            "work a parameter tensor",
            "number of normalization layers",
            "BatchNorm",
        ),
        strict=True,
    )
)


@dataclass(frozen=True, kw_only=True)
class CaseRange:
    """How far the cases of a corpus reach."""

    feature_low: tuple[float, ...]
    """Smallest value of each of `FEATURES`; nan where none is defined."""
    feature_high: tuple[float, ...]
    updates_per_epoch: tuple[float, float]
    """Smallest and largest."""


def case_range(cases: Sequence[Case]) -> CaseRange:
    """Of the cases of a corpus."""
    x = np.array([case.features for case in cases])
    defined = ~np.isnan(x)
    low = np.where(defined, x, np.inf).min(axis=0)
    high = np.where(defined, x, -np.inf).max(axis=0)
    ends = np.where(defined.any(axis=0), np.stack([low, high]), np.nan)
    updates = [case.updates_per_epoch for case in cases]
    return CaseRange(
        feature_low=tuple(ends[0].tolist()),
        feature_high=tuple(ends[1].tolist()),
        updates_per_epoch=(min(updates), max(updates)),
    )


def stuck(case: Case) -> str | None:
    """Why nothing can be told of a network that does not learn, None where it does."""
    losses = case.profile.losses
    if metrics.learns(losses):
        return None
    if max(losses) > 2 * losses[0]:
        risen = f"({losses[0]:.4g} to {max(losses):.4g})"
        return f"its loss rose in the window {risen}, so that it learns nothing; use a smaller --lr"
    return (
        f"its loss hardly fell in the window ({losses[0]:.4g} to {min(losses):.4g}), so that it "
        "learns nothing yet and no batch is worth choosing; use another --lr or a longer --window"
    )


def unlike(case: Case, known: CaseRange) -> str | None:
    """Why a case is unlike everything that is known, None when it is not.

    How long a batch may grow depends on the updates of an epoch, so small data speaks for large
    data only where they are alike.
    """
    flags = ("number of updates an epoch", "--limit and -b")
    return too_far(case.updates_per_epoch, *flags, known.updates_per_epoch) or _far_feature(
        case, known
    )


def outside(name: str, value: float, low: float, high: float) -> bool:
    """Whether a feature lies outside its range in the corpus, by more than the margin; what is
    not defined does not.

    More headroom than any does not: time saved is that of the batch sizes on this very curve, and
    a card's is steeper than a processor's.
    """
    margin = FEATURE_MARGIN * (high - low)
    return bool(value < low - margin or (value > high + margin and name != "log_headroom"))


def _far_feature(case: Case, known: CaseRange) -> str | None:
    ranges = zip(FEATURES, case.features, known.feature_low, known.feature_high, strict=True)
    for name, value, low, high in ranges:
        if outside(name, value, low, high):
            side = "below" if value < low else "above"
            return f"its {FEATURE_WORDS[name]} lies {side} everything in the corpus"
    return None
