"""The predictor as a scikit-learn estimator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from predictor.estimator import PENALTY_C, Predictor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = (X[:, 0] + 0.3 * RNG.normal(size=40) > 0).astype(int)


def test_it_passes_scikit_learns_own_checks() -> None:
    """Skipped are those that need pandas or SCIPY_ARRAY_API, which are no part of this project."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = check_estimator(Predictor(), on_fail=None, on_skip=None)
    failed = {c["check_name"]: c["exception"] for c in done if c["status"] == "failed"}
    assert failed == {}
    assert sum(c["status"] == "passed" for c in done) > 45


def test_it_is_imputation_scaling_and_a_penalised_logistic_regression() -> None:
    """Imputed and scaled by hand, the linear model by scikit-learn, no pipeline."""
    x = X.copy()
    x[::7, 1] = np.nan
    filled = np.where(np.isnan(x), np.nanmedian(x, axis=0), x)
    z = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    expected = LogisticRegression(C=PENALTY_C, max_iter=1000).fit(z, Y).predict_proba(z)
    got = Predictor().fit(x, Y)
    np.testing.assert_allclose(got.predict_proba(x), expected, atol=1e-6)
    np.testing.assert_array_equal(got.predict(x), got.classes_[expected.argmax(axis=1)])


def test_a_single_class_is_all_there_is_to_say() -> None:
    got = Predictor().fit(X, ["benefits"] * len(X))
    assert list(got.classes_) == ["benefits"]
    np.testing.assert_array_equal(got.predict_proba(X), 1.0)
    assert set(got.predict(X)) == {"benefits"}


def test_a_column_that_is_never_defined_changes_nothing() -> None:
    x = np.column_stack([X, np.full(len(X), np.nan)])
    with_it, without = Predictor().fit(x, Y), Predictor().fit(X, Y)
    np.testing.assert_allclose(with_it.predict_proba(x), without.predict_proba(X), atol=1e-9)


def test_it_predicts_nothing_before_it_is_fitted() -> None:
    with pytest.raises(NotFittedError):
        Predictor().predict_proba(X)
