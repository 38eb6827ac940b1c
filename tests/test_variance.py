"""Components of variance, and formulas for a stability score: by hand, by loops, by simulation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from predictor import bootstrap, stability_scores
from predictor.corpus import CorpusRow
from predictor.outcomes import model_outcomes, rank_by_headroom
from predictor.stability_scores import FORMULAS, WINDOWS, compare_formulas
from predictor.variance import components, harm_shares, seed_floor, variance_shares
from tests.predictor_factories import make_corpus_row, make_profile, outcome


def test_components_of_known_variances_come_back() -> None:
    rng = np.random.default_rng(0)
    a, d, r = 25, 12, 3
    told = []
    for _ in range(100):
        got = components(
            rng.normal(0, 3.0, size=(a, 1, 1))
            + rng.normal(0, 2.0, size=(1, d, 1))
            + rng.normal(0, 1.0, size=(a, d, 1))
            + rng.normal(0, 4.0, size=(a, d, r))
        )
        parts = np.array([got.architectures, got.data_sets, got.both, got.seeds])
        told.append(parts * got.sd**2)
    np.testing.assert_allclose(np.mean(told, axis=0), [9.0, 4.0, 1.0, 16.0], rtol=0.1)
    assert (got.num_models, got.num_data, got.num_seeds) == (a, d, r)


def test_components_by_hand() -> None:
    """Two models, one data set, two seeds: 20 and 30, 40 and 42."""
    got = components(np.array([[[20.0, 30.0]], [[40.0, 42.0]]]))
    within = (50 + 2) / 2
    between = 2 * ((25 - 33) ** 2 + (41 - 33) ** 2)
    architecture = (between - within) / 2
    assert got.seeds == pytest.approx(within / (within + architecture))
    assert got.architectures == pytest.approx(architecture / (within + architecture))
    assert (got.data_sets, got.both) == (0.0, 0.0)
    assert got.sd == pytest.approx(math.sqrt(within + architecture))


def test_components_are_shares_and_never_negative() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        got = components(rng.normal(size=(3, 2, 2)))
        told = (got.architectures, got.data_sets, got.both, got.seeds)
        assert min(told) >= 0
        assert sum(told) == pytest.approx(1.0)
    same = components(np.ones((2, 2, 2)))
    assert (same.seeds, same.sd) == (0.0, 0.0)
    with pytest.raises(ValueError, match="two models"):
        components(np.ones((1, 2, 2)))


def by_batches(time_saved_pct: float, accuracy_delta_pp: float) -> dict[str, Any]:
    """As `outcome`, to a tenth of a percent, but by the batch sizes on a curve that all share."""
    grown = round(10 * time_saved_pct)
    return outcome(0.0, accuracy_delta_pp) | {
        "fixed_batch_sizes": (16,) * 900,
        "adaptive_batch_sizes": (16,) * (900 - grown) + (256,) * grown,
        "curve_batch_sizes": (16, 256),
        "curve_samples_per_s": (100.0, 1000.0),
    }


def make_rows(made: Callable[[float, float], dict[str, Any]] = by_batches) -> list[CorpusRow]:
    """Architecture and data set set the time saved, seeds move it little; one model is on one
    data set only."""
    return [
        make_corpus_row(
            family=model,
            model=model,
            data=data,
            seed=seed,
            **made(saved + shift + seed, 0.1 * seed),
        )
        for model, saved in (("a", 20.0), ("b", 40.0), ("c", 60.0), ("d", 5.0))
        for data, shift in (("digits", 0.0), ("crops", 4.0))
        for seed in (0, 1, 2)
        if (model, data) != ("d", "crops")
    ]


def test_shares_of_rows_are_those_of_their_balanced_table() -> None:
    rows = make_rows()
    got = variance_shares(rows)
    values = [
        [
            [r.curve_saved_pct for r in rows if (r.model, r.data) == (m, d)]
            for d in ("crops", "digits")
        ]
        for m in "abc"
    ]
    assert got["time_saved_pct"] == components(np.array(values))
    assert got["time_saved_pct"].architectures > 0.9
    assert got["accuracy_delta_pp"].seeds > 0.99
    assert variance_shares(rows[::-1]) == got


def test_other_recipes_are_no_seeds() -> None:
    rows = make_rows()
    cosine = [dataclasses.replace(r, lr_schedule="cosine", **outcome(0.0, 0.0)) for r in rows[:6]]
    assert variance_shares([*rows, *cosine]) == variance_shares(rows)


@pytest.mark.parametrize("rows", [[], make_rows()[:3], [make_corpus_row()] * 4])
def test_too_small_a_corpus_has_no_shares(rows: list[CorpusRow]) -> None:
    assert variance_shares(rows) == {}


def floor_of(rows: list[CorpusRow]) -> list[float | None]:
    got = seed_floor(rows, bootstrap.draw([r.family for r in rows], draws=10))
    scores = (got.brier, got.time_saved_mae, got.accuracy_delta_mae)
    return [None if s is None else s.value for s in scores]


def test_the_floor_by_hand() -> None:
    """Two seeds that benefit and one that harms; a model of one seed says nothing of seeds."""
    rows = [
        make_corpus_row(seed=seed, **by_batches(saved, delta))
        for seed, (saved, delta) in enumerate([(20.0, 1.0), (40.0, 0.0), (30.0, -2.0)])
    ]
    alone = make_corpus_row(family="other", model="other", **by_batches(90.0, 9.0))
    expected = [2 / 3 / 2, (20 + 10 + 10) / 3 / 2, (1 + 3 + 2) / 3 / 2]
    assert floor_of(rows) == pytest.approx(expected, abs=1e-4)
    assert floor_of([*rows, alone]) == floor_of(rows)
    again = dataclasses.replace(rows[0], memory_format="channels_last", fixed_run_id="again")
    assert floor_of([rows[0], again]) == [None, None, None], "the same seed is no other"
    assert floor_of([alone]) == [None, None, None]
    assert seed_floor([*rows, alone], bootstrap.draw(["a"] * 4, draws=10)).num_rows == 3


@pytest.mark.parametrize(
    "changed",
    [
        *({"lr": 0.1}, {"lr_schedule": "cosine"}, {"data": "crops"}),
        *({"num_train": 500}, {"num_test": 500}, {"max_batch_size": 64}),
    ],
)
def test_rows_of_another_recipe_or_data_are_no_seeds(changed: dict[str, Any]) -> None:
    one = make_corpus_row(seed=0, **by_batches(20.0, 1.0))
    other = dataclasses.replace(make_corpus_row(seed=1, **by_batches(40.0, -3.0)), **changed)
    assert floor_of([one, other]) == [None, None, None]


def test_seeds_of_two_machines_differ_by_their_batches_alone() -> None:
    faster = {"curve_samples_per_s": (100.0, 200.0), "device_name": "another"}
    alike = [make_corpus_row(seed=seed, **by_batches(45.0, 0.0)) for seed in range(2)]
    alike.append(dataclasses.replace(alike[0], seed=2, **faster))
    assert alike[2].curve_saved_pct == pytest.approx(25.0)
    assert floor_of(alike) == [0.0, 0.0, 0.0]
    other = [dataclasses.replace(row, model="other") for row in alike]
    assert variance_shares([*alike, *other])["time_saved_pct"].seeds == 0.0


def test_harm_by_the_mean_of_the_last_epochs() -> None:
    """The last epoch of each is an outlier; means of the last five are 80, 79.4 and 80 %."""
    ends = [(0.8, 0.8, 0.8, 0.75, 0.85), (0.8, 0.8, 0.8, 0.8, 0.77), (0.8, 0.8, 0.8, 0.7, 0.9)]
    losses = (0.003, 0.006, 0.006)
    rows = [
        make_corpus_row(
            seed=seed,
            fixed_accuracies=(0.1, 0.2, *end),
            adaptive_accuracies=(0.1, 0.2, *(end[0] - lost for _ in end)),
        )
        for seed, (end, lost) in enumerate(zip(ends, losses, strict=True))
    ]
    drawn = bootstrap.draw(["a"] * 3, draws=10)
    got = harm_shares(rows, drawn)
    assert got.deba_averaged is not None
    assert got.another_seed_averaged is not None
    # 79.7, 79.4, 79.4 beside 80, 79.4, 80.
    assert got.deba_averaged.value == pytest.approx(1 / 3)
    # The second loses to both others, and nobody else to any.
    assert got.another_seed_averaged.value == pytest.approx(2 / 6)
    assert got.another_seed is not None
    assert got.another_seed.value == pytest.approx(3 / 6), "of the last epochs alone"
    moves = [np.sqrt(np.mean(np.square(100 * np.diff([0.2, *end])))) for end in ends]
    assert got.fixed_scatter_pp is not None
    assert got.fixed_scatter_pp.value == pytest.approx(np.mean(moves))
    climbs = [100 * (end[0] - lost - 0.2) for end, lost in zip(ends, losses, strict=True)]
    assert got.deba_scatter_pp is not None
    assert got.deba_scatter_pp.value == pytest.approx(np.mean(climbs) / np.sqrt(5))
    gone = dataclasses.replace(rows[0], adaptive_status="diverged", adaptive_accuracies=(0.9, 0.1))
    lost = harm_shares([gone, *rows[1:]], drawn).deba_averaged
    assert lost is not None
    assert lost.value == pytest.approx(2 / 3)
    without = harm_shares([gone, *rows[1:]], drawn).deba_scatter_pp
    assert without is not None
    assert without.value == pytest.approx(np.mean(climbs[1:]) / np.sqrt(5))


def test_shares_of_harm_by_hand() -> None:
    """Fixed runs that end at 80, 79 and 79.6 %; DEBA's at 0.3, 0.6 and 0.5 points less."""
    ends = [(0.78, 0.8), (0.8, 0.79), (0.79, 0.796)]
    rows = [
        make_corpus_row(
            seed=seed,
            fixed_accuracies=(0.5, 0.6, *end),
            adaptive_accuracies=(0.5, 0.6, 0.7, end[1] - lost),
        )
        for seed, (end, lost) in enumerate(zip(ends, (0.003, 0.006, 0.005), strict=True))
    ]
    alone = make_corpus_row(
        model="other",
        fixed_accuracies=(0.5,),
        adaptive_status="diverged",
        adaptive_accuracies=(),
    )
    got = harm_shares(rows, bootstrap.draw(["a"] * 3, draws=10))
    assert got.deba is not None
    assert got.another_seed is not None
    assert got.one_epoch is not None
    assert got.deba.value == pytest.approx(1 / 3)
    # The second is 1 and 0.6 points below the others, the third 0.4 below the first.
    assert got.another_seed.value == pytest.approx(2 / 6)
    assert got.one_epoch.value == pytest.approx(1 / 3)
    assert got.beyond_luck is not None
    assert got.beyond_luck.value == pytest.approx((0 + (1 - 1) + 0) / 3)
    more = harm_shares([*rows, alone], bootstrap.draw(["a"] * 3 + ["b"], draws=10))
    assert (more.another_seed, more.one_epoch) != (None, None)
    assert more.deba is not None
    assert more.deba.value == pytest.approx(2 / 4), "a run that diverged has lost all"
    assert more.another_seed == pytest.approx(got.another_seed)
    assert more.one_epoch == pytest.approx(got.one_epoch)
    worse = dataclasses.replace(rows[0], adaptive_accuracies=(0.5, 0.6, 0.7, 0.79))
    lost = harm_shares([worse, *rows[1:], alone], bootstrap.draw(["a"] * 3 + ["b"], draws=10))
    assert lost.beyond_luck is not None
    assert lost.beyond_luck.value == pytest.approx(1 / 3), "of what has both"


outcomes = st.tuples(st.floats(0, 90), st.floats(-9, 9))


@given(seeds=st.lists(outcomes, min_size=2, max_size=5), told=outcomes)
def test_nothing_told_of_all_seeds_errs_less_than_the_floor(
    seeds: list[tuple[float, float]], told: tuple[float, float]
) -> None:
    rows = [make_corpus_row(seed=i, **by_batches(*seed)) for i, seed in enumerate(seeds)]
    _, time, accuracy = floor_of(rows)
    assert time is not None
    assert accuracy is not None
    assert np.mean([abs(r.curve_saved_pct - told[0]) for r in rows]) >= time - 1e-9
    assert np.mean([abs(r.accuracy_delta_pp - told[1]) for r in rows]) >= accuracy - 1e-9


def test_the_brier_floor_is_what_the_true_probabilities_score() -> None:
    rng = np.random.default_rng(0)
    rows, losses = [], []
    for index in range(1500):
        p = rng.uniform()
        for seed in range(3):
            benefits = rng.uniform() < p
            losses.append((p - benefits) ** 2)
            rows.append(
                make_corpus_row(
                    family=f"f{index}",
                    model=f"m{index}",
                    seed=seed,
                    **by_batches(40.0, 0.0 if benefits else -2.0),
                )
            )
    assert floor_of(rows)[0] == pytest.approx(np.mean(losses), rel=0.06)
    assert np.mean(losses) == pytest.approx(1 / 6, rel=0.1)


NORMS = (1.0, 0.5, 0.6, 0.4)
PROFILE = make_profile(
    NORMS,
    losses=(2.0, 1.0, 1.5, 1.5),
    grad_norms_last=(1.0, 3.0, 2.0, 2.0),
    grad_component_variances=(4.0, 4.0, 1.0, 1.0),
    trace_sigma=32.0,
    grad_sq_norm=2.0,
)


def cv(values: tuple[float, ...]) -> float:
    return float(np.std(values, ddof=1) / np.mean(values))


def test_each_formula_by_hand() -> None:
    logs = np.log(NORMS)
    slope, level = np.polyfit(np.arange(4), logs, 1)
    left = logs - level - slope * np.arange(4)
    expected = {
        "CV of the norm": cv(NORMS),
        "from epoch 2": cv(NORMS[1:]),
        "detrended norm": math.sqrt((left**2).sum() / 2),
        "norm variation": (0.5 + 0.2 + 1 / 3) / 3,
        "largest variation": 0.5,
        "loss variation": (0.5 + 0.5 + 0.0) / 3,
        "component variance": cv((4.0, 4.0, 1.0, 1.0)),
        "last mini-batch": cv((1.0, 3.0, 2.0, 2.0)),
        # a signal of 2 beside a noise of 32 / 16 in a batch of 16
        "signal share": 1.0,
    }
    for name, formula in FORMULAS.items():
        assert formula(PROFILE, 16) == pytest.approx(1 / (1 + expected[name])), name
    assert len(FORMULAS) >= 6


def test_formulas_that_need_more_epochs_or_noise_say_nothing() -> None:
    two = PROFILE.first(2)
    undefined = {n for n, f in FORMULAS.items() if f(two, 16) is None}
    assert undefined == {"from epoch 2", "detrended norm", "signal share"}
    blind = dataclasses.replace(PROFILE, trace_sigma=None)
    assert FORMULAS["signal share"](blind, 16) is None


def make_steady_rows() -> list[CorpusRow]:
    """Models whose norm falls at their own pace save time in that order, but for two."""
    rng = np.random.default_rng(0)
    rows = []
    for index, saved in enumerate((10.0, 30.0, 20.0, 40.0, 50.0, 60.0)):
        for seed in range(3):
            norms = np.exp(-(0.05 + 0.1 * index + 0.002 * rng.normal()) * np.arange(4))
            rows.append(
                make_corpus_row(
                    family=f"f{index}",
                    model=f"m{index}",
                    seed=seed,
                    profile_grad_norms=tuple(map(float, norms)),
                    **outcome(saved, 0.0),
                )
            )
    return rows


def test_a_score_of_noise_alone_does_not_repeat() -> None:
    """With two seeds their means scatter by half of what seeds do: that is no repeatability."""
    rng = np.random.default_rng(0)
    rows = [
        make_corpus_row(
            family=f"f{index}",
            model=f"m{index}",
            seed=seed,
            profile_grad_norms=tuple(np.exp(0.3 * rng.standard_normal(4)).tolist()),
        )
        for index in range(200)
        for seed in range(2)
    ]
    (told,) = (f for f in compare_formulas(rows) if (f.name, f.window) == ("CV of the norm", 4))
    assert told.repeatability is not None
    assert told.repeatability.value == pytest.approx(0.0, abs=0.15)


def test_repeatability_and_rank_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability_scores, "DRAWS", 50)
    rows = make_steady_rows()
    told = {(f.name, f.window): f for f in compare_formulas(rows)}
    assert {w for _, w in told} == {w for w in WINDOWS if w <= 4}
    got = told["CV of the norm", 3]
    scores = np.array(
        [
            [1 / (1 + cv(r.profile_grad_norms[:3])) for r in rows if r.model == f"m{i}"]
            for i in range(6)
        ]
    )
    assert got.repeatability is not None
    assert got.repeatability.value == pytest.approx(
        scores.mean(axis=1).var(ddof=1) / scores.var(axis=1, ddof=1).mean() - 1 / scores.shape[1]
    )
    assert got.rank_time_saved is not None
    saved = [r.curve_saved_pct for r in rows if r.seed == 0]
    assert got.rank_time_saved.value == pytest.approx(
        spearmanr(scores.mean(axis=1), saved).statistic
    )
    assert got.rank_time_saved.low <= got.rank_time_saved.value <= got.rank_time_saved.high
    assert got.rank_accuracy is None, "all changes are alike"
    assert told["largest variation", 4].repeatability is not None
    assert compare_formulas(rows) == compare_formulas(rows)


def test_each_architectures_outcome_and_the_rank_by_headroom() -> None:
    rows = make_rows(outcome)
    told = model_outcomes(rows)
    assert [m.model for m in told] == ["c", "b", "a", "d"]
    a = told[2]
    assert (a.num_rows, told[3].num_rows) == (6, 3)
    saved = [r.curve_saved_pct for r in rows if r.model == "a"]
    assert (a.time_saved_pct.mean, a.time_saved_pct.std) == (
        pytest.approx(np.mean(saved)),
        pytest.approx(np.std(saved, ddof=1)),
    )
    assert a.headroom == pytest.approx(
        np.mean([r.curve_samples_per_s[1] / 100 for r in rows if r.model == "a"])
    )
    assert a.stability_score.std == 0.0
    assert (a.benefits, told[3].benefits) == (6, 0)
    rank = rank_by_headroom(rows)
    assert rank is not None
    assert rank.value == pytest.approx(
        spearmanr([m.headroom for m in told], [m.time_saved_pct.mean for m in told]).statistic
    )
    assert rank_by_headroom([r for r in rows if r.model in "ab"]) is None


def test_two_architectures_tell_no_rank() -> None:
    rows = [r for r in make_steady_rows() if r.family in ("f0", "f1")]
    assert all(f.rank_time_saved is None for f in compare_formulas(rows))
