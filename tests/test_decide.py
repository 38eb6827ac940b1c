"""From estimates to a verdict, and when none can be given."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from predictor import predict
from predictor.candidates import CANDIDATES
from predictor.corpus import CorpusRow, format_corpus, load_corpus
from predictor.decide import (
    ADAPT_PROBABILITY,
    KEEP_PROBABILITY,
    decide,
    larger_fixed_batch,
    too_little_headroom,
)
from predictor.examples import make_examples, usable
from predictor.features import FEATURES, make_cases
from predictor.fitted import FittedPredictor, fitted_predictor
from predictor.held_out import Refits, intervals
from predictor.likeness import CaseRange
from predictor.physical import CHOSEN, INTERVAL_LEVEL, Estimates, Intervals
from predictor.recipe import recipe_of
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, Prediction
from tests.factories import make_curve
from tests.predictor_factories import (
    FAMILIES,
    make_case,
    make_characterization,
    make_corpus,
    make_corpus_row,
    make_size,
    outcome,
)

FITTED = FittedPredictor(
    key="",
    limits=DEFAULT_LIMITS,
    recipe=recipe_of(make_characterization().config),
    run_epochs=(60, 60),
    harm_rate=0.2,
    mean_delta_pp=0.1,
    time_saved_half_width=10.0,
    accuracy_delta_half_width=2.0,
    known=CaseRange(
        feature_low=(0.0,) * len(FEATURES),
        feature_high=(2.0,) * len(FEATURES),
        updates_per_epoch=(20.0, 100.0),
    ),
    recipes=(),
    no_skill=None,
    only_verdict=None,
    basis="few rows",
    larger=None,
    models=(),
    other_seeds=(),
)


def make_estimate(
    probability: float, time_saved: float = 20.0, delta: float = 0.5
) -> tuple[float, float, float]:
    return probability, time_saved, delta


def make_decision(
    *estimates: tuple[float, float, float], half_width: float = 8.0, **fields: Any
) -> Prediction:
    """Intervals reach as far to either side of each seed's estimate, 1.5 points for accuracy."""
    values: dict[str, Any] = {"unlike": None, "basis": "few rows"}
    probability, saved, delta = np.array(estimates).T
    told = Estimates(
        probability_of_benefit=probability, time_saved_pct=saved, accuracy_delta_pp=delta
    )
    ends = Intervals(
        time_saved_pct=np.stack([saved - half_width, saved + half_width], axis=1),
        accuracy_delta_pp=np.stack([delta - 1.5, delta + 1.5], axis=1),
    )
    return decide(told, ends, **(values | fields))


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [
        (1.0, "adapt"),
        (ADAPT_PROBABILITY, "adapt"),
        (ADAPT_PROBABILITY - 1e-9, "abstain"),
        (0.5, "abstain"),
        (KEEP_PROBABILITY + 1e-9, "abstain"),
        (KEEP_PROBABILITY, "keep_fixed"),
        (0.0, "keep_fixed"),
    ],
)
def test_verdict_at_the_thresholds(probability: float, verdict: str) -> None:
    prediction = make_decision(make_estimate(probability))
    assert prediction.verdict == verdict
    assert f"probability {probability:.2f}" in prediction.reason
    assert ("between" in prediction.reason) == (verdict == "abstain")


def test_thresholds_leave_a_gap() -> None:
    assert 0 < KEEP_PROBABILITY < 0.5 < ADAPT_PROBABILITY < 1


@pytest.mark.parametrize("probabilities", [(0.95, 0.1), (0.95, 0.95, 0.5), (0.1, 0.69)])
def test_seeds_that_disagree_give_no_verdict(probabilities: tuple[float, ...]) -> None:
    prediction = make_decision(*map(make_estimate, probabilities))
    assert prediction.verdict == "abstain"
    assert prediction.reason == "the seeds disagree"
    assert prediction.probability_of_benefit == pytest.approx(np.mean(probabilities))


def test_seeds_that_agree_are_averaged() -> None:
    prediction = make_decision(
        make_estimate(0.8, 10.0, 1.0), make_estimate(0.9, 20.0, -0.5), make_estimate(1.0, 33.0, 1.0)
    )
    assert prediction.verdict == "adapt"
    assert prediction.probability_of_benefit == pytest.approx(0.9)
    assert prediction.time_saved_pct == pytest.approx(21.0)
    assert prediction.accuracy_delta_pp == pytest.approx(0.5)


@pytest.mark.parametrize(("low", "verdict"), [(10.0, "adapt"), (9.0, "abstain")])
def test_an_interval_that_spans_the_decision_gives_no_verdict(low: float, verdict: str) -> None:
    prediction = make_decision(make_estimate(0.95, 30.0), half_width=30.0 - low)
    assert prediction.verdict == verdict
    assert ("reaches below the 10 %" in prediction.reason) == (verdict == "abstain")
    # Where accuracy is what speaks against it, the interval of the time does not matter.
    kept = make_decision(make_estimate(0.05, 30.0), half_width=30.0 - low)
    assert kept.verdict == "keep_fixed"


@pytest.mark.parametrize(("high", "verdict"), [(9.9, "keep_fixed"), (10.0, "abstain")])
def test_nothing_is_kept_fixed_for_a_time_that_may_be_saved(high: float, verdict: str) -> None:
    prediction = make_decision(make_estimate(0.1, 4.0), half_width=high - 4.0)
    assert prediction.verdict == verdict
    assert ("reaches above the 10 %" in prediction.reason) == (verdict == "abstain")


def test_intervals_are_averaged_over_seeds() -> None:
    prediction = make_decision(
        make_estimate(0.9, 18.0, 0.0), make_estimate(0.9, 22.0, 1.0), basis="b", alternative="a"
    )
    assert prediction.time_saved_interval_pct == (12.0, 28.0)
    assert prediction.accuracy_delta_interval_pp == (-1.0, 2.0)
    assert prediction.interval_level == INTERVAL_LEVEL
    assert (prediction.basis, prediction.alternative) == ("b", "a")


def test_a_case_unlike_the_corpus_gets_numbers_but_no_verdict() -> None:
    prediction = make_decision(make_estimate(0.99), unlike="its size lies above everything")
    assert prediction.verdict == "abstain"
    assert prediction.reason == "its size lies above everything"
    assert prediction.probability_of_benefit == 0.99
    assert prediction.time_saved_pct == 20.0
    # Their width is that of the corpus' errors, which are none of this case.
    assert prediction.time_saved_interval_pct is None
    assert prediction.accuracy_delta_interval_pp is None


def test_a_corpus_too_small_for_an_interval_gives_no_verdict() -> None:
    prediction = make_decision(make_estimate(0.99), half_width=math.inf)
    assert (prediction.verdict, prediction.time_saved_interval_pct) == ("abstain", None)
    assert prediction.reason == "the corpus is too small for an interval"


def test_without_skill_there_is_an_interval_but_no_verdict() -> None:
    prediction = make_decision(make_estimate(0.99), no_skill="nothing was learned")
    assert (prediction.verdict, prediction.reason) == ("abstain", "nothing was learned")
    assert prediction.time_saved_interval_pct == (12.0, 28.0)
    both = make_decision(make_estimate(0.99), unlike="it is unlike all", no_skill="nothing")
    assert both.reason == "it is unlike all"


def test_where_all_are_alike_only_their_verdict_is_left() -> None:
    for only, other in (("adapt", 0.1), ("keep_fixed", 0.9)):
        same = make_decision(make_estimate(1.0 - other), only=only, half_width=5.0)
        assert same.verdict == only
        contrary = make_decision(make_estimate(other), only=only, half_width=5.0)
        assert contrary.verdict == "abstain"
        assert "which tells nothing of those that do" in contrary.reason
        assert f"probability {other:.2f}" in contrary.reason
    between = make_decision(make_estimate(0.5), only="adapt")
    assert "which tells nothing" not in between.reason
    # That no schedule can pay off follows from the device alone.
    assert make_decision(make_estimate(0.1), only="adapt", hopeless="flat").verdict == "keep_fixed"


def test_the_limits_are_those_of_the_user() -> None:
    limits = Limits(min_time_saved_pct=25.0, max_accuracy_loss_pp=2.0)
    told = make_decision(make_estimate(0.9, 40.0), limits=limits)
    assert (told.verdict, told.limits) == ("adapt", limits)
    assert "at least 25 % less time, at most 2 points less accuracy" in told.reason
    short = make_decision(make_estimate(0.9, 30.0), limits=limits)
    assert "reaches below the 25 %" in short.reason
    assert make_decision(make_estimate(0.9, 30.0)).verdict == "adapt"
    gain = make_case(curve=make_curve((16, 64), (100.0, 125.0)))  # 20 % at most
    assert too_little_headroom(gain, DEFAULT_LIMITS) is None
    assert "more than 20 %" in (too_little_headroom(gain, limits) or "")
    assert larger_fixed_batch(make_case(), 20.0, DEFAULT_LIMITS) is not None
    assert larger_fixed_batch(make_case(), 20.0, limits) is None


@pytest.mark.parametrize(
    ("top", "hopeless"), [(100.0, True), (111.0, True), (111.2, False), (300.0, False)]
)
def test_no_schedule_saves_more_than_the_headroom_allows(top: float, hopeless: bool) -> None:
    """A tenth is saved when the fastest batch is 1 / 0.9 = 1.111 times as fast."""
    told = too_little_headroom(make_case(curve=make_curve((16, 64), (100.0, top))), DEFAULT_LIMITS)
    assert (told is not None) == hopeless
    if hopeless:
        decision = make_decision(make_estimate(0.0), hopeless=told, unlike="it is unlike all")
        assert decision.verdict == "keep_fixed"
        assert "no schedule can save more than" in decision.reason


@pytest.mark.parametrize(
    ("stopped_by", "words"),
    [
        (None, "no batch may be larger than 16, so that no schedule can grow"),
        ("out of memory at batch 32", "so that a larger batch runs in parts and saves no time"),
    ],
)
def test_where_no_batch_is_larger_the_device_is_not_to_blame(
    stopped_by: str | None, words: str
) -> None:
    curve = dataclasses.replace(make_curve((16,), (100.0,)), stopped_by=stopped_by)
    told = too_little_headroom(make_case(curve=curve, max_batch_size=16), DEFAULT_LIMITS)
    assert told is not None
    assert words in told
    assert "fast" not in told


def test_a_flat_curve_is_an_answer_even_where_the_corpus_has_none(corpus: Any) -> None:
    flat = make_curve((16, 32, 64, 128, 256), (100.0, 101.0, 102.0, 103.0, 104.0))
    unlike = {"size": make_size(num_params=10**10), "config": {"optimizer": "adamw"}}
    kept = predict(make_characterization(curve=flat, **unlike), corpus)
    assert kept.verdict == "keep_fixed"
    assert kept.probability_of_benefit == 0.0
    busy = dataclasses.replace(flat, busy=True)
    assert predict(make_characterization(curve=busy, **unlike), corpus).verdict == "abstain"


def test_that_no_larger_batch_is_possible_needs_no_quiet_machine(corpus: Any) -> None:
    one = dataclasses.replace(make_curve((16,), (100.0,)), busy=True)
    assert predict(make_characterization(curve=one), corpus).verdict == "keep_fixed"


def test_a_busy_machine_offers_no_plainer_batch(corpus: Any) -> None:
    curve = gains().curve
    assert predict(make_characterization(curve=curve), corpus).alternative is not None
    busy = dataclasses.replace(curve, busy=True)
    assert predict(make_characterization(curve=busy), corpus).alternative is None


def test_the_smallest_larger_batch_that_saves_as_much() -> None:
    # 100, 150, 200, 240, 250 samples/s: 33, 50, 58 and 60 % saved
    assert (larger_fixed_batch(make_case(), 30.0, DEFAULT_LIMITS) or "").startswith(
        "a plain fixed batch of 32 "
    )
    told = larger_fixed_batch(make_case(), 34.0, DEFAULT_LIMITS)
    assert told is not None
    assert "fixed batch of 64 would save 50 %" in told
    assert "accuracy was not measured" in told
    assert larger_fixed_batch(make_case(), 61.0, DEFAULT_LIMITS) is None
    assert "of 256 would save 20 %" in (
        larger_fixed_batch(make_case(batch_size=64), 18.0, DEFAULT_LIMITS) or ""
    )


def test_a_smaller_batch_is_never_named_even_where_it_is_faster() -> None:
    dip = make_curve((16, 32, 64), (200.0, 100.0, 130.0))
    told = larger_fixed_batch(make_case(curve=dip, batch_size=32), 20.0, DEFAULT_LIMITS)
    assert told is not None
    assert "fixed batch of 64 would save 23 %" in told
    assert larger_fixed_batch(make_case(curve=dip, batch_size=32), 30.0, DEFAULT_LIMITS) is None


def test_no_larger_batch_is_named_where_nothing_is_saved() -> None:
    assert larger_fixed_batch(make_case(), 9.99, DEFAULT_LIMITS) is None
    assert larger_fixed_batch(make_case(), -5.0, DEFAULT_LIMITS) is None
    assert larger_fixed_batch(make_case(batch_size=256), 10.0, DEFAULT_LIMITS) is None
    falling = make_curve((16, 32), (100.0, 90.0))
    assert larger_fixed_batch(make_case(curve=falling), 10.0, DEFAULT_LIMITS) is None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("corpus") / "corpus.csv"
    path.write_text(format_corpus(long_runs(np.random.default_rng(0))))
    return path


def long_runs(rng: np.random.Generator) -> list[CorpusRow]:
    """Of as many epochs as a run that is asked about."""
    rows = make_corpus(rng, families=FAMILIES[:5])
    return [dataclasses.replace(row, epochs=60) for row in rows]


def gains() -> Characterization:
    return make_characterization(
        curve=make_curve((16, 32, 64, 128, 256), (100.0, 150.0, 200.0, 250.0, 340.0)),
        config={"epochs": 60},
    )


def test_a_prediction_follows_the_headroom(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether real rows give skill is a matter of the corpus, not of the decision.
    monkeypatch.setattr(
        "predictor.prediction.fitted_predictor",
        lambda *args, **asked: dataclasses.replace(
            fitted_predictor(*args, **asked), no_skill=None, harm_rate=0.1
        ),
    )
    prediction = predict(gains(), corpus)
    assert prediction.verdict == "adapt"
    assert (prediction.time_saved_interval_pct or (0.0,))[0] >= 10
    assert "batch of 128 would save 60 %" in (prediction.alternative or "")
    assert "20 paired full runs of 10 models in 5 families" in prediction.basis
    flat = make_characterization(
        curve=make_curve((16, 32, 64, 128, 256), (100.0, 101.0, 102.0, 103.0, 104.0))
    )
    kept = predict(flat, corpus)
    assert (kept.verdict, kept.alternative) == ("keep_fixed", None)


def test_what_costs_a_point_is_worth_it_to_those_who_allow_two(tmp_path: Any) -> None:
    names = [f"family{i}" for i in range(10)]
    rows = [
        dataclasses.replace(row, epochs=60, adaptive_accuracies=(*row.fixed_accuracies[:-1], 0.79))
        for row in make_corpus(np.random.default_rng(0), families=names)
    ]
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(rows))
    strict, lenient = predict(gains(), path), predict(gains(), path, Limits(max_accuracy_loss_pp=2))
    assert (strict.verdict, strict.probability_of_benefit) == ("keep_fixed", 0.0)
    assert lenient.verdict == "adapt"
    assert "100 % of those with headroom benefited (100 to 100)" in lenient.basis
    assert lenient.time_saved_pct == strict.time_saved_pct


def test_a_prediction_averages_estimates_and_intervals_of_its_seeds(corpus: Any) -> None:
    examples = make_examples(usable(load_corpus(corpus)))
    cases = make_cases(gains())
    told = CANDIDATES[CHOSEN].fit(examples).estimates(cases)
    ends = intervals(
        Refits(CANDIDATES[CHOSEN], examples, cases), [len(examples), len(examples) + 1]
    )
    prediction = predict(gains(), corpus)
    assert len(cases) == 2
    for name in ("probability_of_benefit", "time_saved_pct", "accuracy_delta_pp"):
        assert getattr(prediction, name) == pytest.approx(getattr(told, name).mean())
    assert prediction.time_saved_interval_pct == pytest.approx(ends.time_saved_pct.mean(axis=0))
    assert prediction.accuracy_delta_interval_pp == pytest.approx(
        ends.accuracy_delta_pp.mean(axis=0)
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config": {"optimizer": "adamw"}}, "adamw"),
        ({"config": {"lr": 1.0}}, "its learning rate is 1, and the corpus speaks for 0.0025 to"),
        ({"config": {"window_epochs": 3}}, "a window of 3 epochs"),
        ({"config": {"lr_schedule": "cosine"}}, "cosine learning rate"),
        ({"curve": dataclasses.replace(gains().curve, busy=True)}, "busy"),
        ({"num_train": 10**6}, "updates an epoch"),
        ({"size": make_size(num_params=10**10)}, "number of parameters lies above"),
        ({"norms": ((1.0, 0.7), (1.0, 90.0))}, "stability lies below"),
    ],
)
def test_a_prediction_abstains_where_the_corpus_says_nothing(
    corpus: Any, change: dict[str, Any], why: str
) -> None:
    prediction = predict(make_characterization(**({"curve": gains().curve} | change)), corpus)
    assert prediction.verdict == "abstain"
    assert why in prediction.reason


def test_nothing_is_told_of_a_network_that_does_not_learn(corpus: Any) -> None:
    """Dead units lose no accuracy at any batch: that is no benefit."""

    def told(losses: tuple[float, ...], **fields: Any) -> Prediction:
        c = dataclasses.replace(gains(), **fields)
        windows = [
            tuple(dataclasses.replace(e, loss=x) for e, x in zip(w, losses, strict=True))
            for w in c.windows
        ]
        # One seed of two is enough.
        return predict(dataclasses.replace(c, windows=(windows[0], *c.windows[1:])), corpus)

    dead = (2.3046, 2.3027)
    stuck = told(dead)
    assert (stuck.verdict, stuck.alternative) == ("abstain", None)
    assert stuck.reason.startswith("its loss hardly fell in the window (2.305 to 2.303)")
    assert stuck.time_saved_interval_pct is None
    assert "hardly fell" not in told((2.3, 2.0)).reason
    exploded = told((2.3, 7e6)).reason
    assert exploded.startswith("its loss rose in the window (2.3 to 7e+06)")
    assert "use a smaller --lr" in exploded
    # That weighs more than an unknown recipe; what another try may change is told last.
    odd, busy = (
        {**gains().config, "optimizer": "adamw"},
        dataclasses.replace(gains().curve, busy=True),
    )
    assert "hardly fell" in told(dead, config=odd).reason
    after = "; and the machine was busy while the throughput was measured"
    assert told(dead, curve=busy).reason == f"{stuck.reason}{after}"
    known = told((2.3, 2.0), config=odd).reason
    assert told((2.3, 2.0), config=odd, curve=busy).reason == f"{known}{after}"


def test_a_prediction_abstains_where_held_out_families_were_told_nothing(
    corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("predictor.verdicts.no_skill", lambda r: f"{len(r.examples)} taught")
    prediction = predict(gains(), corpus)
    assert (prediction.verdict, prediction.reason) == ("abstain", "20 taught")


@pytest.mark.parametrize("seed", range(4))
def test_a_corpus_of_chance_gives_no_skill(seed: int, tmp_path: Any) -> None:
    """Outcomes drawn without regard to the features: nothing is learned, and it is said."""
    rng = np.random.default_rng(seed)
    rows = [
        dataclasses.replace(row, **outcome(rng.uniform(-20, 60), rng.choice([-3.0, 1.0])))
        for row in make_corpus(rng, families=FAMILIES[:5])
    ]
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(rows))
    assert "no better than the base rate" in str(fitted_predictor(path).no_skill)


def test_rows_that_contradict_each_other_give_no_verdict(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same network gained and lost: even one that believes in its skill cannot say."""
    monkeypatch.setattr("predictor.verdicts.why_none", lambda *_: None)

    def told(*deltas: float) -> Prediction:
        rows = [
            dataclasses.replace(
                row,
                seed=10 * i + row.seed,
                adaptive_accuracies=outcome(0.0, delta)["adaptive_accuracies"],
            )
            for row in long_runs(np.random.default_rng(0))
            for i, delta in enumerate(deltas)
        ]
        path = tmp_path / f"{len(deltas)}{deltas[-1]}.csv"
        path.write_text(format_corpus(rows))
        return predict(gains(), path)

    good = told(1.0, 1.0)
    assert good.verdict == "adapt", good
    contradicted = told(1.0, -3.0)
    assert contradicted.verdict == "abstain"
    assert contradicted.probability_of_benefit == pytest.approx(0.5)


def test_a_run_that_diverged_is_harm_and_one_without_a_fixed_run_says_nothing(
    corpus: Any, tmp_path: Any
) -> None:
    def with_row(name: str, **fields: Any) -> Prediction:
        fields = {**outcome(30.0, 1.0), "epochs": 60, **fields}
        row = make_corpus_row(family="zeta", model="zeta", **fields)
        more = tmp_path / name
        more.write_text(corpus.read_text() + format_corpus([row]).splitlines()[1] + "\n")
        return predict(gains(), more)

    before, gained = predict(gains(), corpus), with_row("finished.csv")
    lost = with_row("diverged.csv", adaptive_status="diverged", adaptive_accuracies=(0.5,))
    # The eleventh model: its one run is all that is known of it.
    assert gained.probability_of_benefit == pytest.approx(before.probability_of_benefit)
    assert lost.probability_of_benefit == pytest.approx(before.probability_of_benefit * 10 / 11)
    assert lost.accuracy_delta_pp == pytest.approx((10 * before.accuracy_delta_pp - 80.0) / 11)
    assert with_row("fixed.csv", fixed_status="diverged") == before


def test_a_class_that_few_families_hold_still_gives_a_prediction(tmp_path: Any) -> None:
    rows = [
        dataclasses.replace(r, **outcome(2.0, 0.0)) if r.family not in ("alpha", "beta") else r
        for r in make_corpus(np.random.default_rng(0), families=FAMILIES[:4])
    ]
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(rows))
    assert predict(gains(), path).verdict in ("adapt", "keep_fixed", "abstain")
