"""The predictor as a scikit-learn classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

PENALTY_C = 0.3
"""A strong penalty, fixed before any score was seen: few families, many features."""


class Predictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Penalised logistic regression on standardized features, undefined ones at their median.

    ``Predictor().fit(X, y).predict_proba(X)`` with X of shape [num_rows, num_features], nan where
    a feature is undefined, and any labels y, one of which may be the only one.

    C: inverse of the L2 penalty.
    """

    def __init__(self, C: float = PENALTY_C) -> None:
        self.C = C

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on X [num_rows, num_features] and one label a row."""
        X, y = validate_data(self, X, y, ensure_all_finite="allow-nan", dtype=float)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        # Of a single class there is nothing to tell apart: it has probability 1.
        self.pipeline_: Pipeline | None = (
            _pipeline(self.C).fit(X, y) if len(self.classes_) > 1 else None
        )
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each of `classes_`, shape [num_rows, num_classes]."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan", dtype=float)
        if self.pipeline_ is None:
            return np.ones((np.asarray(X).shape[0], 1))
        told: NDArray[np.float64] = self.pipeline_.predict_proba(X)
        return told

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row."""
        most_probable = self.predict_proba(X).argmax(axis=1)
        told: NDArray[Any] = self.classes_[most_probable]
        return told

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _pipeline(c: float) -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=c, max_iter=1000),
    )
