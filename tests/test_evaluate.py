"""Scores of the predictor, each recomputed the long way round."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import brier_score_loss, mean_absolute_error, recall_score

from predictor import evaluate as module
from predictor.corpus import CorpusRow
from predictor.estimator import Estimate, Fitted, case_of, fit, usable
from predictor.evaluate import (
    Scores,
    Spread,
    describe,
    evaluate,
    measure_spread,
    nested_coverage,
    no_skill,
)
from predictor.scores_summary import scores_json, scores_table
from tests.predictor_factories import FAMILIES, make_corpus, make_corpus_row, outcome

SCORES = Scores(
    num_rows=24,
    num_models=8,
    num_families=5,
    class_counts={"benefits": 12, "neutral": 12},
    balanced_accuracy=0.815,
    answered=17,
    majority_accuracy=0.625,
    accuracy=0.765,
    brier=0.2,
    brier_base_rate=0.25,
    time_saved_mae=6.44,
    time_saved_mae_mean=9.0,
    accuracy_delta_mae=0.5,
    accuracy_delta_mae_mean=0.6,
    interval_level=0.9,
    time_saved_coverage=0.9,
    accuracy_delta_coverage=0.9,
)


SPREAD = Spread(
    time_saved_mean_pct=30.0,
    time_saved_range_pct=(-1.0, 58.0),
    time_saved_seed_sd=11.0,
    time_saved_model_sd=8.0,
    accuracy_delta_mean_pp=0.1,
    accuracy_delta_seed_sd=1.8,
    accuracy_delta_model_sd=1.1,
    replay_correlation=0.98,
    replay_mae=2.0,
)


def make_table(
    monkeypatch: pytest.MonkeyPatch, lines: list[tuple[str, float, float, float, float, float]]
) -> list[CorpusRow]:
    """Rows whose held-out estimates are given: family, truth (time, delta), told (p, time,
    delta)."""
    rows = [
        make_corpus_row(family=f, model=f"{f}{i}", seed=i, **outcome(time, delta))
        for i, (f, time, delta, *_) in enumerate(lines)
    ]
    told = [
        Estimate(
            probability_of_benefit=p,
            probability_of_harm=0.0,
            time_saved_pct=time,
            accuracy_delta_pp=delta,
        )
        for *_, p, time, delta in lines
    ]
    by_row = dict(zip((r.seed for r in rows), told, strict=True))
    monkeypatch.setattr(module, "leave_one_family_out", lambda some: [by_row[r.seed] for r in some])
    return rows


def test_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_table(
        monkeypatch,
        [
            ("a", 30.0, 1.0, 0.9, 25.0, 0.5),  # benefit, told so
            ("a", 20.0, 0.0, 0.2, 25.0, 0.5),  # benefit, told not
            ("b", 30.0, -2.0, 0.7, 25.0, 0.5),  # harm, told benefit
            ("b", 5.0, 0.0, 0.3, 8.0, 0.5),  # neutral, told not
            ("b", 5.0, 0.0, 0.1, 8.0, 0.5),  # neutral, told not
            ("c", 15.0, 0.0, 0.5, 12.0, 0.5),  # benefit, no answer
        ],
    )
    got = evaluate(rows)
    assert (got.num_rows, got.num_models, got.num_families) == (6, 6, 3)
    assert got.class_counts == {"benefits": 3, "harms": 1, "neutral": 2}
    assert got.answered == 5
    assert got.accuracy == pytest.approx(3 / 5)
    assert got.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    # the majority of all rows benefits, as 2 of the 5 answered do
    assert got.majority_accuracy == pytest.approx(2 / 5)
    assert got.brier == pytest.approx((0.01 + 0.64 + 0.49 + 0.09 + 0.01 + 0.25) / 6)
    # share of benefits among the other families: a ¼, b 1, c 2/5
    base = (2 * 0.75**2 + 3 * 1.0 + 0.6**2) / 6
    assert got.brier_base_rate == pytest.approx(base)
    assert got.time_saved_mae == pytest.approx((5 + 5 + 5 + 3 + 3 + 3) / 6)
    # mean time saved of the others: a 55/4, b 65/3, c 90/5
    means = (16.25 + 6.25 + 25 / 3 + 2 * 50 / 3 + 3) / 6
    assert got.time_saved_mae_mean == pytest.approx(means)
    assert got.accuracy_delta_mae == pytest.approx((0.5 + 0.5 + 2.5 + 0.5 + 0.5 + 0.5) / 6)
    # mean accuracy change of the others: a -2/4, b 1/3, c -1/5
    means = (1.5 + 0.5 + 7 / 3 + 1 / 3 + 1 / 3 + 0.2) / 6
    assert got.accuracy_delta_mae_mean == pytest.approx(means)


@pytest.mark.parametrize("probability", [0.5, 0.95])
def test_scores_that_do_not_exist(monkeypatch: pytest.MonkeyPatch, probability: float) -> None:
    """No row answered, or only rows of one class."""
    rows = make_table(
        monkeypatch,
        [
            ("a", 30.0, 0.0, probability, 20.0, 0.0),
            ("b", 30.0, 0.0, probability, 20.0, 0.0),
            ("c", 3.0, 0.0, 0.5, 20.0, 0.0),
        ],
    )
    got = evaluate(rows)
    assert got.balanced_accuracy is None
    assert got.accuracy == (None if probability == 0.5 else 1.0)
    assert got.answered == (0 if probability == 0.5 else 2)


def naive_held_out(rows: list[CorpusRow]) -> list[Estimate]:
    told = []
    for row in rows:
        fitted = fits([o for o in rows if o.family != row.family])
        told.append(fitted.estimate(case_of(row)))
    return told


def fits(rows: list[CorpusRow]) -> Fitted:
    """The fit on these rows, made once for each set of them."""
    key = tuple(rows)
    if key not in _FITS:
        _FITS[key] = fit(rows)
    return _FITS[key]


_FITS: dict[tuple[CorpusRow, ...], Fitted] = {}


@pytest.fixture(scope="module")
def rows() -> list[CorpusRow]:
    made = make_corpus(np.random.default_rng(2), families=FAMILIES[:3], noise_pct=20.0, models=4)
    return usable(made)


def test_scores_of_real_fits_against_scikit_learn(rows: list[CorpusRow]) -> None:
    told = naive_held_out(rows)
    p = np.array([e.probability_of_benefit for e in told])
    truth = np.array([r.time_saved_pct >= 10 and r.accuracy_delta_pp >= -0.5 for r in rows])
    sure = np.abs(p - 0.5) >= 0.2
    got = evaluate(rows)
    assert 0 < got.answered == sure.sum()
    assert got.brier == pytest.approx(brier_score_loss(truth, p))
    assert got.accuracy == pytest.approx(np.mean((p > 0.5)[sure] == truth[sure]))
    recalls = [recall_score(truth[sure], p[sure] > 0.5, pos_label=k) for k in (True, False)]
    assert got.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert got.accuracy_delta_mae == pytest.approx(
        mean_absolute_error(
            [r.accuracy_delta_pp for r in rows], [e.accuracy_delta_pp for e in told]
        )
    )
    assert (got.time_saved_coverage, got.accuracy_delta_coverage) == nested_coverage(rows)


def test_nested_coverage_the_long_way(rows: list[CorpusRow]) -> None:
    """Each row's interval from fits and errors that never saw its family."""
    rows = [
        dataclasses.replace(r, **outcome(r.time_saved_pct, 3.0 * (i % 5))) if i < 7 else r
        for i, r in enumerate(rows)
    ]
    names = ("time_saved_pct", "accuracy_delta_pp")
    inside = dict.fromkeys(names, 0)
    told = naive_held_out(rows)
    for family in sorted({r.family for r in rows}):
        others = [r for r in rows if r.family != family]
        told_others = naive_held_out(others)
        for name in names:
            errors = sorted(
                abs(getattr(o, name) - getattr(e, name))
                for o, e in zip(others, told_others, strict=True)
            )
            half = errors[math.ceil(0.9 * (len(errors) + 1)) - 1]
            inside[name] += sum(
                abs(getattr(r, name) - getattr(e, name)) <= half
                for r, e in zip(rows, told, strict=True)
                if r.family == family
            )
    got = nested_coverage(rows)
    assert got == pytest.approx(tuple(inside[name] / len(rows) for name in names))
    assert 0 < got[0] < 1
    assert 0 < got[1] < 1


def test_an_odd_family_is_not_covered_by_its_own_errors() -> None:
    """A family far from all others lies outside: calibration on itself would cover it."""
    rows = usable(make_corpus(np.random.default_rng(3), families=FAMILIES[:3], models=4))
    odd = [
        dataclasses.replace(r, **outcome(-300.0, -20.0 if r.time_saved_pct > 10 else 20.0))
        if r.family == "alpha"
        else r
        for r in rows
    ]
    share = np.mean([r.family == "alpha" for r in odd])
    for coverage in nested_coverage(odd):
        assert coverage <= 1 - share + 1e-9


def test_coverage_is_near_its_level_on_families_of_one_kind() -> None:
    made = make_corpus(np.random.default_rng(5), families=FAMILIES[:5], models=4, seeds=1)
    made = [
        dataclasses.replace(r, adaptive_batch_sizes=(16,) * 4, **outcome(n, n / 20))
        for r, n in zip(made, np.random.default_rng(6).normal(10, 10, len(made)), strict=True)
    ]
    for coverage in nested_coverage(usable(made)):
        assert 0.75 <= coverage <= 1.0


def test_the_sentence_has_the_counts() -> None:
    assert describe(SCORES) == (
        "24 paired full runs of 8 models in 5 families; families held out: 17 of 24 rows "
        "answered, balanced accuracy 0.81, accuracy 0.77 (the majority class: 0.62), "
        "mean error of time saved 6.4 points"
    )
    silent = dataclasses.replace(SCORES, answered=0, balanced_accuracy=None, accuracy=None)
    assert "0 of 24 rows answered, mean error" in describe(silent)


def test_the_sentence_admits_the_worst_score() -> None:
    worst = dataclasses.replace(SCORES, balanced_accuracy=0.0, accuracy=0.0)
    assert "balanced accuracy 0.00, accuracy 0.00" in describe(worst)


@pytest.mark.parametrize(("brier", "skill"), [(0.249, True), (0.25, False), (0.3, False)])
def test_skill_is_a_brier_score_below_the_base_rates(brier: float, skill: bool) -> None:
    told = no_skill(dataclasses.replace(SCORES, brier=brier, brier_base_rate=0.25))
    assert (told is None) == skill
    if told is not None:
        assert f"{brier:.3f} against 0.250" in told


def test_scores_stand_beside_the_baseline_they_must_beat() -> None:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    console.print(scores_table(SCORES, SPREAD))
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[0] == "24 rows, 8 models, 5 families: 12 benefits, 12 neutral"
    told = " | ".join(lines)
    assert "answered 17 of 24" in told
    assert "Brier score 0.200 0.250" in told
    assert "error of time saved, points 6.44 9.00" in told
    assert len(lines) <= 24
    plain = json.loads(json.dumps(scores_json(SCORES, SPREAD), allow_nan=False))
    assert (plain["num_rows"], plain["class_counts"]["neutral"]) == (24, 12)
    assert plain["balanced_accuracy"] == 0.815


def test_skill_is_a_better_brier_score_than_the_base_rate() -> None:
    assert no_skill(SCORES) is None
    same = dataclasses.replace(SCORES, brier=0.25)
    assert "0.250 against 0.250" in (no_skill(same) or "")


def test_spread_by_hand() -> None:
    """Two models of two seeds: within each ±5 and ±1 (variances 50 and 2), means 25 and 41."""
    saved = {("a", 0): 20.0, ("a", 1): 30.0, ("b", 0): 40.0, ("b", 1): 42.0}
    rows = [
        make_corpus_row(model=model, seed=seed, **outcome(value, 1.0))
        for (model, seed), value in saved.items()
    ]
    got = measure_spread(rows)
    assert got.time_saved_mean_pct == pytest.approx(33.0)
    assert got.time_saved_range_pct == pytest.approx((20.0, 42.0))
    assert got.time_saved_seed_sd == pytest.approx(math.sqrt((50 + 2) / 2))
    assert got.time_saved_model_sd == pytest.approx(16 / math.sqrt(2))
    assert got.accuracy_delta_seed_sd == pytest.approx(0.0, abs=1e-9)
    # The path 16, 16, 32, 64 at 100, 100, 150 and 200 samples/s saves 20.8 % each time.
    assert got.replay_correlation is None
    replay = 100 * (1 - (0.02 + 1 / 150 + 1 / 200) / 0.04)
    assert got.replay_mae == pytest.approx(np.mean([abs(replay - v) for v in saved.values()]))


def test_spread_needs_seeds_and_models() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        measure_spread([make_corpus_row(model="a"), make_corpus_row(model="b")])
    with pytest.raises(ValueError, match="two models"):
        measure_spread([make_corpus_row(seed=0), make_corpus_row(seed=1)])


def test_estimates_that_are_there_are_not_made_again(
    rows: list[CorpusRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = naive_held_out(rows)
    expected = evaluate(rows)
    monkeypatch.setattr(module, "leave_one_family_out", None)
    got = evaluate(rows, told, nested=False)
    assert (got.time_saved_coverage, got.accuracy_delta_coverage) == (None, None)
    assert got.brier == pytest.approx(expected.brier)
