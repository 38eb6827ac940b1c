"""The predictor: a classifier of the benefit class, and intervals held out by family.

It is refitted from the corpus when used, which takes well under a second, so no pickled
estimator is ever loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from predictor.corpus import CorpusRow, families
from predictor.features import Case, make_features, replayed_time_saved_pct
from stability_probe import metrics
from stability_probe.errors import MissingError
from stability_probe.records import StabilityMetrics

INTERVAL_LEVEL = 0.9
"""Nominal coverage of the intervals."""
PENALTY_C = 0.3
RIDGE_ALPHA = 10.0
"""Strong penalties, fixed before any score was seen: few families, many features."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the fitted models say of one case, before any decision."""

    probability_of_benefit: float
    probability_of_harm: float
    """The rest is neutral: accuracy kept, too little time saved."""
    time_saved_pct: float
    accuracy_delta_pp: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Models fitted on some rows."""

    classifier: Pipeline
    """Of harm: more accuracy lost than a benefit may cost."""
    regressor: Pipeline
    paths: tuple[tuple[int, ...], ...]
    """Batch sequences of the rows' adaptive runs."""

    def estimate(self, case: Case) -> Estimate:
        """Time is measured, harm is learned.

        The known batch sequences are replayed on the case's own curve: their mean is the time
        saved, the share that saves enough is the chance of that. A benefit also needs no harm.
        """
        x = np.array([case.features])
        given = dict(
            zip(self.classifier.classes_, self.classifier.predict_proba(x)[0], strict=True)
        )
        harm = float(given.get(True, 0.0))
        saved = replayed_time_saved_pct(self.paths, case)
        enough = float(np.mean(saved >= metrics.MIN_TIME_SAVED_PCT))
        return Estimate(
            probability_of_harm=harm,
            probability_of_benefit=(1.0 - harm) * enough,
            time_saved_pct=float(np.mean(saved)),
            accuracy_delta_pp=float(self.regressor.predict(x)[0]),
        )


def case_of(row: CorpusRow) -> Case:
    """The case a row was before its full runs."""
    window = StabilityMetrics(
        stability_score=row.stability_score,
        grad_norm_variation=row.grad_norm_variation,
        grad_component_variance=row.grad_component_variance,
        loss_variation=row.loss_variation,
        noise_scale=row.noise_scale,
    )
    batch_size = row.fixed_batch_sizes[0]
    return Case(
        features=make_features(window, row.curve, batch_size, row.num_params),
        curve=row.curve,
        batch_size=batch_size,
        max_batch_size=row.max_batch_size,
        epochs=row.epochs,
        updates_per_epoch=row.num_train / batch_size,
    )


def usable(rows: Sequence[CorpusRow]) -> list[CorpusRow]:
    """Rows of DEBA whose two runs finished, in an order that does not depend on the file's."""
    kept = [
        r
        for r in rows
        if r.fixed_status == r.adaptive_status == "finished" and r.scheduler == "deba"
    ]
    return sorted(
        kept,
        key=lambda r: (r.family, r.model, r.data, r.seed, r.fixed_run_id, r.adaptive_run_id),
    )


def fit(rows: Sequence[CorpusRow]) -> Fitted:
    """Fit on finished rows. Raises `MissingError` when there are none."""
    if not rows:
        raise MissingError("the corpus holds no finished pair of runs; use another corpus")
    harmed = [r.benefit_class == "harms" for r in rows]
    x = np.array([case_of(r).features for r in rows])
    classifier = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        # Where nothing, or everything, was harmed there is nothing to tell apart.
        LogisticRegression(C=PENALTY_C, max_iter=1000)
        if len(set(harmed)) == 2
        else DummyClassifier(strategy="prior"),
    )
    regressor = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        Ridge(alpha=RIDGE_ALPHA),
    )
    return Fitted(
        classifier=classifier.fit(x, harmed),
        regressor=regressor.fit(x, [r.accuracy_delta_pp for r in rows]),
        paths=tuple(r.adaptive_batch_sizes for r in rows),
    )


def leave_one_family_out(rows: Sequence[CorpusRow]) -> list[Estimate]:
    """For each row, the estimate of models that never saw its family.

    Raises `MissingError` when there is no other family.
    """
    estimates: dict[int, Estimate] = {}
    for held_out in families(rows):
        fitted = fit([r for r in rows if r.family != held_out])
        for index, row in enumerate(rows):
            if row.family == held_out:
                estimates[index] = fitted.estimate(case_of(row))
    return [estimates[index] for index in range(len(rows))]


def half_widths(
    rows: Sequence[CorpusRow], estimates: Sequence[Estimate], level: float = INTERVAL_LEVEL
) -> tuple[float, float]:
    """Half widths of the intervals for time saved (%) and accuracy change (pp).

    Split-conformal quantiles of the absolute leave-one-family-out errors, of rank
    ⌈(n + 1)·level⌉ (Vovk et al.); infinite when there are too few rows for the level.
    """
    time_errors = [
        abs(r.time_saved_pct - e.time_saved_pct) for r, e in zip(rows, estimates, strict=True)
    ]
    accuracy_errors = [
        abs(r.accuracy_delta_pp - e.accuracy_delta_pp) for r, e in zip(rows, estimates, strict=True)
    ]
    return conformal_quantile(time_errors, level), conformal_quantile(accuracy_errors, level)


def conformal_quantile(errors: Sequence[float], level: float) -> float:
    """The ⌈(n + 1)·level⌉-th smallest error, infinite when there is none.

    >>> conformal_quantile([3.0, 1.0, 2.0, 4.0], 0.5)
    3.0
    """
    rank = math.ceil((len(errors) + 1) * level)
    return math.inf if rank > len(errors) else float(sorted(errors)[rank - 1])


def feature_range(rows: Sequence[CorpusRow]) -> NDArray[np.float64]:
    """Smallest and largest of each feature over the rows, shape [2, num_features]."""
    x = np.array([case_of(r).features for r in rows])
    return np.stack([np.nanmin(x, axis=0), np.nanmax(x, axis=0)])
