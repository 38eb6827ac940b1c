"""Candidates: formulas by hand, no leak between families, no order, chance on shuffled labels."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from predictor.candidates import (
    BASELINES,
    CANDIDATES,
    REHEARSED,
    RIDGE_ALPHA,
    BaseRate,
    Candidate,
    Learned,
    Physical,
    columns_of,
)
from predictor.corpus import CORPUS_READING, CorpusRow
from predictor.estimator import Predictor
from predictor.examples import (
    Example,
    case_of,
    families,
    is_deba,
    make_examples,
    usable,
    weights_by_model,
)
from predictor.features import FEATURES, replayed_time_saved_pct
from predictor.held_out import Refits
from predictor.physical import ConstantHarm, Estimates, rehearsals
from stability_probe.errors import MissingError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from tests.predictor_factories import (
    CURVE,
    FAMILIES,
    make_corpus,
    make_corpus_row,
    outcome,
    with_delta,
)

ALL = BASELINES | CANDIDATES
FAST = {name: c for name, c in ALL.items() if name != "trees"}


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return make_examples(usable(make_corpus(np.random.default_rng(0), families=FAMILIES[:4])))


def as_arrays(e: Estimates) -> np.ndarray:
    return np.array([e.probability_of_benefit, e.time_saved_pct, e.accuracy_delta_pp])


def test_a_case_is_the_row_before_its_runs() -> None:
    row = make_corpus_row(fixed_batch_sizes=(32,) * 4)
    case = case_of(row)
    assert case.profile == row.profile.first(2)
    assert (case.batch_size, case.max_batch_size, case.epochs) == (32, 256, 4)
    assert case.updates_per_epoch == 1000 / 32
    later = dataclasses.replace(
        row,
        profile_grad_norms=(*row.profile_grad_norms[:2], 77.0, 99.0),
        profile_losses=(*row.profile_losses[:2], 77.0, 99.0),
        adaptive_batch_sizes=(16, 256, 256, 256),
        adaptive_accuracies=(0.0,) * 4,
    )
    assert case_of(later) == case, "nothing after the window is in it"


def test_rows_of_a_busy_curve_a_stuck_or_no_fixed_run_or_other_schedules_are_left_out() -> None:
    kept = make_corpus_row(seed=0)
    others = [
        make_corpus_row(seed=1, curve_busy=True),
        make_corpus_row(seed=2, fixed_status="diverged"),
        make_corpus_row(seed=6, profile_losses=(2.3046, 2.3027, 2.3026, 2.3026)),
        make_corpus_row(seed=3, scheduler="timed", scheduler_args="{}"),
        make_corpus_row(seed=4, scheduler_args='{"reading": "strict"}'),
        make_corpus_row(seed=5, scheduler_args=json.dumps(CORPUS_READING | {"window": 5})),
    ]
    assert usable([*others, kept]) == [kept]
    assert not is_deba(make_corpus_row(scheduler_args='{"reading": "literal"}'))


def test_a_run_that_diverged_saves_nothing_and_loses_all() -> None:
    row = make_corpus_row(adaptive_status="diverged", adaptive_accuracies=(0.5,))
    (example,) = make_examples(usable([row]))
    assert (example.time_saved_pct, row.time_saved_pct) == (0.0, 0.0)
    assert example.accuracy_delta_pp == pytest.approx(-80.0)
    assert (example.harms, example.benefits, row.benefit_class(DEFAULT_LIMITS)) == (
        True,
        False,
        "harms",
    )


def test_many_runs_of_one_model_weigh_as_one() -> None:
    harmed, unharmed = outcome(30.0, -5.0), outcome(30.0, 1.0)
    rows = [
        *(make_corpus_row(model="many", family="a", seed=s, **harmed) for s in range(6)),
        *(make_corpus_row(model="two", family="b", seed=s, **unharmed) for s in range(2)),
        make_corpus_row(model="one", family="b", **unharmed),
    ]
    examples = make_examples(rows)
    weights = weights_by_model(examples)
    assert weights.sum() == pytest.approx(1.0)
    assert [weights[:6].sum(), weights[6:8].sum(), weights[8]] == pytest.approx([1 / 3] * 3)
    fitted = Physical(rehearsed=True).fit(examples)
    assert isinstance(fitted, ConstantHarm)
    assert fitted.harm_rate == pytest.approx(1 / 3)
    assert fitted.mean_delta_pp == pytest.approx(-1.0)


def test_order_leaves_no_trace_between_rows_of_one_model_and_seed() -> None:
    rows = [make_corpus_row(adaptive_run_id=f"run-{letter}") for letter in "abcd"]
    assert usable(rows) == usable(rows[::-1])


@pytest.mark.parametrize("name", FAST)
def test_order_of_rows_leaves_no_trace(name: str) -> None:
    rows = make_corpus(np.random.default_rng(3), families=FAMILIES[:3])
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    told = [
        as_arrays(Refits(ALL[name], make_examples(usable(r))).leave_one_out())
        for r in (rows, shuffled)
    ]
    np.testing.assert_array_equal(*told)


def test_what_saves_enough_is_told_by_the_limits_of_the_examples() -> None:
    rows = usable(make_corpus(np.random.default_rng(0), families=FAMILIES[:3]))
    usual, strict = (
        make_examples(rows, limits) for limits in (DEFAULT_LIMITS, Limits(min_time_saved_pct=95.0))
    )
    curve = ALL["curve"]
    told = [curve.fit(made).estimates([e.case for e in made]) for made in (usual, strict)]
    assert told[0].probability_of_benefit.max() > 0.5
    assert told[1].probability_of_benefit.max() == 0.0
    np.testing.assert_array_equal(told[0].time_saved_pct, told[1].time_saved_pct)


@pytest.mark.parametrize("name", FAST)
def test_a_family_never_sees_its_own_rows(name: str) -> None:
    """Poisoned outcomes and batch sequences of one family change nothing it is told."""
    rows = usable(make_corpus(np.random.default_rng(0), families=FAMILIES[:3]))
    poisoned = [
        dataclasses.replace(
            r,
            adaptive_batch_sizes=(16, 256, 256, 256),
            adaptive_accuracies=(0.1 if r.curve_saved_pct > 10 else 0.9,) * 4,
        )
        if r.family == "gamma"
        else r
        for r in rows
    ]
    before, after = (
        as_arrays(Refits(ALL[name], make_examples(r)).leave_one_out()) for r in (rows, poisoned)
    )
    own = np.array([r.family == "gamma" for r in rows])
    np.testing.assert_array_equal(before[:, own], after[:, own])
    if name != "rehearsal":  # which learns nothing but the share of harm
        assert (before[1:, ~own] != after[1:, ~own]).any(axis=0).all()


def test_held_out_estimates_are_those_of_a_fit_on_the_others(examples: list[Example]) -> None:
    refits = Refits(ALL["logistic"], examples)
    told, inner = refits.leave_one_out(), refits.leave_one_out("alpha")
    for index in range(0, len(examples), 3):
        one = examples[index]
        for without, got in (({one.family}, told), ({one.family, "alpha"}, inner)):
            others = [e for e in examples if e.family not in without]
            alone = ALL["logistic"].fit(others).estimates([one.case])
            np.testing.assert_allclose(as_arrays(got)[:, index], as_arrays(alone)[:, 0])


def test_a_corpus_of_one_family_cannot_speak_of_another(examples: list[Example]) -> None:
    with pytest.raises(MissingError, match="of another family"):
        Refits(BASELINES["majority"], [e for e in examples if e.family == "alpha"]).leave_one_out()


def test_base_rates_by_hand() -> None:
    rows = [make_corpus_row(family="a", seed=i, **outcome(30.0, 1.0)) for i in range(3)]
    rows.append(make_corpus_row(family="b", **outcome(0.0, -1.0)))
    made = make_examples(rows)
    plain = as_arrays(BaseRate().fit(made).estimates([made[0].case]))[:, 0]
    np.testing.assert_allclose(plain, [0.75, 22.5, 0.5], atol=1e-9)
    by_family = as_arrays(BaseRate(by_family=True).fit(made).estimates([made[0].case]))[:, 0]
    np.testing.assert_allclose(by_family, [0.5, 15.0, 0.0], atol=1e-9)


def test_learned_is_scikit_learns(examples: list[Example]) -> None:
    """Columns imputed and scaled by hand, the linear models by scikit-learn, no pipeline."""
    x = np.array([e.case.features for e in examples])[:, [0, 4]]
    x = np.where(np.isnan(x), np.nanmedian(x, axis=0), x)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    got = Learned(columns=(FEATURES[0], FEATURES[4])).fit(examples)
    told = got.estimates([e.case for e in examples])
    benefits = [e.benefits for e in examples]
    np.testing.assert_allclose(
        told.probability_of_benefit, Predictor().fit(x, benefits).predict_proba(x)[:, 1]
    )
    for name in ("time_saved_pct", "accuracy_delta_pp"):
        y = [getattr(e, name) for e in examples]
        ridge = Ridge(alpha=RIDGE_ALPHA).fit(z, y)
        np.testing.assert_allclose(getattr(told, name), ridge.predict(z))


def test_the_curve_replays_the_paths_of_the_others() -> None:
    """Epochs at 100, 150 and 200 samples/s; half of the rows were harmed."""
    paths = ((16, 32, 32, 32), (16, 16, 64, 64), (16, 16, 16, 16), (16, 16, 16, 16))
    rows = [
        dataclasses.replace(
            make_corpus_row(seed=i, **outcome(0.0, delta)),
            adaptive_batch_sizes=path,
            curve_batch_sizes=tuple(p.batch_size for p in CURVE.points),
            curve_samples_per_s=tuple(p.samples_per_s for p in CURVE.points),
        )
        for i, (path, delta) in enumerate(zip(paths, (0.0, -3.0, 1.0, -2.0), strict=True))
    ]
    made = make_examples(rows)
    first = 100 * (1 - (1 / 100 + 3 / 150) / (4 / 100))
    second = 100 * (1 - (2 / 100 + 2 / 200) / (4 / 100))
    assert [e.time_saved_pct for e in made] == pytest.approx([first, second, 0.0, 0.0], abs=1e-9)
    told = Physical().fit(made).estimates([made[0].case])
    assert told.time_saved_pct == pytest.approx([(first + second) / 4])
    # half of the paths save a tenth, half of the rows keep their accuracy
    assert told.probability_of_benefit == pytest.approx([0.25])
    assert told.accuracy_delta_pp == pytest.approx([-1.0])


def test_harm_is_learned_where_columns_are_given(examples: list[Example]) -> None:
    harmed = [with_delta(e, -3.0) if i % 3 == 0 else e for i, e in enumerate(examples)]
    x = np.array([e.case.features for e in examples])
    told = Physical(columns=FEATURES).fit(harmed).estimates([e.case for e in harmed])
    harm = Predictor().fit(x, [e.harms for e in harmed]).predict_proba(x)[:, 1]
    paths = tuple(e.path for e in harmed)
    enough = [np.mean(replayed_time_saved_pct(paths, e.case) >= 10) for e in harmed]
    np.testing.assert_allclose(told.probability_of_benefit, (1 - harm) * enough, atol=1e-12)
    assert len(set(told.accuracy_delta_pp)) > 1


def test_rehearsals_differ_in_what_the_signals_may_scatter_by() -> None:
    noisy = make_corpus_row(
        window_epochs=4,
        profile_losses=(2.0, 1.5, 1.6, 1.2),
        profile_grad_norms=(1.0, 1.4, 0.7, 1.2),
        profile_grad_component_variances=(1e-6, 2e-6, 5e-7, 1e-6),
    )
    paths = rehearsals(dataclasses.replace(case_of(noisy), epochs=60))
    assert len(set(paths)) > 1
    assert all(len(p) == 60 for p in paths)


def test_a_rehearsal_needs_the_case_alone(examples: list[Example]) -> None:
    one = examples[0].case
    expected = float(np.mean(replayed_time_saved_pct(rehearsals(one), one)))
    for some in (examples[:4], examples[4:]):
        told = Physical(rehearsed=True).fit(some).estimates([one])
        assert told.time_saved_pct == pytest.approx([expected])
    assert columns_of([one], (FEATURES[0], REHEARSED)) == pytest.approx(
        np.array([[one.features[0], expected]])
    )


@pytest.mark.parametrize("name", ["logistic", "gaussian process", "curve"])
def test_a_separable_rule_is_learned_for_families_never_seen(
    name: str, examples: list[Example]
) -> None:
    told = Refits(ALL[name], examples).leave_one_out()
    benefit = [e.benefits for e in examples]
    assert 0 < sum(benefit) < len(benefit)
    assert list(told.probability_of_benefit > 0.5) == benefit


@pytest.mark.parametrize("name", ["logistic", "gaussian process"])
def test_shuffled_labels_teach_nothing(name: str) -> None:
    """Brier score of held-out families against the best constant, over shuffles."""
    gaps = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        made = make_examples(usable(make_corpus(rng, families=FAMILIES[:4])))
        order = rng.permutation(len(made))
        shuffled = [
            dataclasses.replace(
                e,
                time_saved_pct=made[i].time_saved_pct,
                accuracy_delta_pp=made[i].accuracy_delta_pp,
                end_deltas_pp=made[i].end_deltas_pp,
            )
            for e, i in zip(made, order, strict=True)
        ]
        benefit = np.array([e.benefits for e in shuffled], float)
        told = Refits(ALL[name], shuffled).leave_one_out().probability_of_benefit
        gaps.append(np.mean((told - benefit) ** 2) - benefit.mean() * (1 - benefit.mean()))
    assert np.mean(gaps) > 0


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("delta", [0.0, -3.0])
def test_where_all_rows_went_one_way_that_is_all_there_is_to_say(name: str, delta: float) -> None:
    rows = [make_corpus_row(family=f, seed=i, **outcome(30.0, delta)) for i, f in enumerate("abc")]
    told = Refits(ALL[name], make_examples(rows)).leave_one_out()
    assert np.isfinite(as_arrays(told)).all()
    # Four epochs are too few for a rehearsed climb, so no time is told as saved there.
    benefits = delta == 0 and name != "rehearsal"
    assert told.probability_of_benefit == pytest.approx([float(benefits)] * 3)


def test_a_corpus_without_any_noise_scale_still_fits(examples: list[Example]) -> None:
    blind = [
        dataclasses.replace(
            e,
            case=dataclasses.replace(
                e.case, features=(*e.case.features[:4], np.nan, *e.case.features[5:])
            ),
        )
        for e in examples
    ]
    made: Candidate
    for made in (ALL["logistic"], ALL["gaussian process"]):
        assert np.isfinite(as_arrays(made.fit(blind).estimates([blind[0].case]))).all()


def test_families_are_distinct_and_sorted(examples: list[Example]) -> None:
    rows: list[CorpusRow] = make_corpus(np.random.default_rng(0), families=("b", "a"))
    assert families(make_examples(rows)) == ["a", "b"]
    assert families(examples) == sorted(FAMILIES[:4])
