"""The fitted models: no leak between families, no order, honest intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from predictor.corpus import CorpusRow
from predictor.estimator import (
    PENALTY_C,
    RIDGE_ALPHA,
    case_of,
    conformal_quantile,
    feature_range,
    fit,
    half_widths,
    leave_one_family_out,
    usable,
)
from predictor.features import make_features, replayed_time_saved_pct
from stability_probe.errors import MissingError
from tests.predictor_factories import (
    CURVE,
    FAMILIES,
    make_corpus,
    make_corpus_row,
    make_metrics,
    outcome,
)

OUTCOME = ("fixed_cpu_s", "adaptive_cpu_s", "fixed_accuracies", "adaptive_accuracies")


def with_outcomes_of(row: CorpusRow, other: CorpusRow) -> CorpusRow:
    values: dict[str, Any] = {name: getattr(other, name) for name in OUTCOME}
    return dataclasses.replace(row, **values)


@pytest.fixture
def rows() -> list[CorpusRow]:
    return usable(make_corpus(np.random.default_rng(0), families=FAMILIES[:5]))


def test_a_case_is_the_row_before_its_runs() -> None:
    row = make_corpus_row(fixed_batch_sizes=(32,) * 4, stability_score=0.7, noise_scale=None)
    case = case_of(row)
    window = make_metrics(stability_score=0.7, loss_variation=0.2, noise_scale=None)
    expected = make_features(window, CURVE, 32, row.num_params)
    np.testing.assert_array_equal(case.features, expected)
    assert (case.batch_size, case.max_batch_size, case.epochs) == (32, 256, 4)
    assert case.updates_per_epoch == 1000 / 32


def test_rows_of_runs_that_diverged_are_left_out() -> None:
    kept = make_corpus_row(seed=0)
    others = [
        make_corpus_row(seed=1, adaptive_status="diverged", adaptive_accuracies=()),
        make_corpus_row(seed=2, fixed_status="diverged"),
        make_corpus_row(seed=3, fixed_status="unfinished", adaptive_status="unfinished"),
    ]
    assert usable([*others, kept]) == [kept]


def test_order_of_rows_leaves_no_trace(rows: list[CorpusRow]) -> None:
    case = case_of(rows[0])
    first = fit(usable(rows)).estimate(case)
    held_out = leave_one_family_out(usable(rows))
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(rows))
        shuffled = usable([rows[i] for i in order])
        assert fit(shuffled).estimate(case) == first, "bit for bit"
        assert leave_one_family_out(shuffled) == held_out


def test_order_leaves_no_trace_between_rows_of_one_model_and_seed() -> None:
    rows = [make_corpus_row(adaptive_run_id=f"run-{letter}") for letter in "abcd"]
    assert usable(rows) == usable(rows[::-1])


def test_harm_and_accuracy_are_scikit_learns(rows: list[CorpusRow]) -> None:
    """Imputation and scaling by hand, the linear models by scikit-learn, no pipeline."""
    rows = [
        dataclasses.replace(r, **outcome(30.0, -3.0)) if i % 3 == 0 else r
        for i, r in enumerate(rows)
    ]
    x = np.array([case_of(r).features for r in rows])
    median = np.nanmedian(x, axis=0)
    x = np.where(np.isnan(x), median, x)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    harmed = [r.accuracy_delta_pp < -0.5 for r in rows]
    classifier = LogisticRegression(C=PENALTY_C, max_iter=1000).fit(z, harmed)
    ridge = Ridge(alpha=RIDGE_ALPHA).fit(z, [r.accuracy_delta_pp for r in rows])
    fitted = fit(rows)
    for index in (0, 1, 5, 10):
        case = case_of(rows[index])
        got = fitted.estimate(case)
        harm = classifier.predict_proba(z[index : index + 1])[0, 1]
        enough = np.mean(
            [replayed_time_saved_pct((r.adaptive_batch_sizes,), case)[0] >= 10 for r in rows]
        )
        assert got.probability_of_harm == pytest.approx(harm, abs=1e-6)
        assert got.probability_of_benefit == pytest.approx((1 - harm) * enough, abs=1e-6)
        assert got.accuracy_delta_pp == pytest.approx(ridge.predict(z[index : index + 1])[0])


def test_a_benefit_needs_time_and_no_harm() -> None:
    """Half of the known paths save enough, half of the rows were harmed."""
    grown, still = (16, 64, 256, 256), (16, 16, 16, 16)
    rows = [
        make_corpus_row(seed=i, adaptive_batch_sizes=path, **outcome(30.0, delta))
        for i, (path, delta) in enumerate(
            [(grown, 0.0), (grown, -3.0), (still, 0.0), (still, -3.0)]
        )
    ]
    got = fit(rows).estimate(case_of(rows[0]))
    assert got.probability_of_harm == pytest.approx(0.5, abs=1e-3)
    assert got.probability_of_benefit == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(("delta", "harm"), [(0.0, 0.0), (-3.0, 1.0)])
def test_where_all_rows_went_one_way_that_is_all_there_is_to_say(delta: float, harm: float) -> None:
    rows = [make_corpus_row(family=f, **outcome(30.0, delta)) for f in FAMILIES]
    got = fit(rows).estimate(case_of(rows[0]))
    assert got.probability_of_harm == harm


def test_an_empty_corpus_cannot_be_learned() -> None:
    with pytest.raises(MissingError, match="no finished pair"):
        fit([])


def test_time_saved_is_the_mean_replay_of_the_known_paths() -> None:
    rows = [
        make_corpus_row(adaptive_batch_sizes=(16, 32, 32, 32), **outcome(30.0, 0.0)),
        make_corpus_row(adaptive_batch_sizes=(16, 16, 64, 64), **outcome(0.0, 0.0)),
    ]
    # epochs at 100, 150 and 200 samples/s; four at 100 are the fixed run
    first = 1 - (1 / 100 + 3 / 150) / (4 / 100)
    second = 1 - (2 / 100 + 2 / 200) / (4 / 100)
    got = fit(rows).estimate(case_of(rows[0]))
    assert got.time_saved_pct == pytest.approx(100 * (first + second) / 2)


def test_a_family_never_sees_its_own_rows(rows: list[CorpusRow]) -> None:
    """Poisoned outcomes and batch sequences of one family change nothing it is told."""
    before = leave_one_family_out(rows)
    poisoned = [
        dataclasses.replace(
            r,
            adaptive_batch_sizes=(16, 256, 256, 256),
            **outcome(-80.0 if r.time_saved_pct > 10 else 80.0, -30.0),
        )
        if r.family == "gamma"
        else r
        for r in rows
    ]
    after = leave_one_family_out(poisoned)
    for row, old, new in zip(rows, before, after, strict=True):
        assert (old == new) == (row.family == "gamma"), row.family


def test_held_out_estimates_are_those_of_a_fit_on_the_others(rows: list[CorpusRow]) -> None:
    interleaved = rows[::2] + rows[1::2]
    told = leave_one_family_out(interleaved)
    for index in range(0, len(rows), 5):
        row = interleaved[index]
        others = [r for r in interleaved if r.family != row.family]
        assert told[index] == fit(others).estimate(case_of(row))


def test_a_separable_rule_is_learned_for_families_never_seen(rows: list[CorpusRow]) -> None:
    told = leave_one_family_out(rows)
    right = [
        (e.probability_of_benefit > 0.5) == (r.benefit_class == "benefits")
        for r, e in zip(rows, told, strict=True)
    ]
    assert {r.benefit_class for r in rows} == {"benefits", "neutral"}
    assert all(right)


def test_shuffled_labels_teach_nothing() -> None:
    """Brier score of held-out families against the base rate of the others, over shuffles."""
    gaps = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows = usable(make_corpus(rng, families=FAMILIES[:5]))
        order = rng.permutation(len(rows))
        rows = [with_outcomes_of(r, rows[i]) for r, i in zip(rows, order, strict=True)]
        benefit = np.array([r.benefit_class == "benefits" for r in rows], float)
        names = np.array([r.family for r in rows])
        p = np.array([e.probability_of_benefit for e in leave_one_family_out(rows)])
        base = np.array([benefit[names != r.family].mean() for r in rows])
        gaps.append(np.mean((p - benefit) ** 2) - np.mean((base - benefit) ** 2))
    assert np.mean(gaps) > 0


def test_a_corpus_without_any_noise_scale_still_fits(rows: list[CorpusRow]) -> None:
    fitted = fit([dataclasses.replace(r, noise_scale=None) for r in rows])
    assert math.isfinite(fitted.estimate(case_of(rows[0])).accuracy_delta_pp)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.sampled_from([0.5, 0.8, 0.9]))
def test_conformal_quantile_is_the_smallest_that_covers(errors: list[float], level: float) -> None:
    """Naive: the smallest error with at least level × (n + 1) of the errors at or below it."""
    needed = level * (len(errors) + 1)
    covering = [q for q in errors if sum(e <= q for e in errors) >= needed - 1e-9]
    assert conformal_quantile(errors, level) == min(covering, default=math.inf)


@pytest.mark.parametrize(("num_errors", "finite"), [(0, False), (8, False), (9, True), (10, True)])
def test_too_few_errors_have_no_bound(num_errors: int, finite: bool) -> None:
    assert math.isfinite(conformal_quantile([1.0] * num_errors, 0.9)) == finite


@pytest.mark.parametrize("num_errors", [12, 19, 45])
def test_intervals_cover_exchangeable_errors_as_often_as_promised(num_errors: int) -> None:
    """Exactly ⌈(n + 1)·level⌉ / (n + 1) for errors without ties."""
    rng = np.random.default_rng(num_errors)
    draws = 4000
    errors = rng.gamma(2.0, size=(draws, num_errors + 1))
    covered = np.mean([e[-1] <= conformal_quantile(list(e[:-1]), 0.9) for e in errors])
    exact = math.ceil(round(0.9 * (num_errors + 1), 9)) / (num_errors + 1)
    assert exact >= 0.9
    assert abs(covered - exact) < 4 * math.sqrt(exact * (1 - exact) / draws)


def test_half_widths_are_quantiles_of_absolute_errors(rows: list[CorpusRow]) -> None:
    told = leave_one_family_out(rows)
    time, delta = half_widths(rows, told)
    errors = [
        sorted(abs(getattr(r, name) - getattr(e, name)) for r, e in zip(rows, told, strict=True))
        for name in ("time_saved_pct", "accuracy_delta_pp")
    ]
    assert len(rows) == 20
    assert (time, delta) == (errors[0][18], errors[1][18])  # ⌈21 · 0.9⌉ = 19
    assert half_widths(rows[:8], told[:8]) == (math.inf, math.inf)


def test_feature_range_spans_the_rows_and_passes_over_undefined() -> None:
    rows = [
        make_corpus_row(stability_score=0.5, num_params=10, noise_scale=None),
        make_corpus_row(stability_score=0.9, num_params=1000, noise_scale=32.0),
        make_corpus_row(stability_score=0.7, num_params=100, noise_scale=16.0),
    ]
    low, high = feature_range(rows)
    assert (low[1], high[1]) == (0.5, 0.9)
    assert (low[5], high[5]) == (math.log(10), math.log(1000))
    assert (low[4], high[4]) == pytest.approx((math.log(1.001), math.log(2.001)))
