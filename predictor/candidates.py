"""Candidate predictors, from the base rate to small trees, behind one protocol.

`predictor.evaluate` compares them on families held out. Penalties, depths and kernels were fixed
before any score was seen, so that nothing is tuned on what is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from predictor.estimator import Predictor
from predictor.examples import Example, weighted_share, weights_by_model
from predictor.features import FEATURES, Case
from predictor.physical import ConstantHarm, Estimates, Fitted, Paths, rehearsed_time_saved_pct

REHEARSED = "rehearsed_time_saved"
"""A column beside `FEATURES`: time saved by the rehearsed batch sizes on the case's curve."""
RIDGE_ALPHA = 10.0
DEPTH, LEAF, TREES = 3, 5, 100


class Candidate(Protocol):
    """A way to predict. `fit` sees examples of whole families and nothing else."""

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Fitted on at least one example."""


@dataclass(frozen=True, kw_only=True)
class BaseRate:
    """The mean of all examples, or of the means of the families, whatever the case."""

    by_family: bool = False

    def fit(self, examples: Sequence[Example]) -> Fitted:
        names = [e.family for e in examples]
        weights = np.array([1 / names.count(n) if self.by_family else 1.0 for n in names])
        outcomes = [(e.benefit_share, e.time_saved_pct, e.mean_end_delta_pp) for e in examples]
        return _Constant(*np.average(np.array(outcomes, float), axis=0, weights=weights))


@dataclass(frozen=True)
class _Constant:
    probability: float
    time_saved_pct: float
    accuracy_delta_pp: float

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        return Estimates(
            probability_of_benefit=np.full(len(cases), self.probability),
            time_saved_pct=np.full(len(cases), self.time_saved_pct),
            accuracy_delta_pp=np.full(len(cases), self.accuracy_delta_pp),
        )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A classifier of benefit and two regressors, on the same columns."""

    columns: tuple[str, ...]
    """Names of `FEATURES`, or `REHEARSED`."""
    classifier: Callable[[], Any] = Predictor
    regressor: Callable[[], Any] = lambda: Ridge(alpha=RIDGE_ALPHA)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        x = columns_of([e.case for e in examples], self.columns)
        return _Learned(
            columns=self.columns,
            benefit=_fit_classifier(self.classifier(), x, [e.benefits for e in examples]),
            time_saved=_regression(self.regressor()).fit(x, [e.time_saved_pct for e in examples]),
            accuracy=_regression(self.regressor()).fit(x, [e.accuracy_delta_pp for e in examples]),
        )


@dataclass(frozen=True, kw_only=True)
class _Learned:
    columns: tuple[str, ...]
    benefit: Any
    time_saved: Any
    accuracy: Any

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        x = columns_of(cases, self.columns)
        return Estimates(
            probability_of_benefit=_probability(self.benefit, x),
            time_saved_pct=self.time_saved.predict(x),
            accuracy_delta_pp=self.accuracy.predict(x),
        )


@dataclass(frozen=True, kw_only=True)
class Physical:
    """Time from batch sizes and the case's own throughput curve; accuracy learned, or its mean.

    The batch sizes are those of the examples' runs, or the case's own rehearsal. The share that
    saves enough is the chance of that; a benefit also needs that accuracy is not harmed. Each model
    weighs alike, so that many runs of one do not speak for all.
    """

    rehearsed: bool = False
    columns: tuple[str, ...] = ()
    """Features that tell harm; none leaves the share of harm among the examples."""

    def fit(self, examples: Sequence[Example]) -> Fitted:
        deltas = [e.mean_end_delta_pp for e in examples]
        weights = weights_by_model(examples)
        shares: dict[tuple[int, ...], float] = {}
        for e, weight in zip(examples, weights, strict=True):
            if not self.rehearsed:
                shares[e.path] = shares.get(e.path, 0.0) + float(weight)
        paths = Paths(paths=tuple(shares), shares=tuple(shares.values()), limits=examples[0].limits)
        if not self.columns:
            rate = weighted_share([e.harm_share for e in examples], weights)
            return ConstantHarm(paths=paths, harm_rate=rate, mean_delta_pp=float(weights @ deltas))
        x = columns_of([e.case for e in examples], self.columns)
        return _LearnedHarm(
            columns=self.columns,
            paths=paths,
            harm=_fit_classifier(Predictor(), x, [e.harms for e in examples]),
            accuracy=_regression(Ridge(alpha=RIDGE_ALPHA)).fit(x, deltas),
        )


@dataclass(frozen=True, kw_only=True)
class _LearnedHarm:
    columns: tuple[str, ...]
    paths: Paths
    harm: Any
    accuracy: Any

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        x = columns_of(cases, self.columns)
        return self.paths.estimates(cases, _probability(self.harm, x), self.accuracy.predict(x))


def columns_of(cases: Sequence[Case], names: Sequence[str]) -> NDArray[np.float64]:
    """The named columns, shape [num_cases, num_names]; nan where undefined."""
    index = [FEATURES.index(n) for n in names if n != REHEARSED]
    x = np.array([case.features for case in cases]).reshape(len(cases), -1)[:, index]
    if REHEARSED in names:
        saved = [float(np.mean(rehearsed_time_saved_pct(c))) for c in cases]
        x = np.column_stack([x, saved])
    return x


def _fit_classifier(classifier: Any, x: NDArray[np.float64], y: Sequence[bool]) -> Any:
    """Fitted, or the only class there is."""
    return bool(y[0]) if len(set(y)) == 1 else _imputed(classifier).fit(x, y)


def _probability(classifier: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(classifier, bool):
        return np.full(len(x), float(classifier))
    told: NDArray[np.float64] = classifier.predict_proba(x)[
        :, list(classifier.classes_).index(True)
    ]
    return told


def _imputed(model: Any) -> Any:
    """A model that takes undefined features; ours does so itself."""
    return model if isinstance(model, Predictor) else _regression(model)


def _regression(model: Any) -> Any:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), model
    )


def _smooth_kernel() -> Any:
    """As wide as the standardized columns are many: neighbours in most of them are alike."""
    return ConstantKernel(1.0, "fixed") * RBF(len(FEATURES) ** 0.5, "fixed")


_GAUSSIAN_PROCESS = Learned(
    columns=FEATURES,
    classifier=lambda: GaussianProcessClassifier(kernel=_smooth_kernel(), optimizer=None),
    regressor=lambda: GaussianProcessRegressor(
        kernel=_smooth_kernel() + WhiteKernel(1.0, "fixed"), optimizer=None, normalize_y=True
    ),
)
_TREES = Learned(
    columns=FEATURES,
    classifier=lambda: RandomForestClassifier(
        TREES, max_depth=DEPTH, min_samples_leaf=LEAF, random_state=0
    ),
    regressor=lambda: RandomForestRegressor(
        TREES, max_depth=DEPTH, min_samples_leaf=LEAF, random_state=0
    ),
)

BASELINES: dict[str, Candidate] = {
    "majority": BaseRate(),
    "family mean": BaseRate(by_family=True),
    "parameters": Learned(columns=("log_num_params",)),
    "multiply-adds": Learned(columns=("log_num_macs",)),
    "headroom": Learned(columns=("log_headroom",)),
    "stability": Learned(columns=("stability_score",)),
}
"""What a predictor must beat. No family of a new model is known, so a family's mean can only be
that of the others."""
CANDIDATES: dict[str, Candidate] = {
    "headroom + stability": Learned(columns=("log_headroom", "stability_score")),
    "logistic": Learned(columns=FEATURES),
    "gaussian process": _GAUSSIAN_PROCESS,
    "trees": _TREES,
    "curve": Physical(),
    "curve + harm": Physical(columns=FEATURES),
    "rehearsal": Physical(rehearsed=True),
    "logistic + rehearsal": Learned(columns=(*FEATURES, REHEARSED)),
}
