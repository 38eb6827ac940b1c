"""How far the predictor can be trusted: scores on architecture families it never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from predictor.corpus import CorpusRow, families
from predictor.decide import ADAPT_PROBABILITY, KEEP_PROBABILITY
from predictor.estimator import (
    INTERVAL_LEVEL,
    Estimate,
    case_of,
    half_widths,
    leave_one_family_out,
)
from predictor.features import replayed_time_saved_pct


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Leave-one-family-out scores of the whole procedure on its corpus."""

    num_rows: int
    num_models: int
    num_families: int
    class_counts: dict[str, int]
    """Measured benefit classes."""
    balanced_accuracy: float | None
    """Benefit or not, among the answered rows; None when they are all of one class."""
    answered: int
    """Rows on which the probability alone gave a verdict."""
    majority_accuracy: float | None
    """The same rows, always saying the more frequent of benefit and no benefit of all rows."""
    accuracy: float | None
    """Share of right answers among the answered rows."""
    brier: float
    """Mean squared error of the probability of benefit."""
    brier_base_rate: float
    """The same for the training families' share of benefits."""
    time_saved_mae: float
    """Percentage points."""
    time_saved_mae_mean: float
    """The same for the training families' mean."""
    accuracy_delta_mae: float
    accuracy_delta_mae_mean: float
    interval_level: float
    time_saved_coverage: float | None = None
    """Nested: intervals from families other than the one held out. None where not asked for."""
    accuracy_delta_coverage: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What there is to predict: how outcomes differ, and how far the device explains them."""

    time_saved_mean_pct: float
    time_saved_range_pct: tuple[float, float]
    """Smallest and largest of all rows."""
    time_saved_seed_sd: float
    """Between seeds of one model on one data set, pooled; percentage points."""
    time_saved_model_sd: float
    """Between the means of models."""
    accuracy_delta_mean_pp: float
    accuracy_delta_seed_sd: float
    accuracy_delta_model_sd: float
    replay_correlation: float | None
    """Of measured time saved with each run's own batch sequence on the throughput curve; None
    where one of the two is constant."""
    replay_mae: float
    """Mean absolute error of the same, percentage points."""


def evaluate(
    rows: Sequence[CorpusRow],
    estimates: Sequence[Estimate] | None = None,
    *,
    nested: bool = True,
) -> Scores:
    """Score on rows that finished. Nothing here chooses anything that is scored.

    `estimates` are those of `leave_one_family_out`, where the caller has them; `nested` adds the
    coverage, which fits once for every pair of families.
    """
    estimates = leave_one_family_out(rows) if estimates is None else estimates
    benefit = np.array([r.benefit_class == "benefits" for r in rows])
    probability = np.array([e.probability_of_benefit for e in estimates])
    answered = (probability >= ADAPT_PROBABILITY) | (probability <= KEEP_PROBABILITY)
    told = probability[answered] >= ADAPT_PROBABILITY
    truth = benefit[answered]
    base_rate = _mean_of_others(rows, benefit.astype(float))
    time_saved = np.array([r.time_saved_pct for r in rows])
    delta = np.array([r.accuracy_delta_pp for r in rows])
    majority = benefit.mean() >= 0.5
    coverage = nested_coverage(rows, estimates) if nested else (None, None)
    return Scores(
        num_rows=len(rows),
        num_models=len({r.model for r in rows}),
        num_families=len(families(rows)),
        class_counts=dict(sorted(Counter(r.benefit_class for r in rows).items())),
        balanced_accuracy=(
            float(balanced_accuracy_score(truth, told)) if len(set(truth)) == 2 else None
        ),
        answered=int(answered.sum()),
        majority_accuracy=float((truth == majority).mean()) if answered.any() else None,
        accuracy=float((told == truth).mean()) if answered.any() else None,
        brier=float(np.mean((probability - benefit) ** 2)),
        brier_base_rate=float(np.mean((base_rate - benefit) ** 2)),
        time_saved_mae=_mae(time_saved, [e.time_saved_pct for e in estimates]),
        time_saved_mae_mean=_mae(time_saved, _mean_of_others(rows, time_saved)),
        accuracy_delta_mae=_mae(delta, [e.accuracy_delta_pp for e in estimates]),
        accuracy_delta_mae_mean=_mae(delta, _mean_of_others(rows, delta)),
        interval_level=INTERVAL_LEVEL,
        time_saved_coverage=coverage[0],
        accuracy_delta_coverage=coverage[1],
    )


def measure_spread(rows: Sequence[CorpusRow]) -> Spread:
    """Raises `ValueError` for fewer than two models, or no model with two seeds."""
    time_saved = [r.time_saved_pct for r in rows]
    delta = [r.accuracy_delta_pp for r in rows]
    replayed = [
        float(replayed_time_saved_pct((r.adaptive_batch_sizes,), case_of(r))[0]) for r in rows
    ]
    return Spread(
        time_saved_mean_pct=float(np.mean(time_saved)),
        time_saved_range_pct=(min(time_saved), max(time_saved)),
        time_saved_seed_sd=_seed_sd(rows, time_saved),
        time_saved_model_sd=_model_sd(rows, time_saved),
        accuracy_delta_mean_pp=float(np.mean(delta)),
        accuracy_delta_seed_sd=_seed_sd(rows, delta),
        accuracy_delta_model_sd=_model_sd(rows, delta),
        replay_correlation=(
            float(np.corrcoef(replayed, time_saved)[0, 1])
            if np.ptp(replayed) > 0 and np.ptp(time_saved) > 0
            else None
        ),
        replay_mae=_mae(np.array(time_saved), replayed),
    )


def nested_coverage(
    rows: Sequence[CorpusRow], estimates: Sequence[Estimate] | None = None
) -> tuple[float, float]:
    """Share of rows inside intervals made without their family, neither fit nor calibration."""
    inside: list[tuple[bool, bool]] = []
    estimates = leave_one_family_out(rows) if estimates is None else estimates
    for held_out in families(rows):
        others = [r for r in rows if r.family != held_out]
        time_half, delta_half = half_widths(others, leave_one_family_out(others))
        inside += [
            (
                abs(row.time_saved_pct - estimate.time_saved_pct) <= time_half,
                abs(row.accuracy_delta_pp - estimate.accuracy_delta_pp) <= delta_half,
            )
            for row, estimate in zip(rows, estimates, strict=True)
            if row.family == held_out
        ]
    time_inside, delta_inside = np.mean(inside, axis=0)
    return float(time_inside), float(delta_inside)


def no_skill(scores: Scores) -> str | None:
    """Why the corpus cannot tell one model from another, None when it can.

    A probability that is no better on held-out families than the share of benefits among the
    others says nothing about the model at hand.
    """
    if scores.brier < scores.brier_base_rate:
        return None
    return (
        "on families held out the prediction is no better than the base rate "
        f"(Brier score {scores.brier:.3f} against {scores.brier_base_rate:.3f})"
    )


def describe(scores: Scores) -> str:
    """The scores in a sentence, for every prediction to carry."""
    right = (
        f"{scores.answered} of {scores.num_rows} rows answered"
        + (
            f", balanced accuracy {scores.balanced_accuracy:.2f}"
            if scores.balanced_accuracy is not None
            else ""
        )
        + (
            f", accuracy {scores.accuracy:.2f} (the majority class: {scores.majority_accuracy:.2f})"
            if scores.accuracy is not None
            else ""
        )
    )
    return (
        f"{scores.num_rows} paired full runs of {scores.num_models} models in "
        f"{scores.num_families} families; families held out: {right}, "
        f"mean error of time saved {scores.time_saved_mae:.1f} points"
    )


def _seed_sd(rows: Sequence[CorpusRow], values: Sequence[float]) -> float:
    """Root of the mean variance over the seeds of one model on one data set."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault((row.model, row.data), []).append(value)
    variances = [np.var(group, ddof=1) for group in groups.values() if len(group) > 1]
    if not variances:
        raise ValueError("no model of the corpus has two seeds")
    return float(np.sqrt(np.mean(variances)))


def _model_sd(rows: Sequence[CorpusRow], values: Sequence[float]) -> float:
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(row.model, []).append(value)
    if len(groups) < 2:
        raise ValueError("the corpus holds fewer than two models")
    return float(np.std([np.mean(group) for group in groups.values()], ddof=1))


def _mean_of_others(rows: Sequence[CorpusRow], values: np.ndarray) -> list[float]:
    """For each row, the mean of the values of all other families."""
    names = np.array([r.family for r in rows])
    return [float(values[names != r.family].mean()) for r in rows]


def _mae(truth: np.ndarray, told: Sequence[float]) -> float:
    return float(np.mean(np.abs(truth - np.array(told))))
