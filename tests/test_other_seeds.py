"""Pairs of the very model: what they tell of its next seed, and when they may decide."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.regression import SplitConformalRegressor
from rich.console import Console
from sklearn.dummy import DummyRegressor

from predictor import fitted as fitted_module
from predictor import grounds as grounds_module
from predictor.candidates import BASELINES, CANDIDATES
from predictor.corpus import CorpusRow, format_corpus, load_corpus
from predictor.evaluate import evaluate
from predictor.examples import make_examples
from predictor.fitted import _read, fit_predictor, fitted_predictor, to_json
from predictor.grounds import Grounds, make_grounds
from predictor.held_out import Refits
from predictor.known_models import KnownModel, OtherSeeds, known_models, own_pairs
from predictor.other_seeds import (
    conformal_half_width,
    score_other_seeds,
    told_by_other_seeds,
    what_they_tell,
)
from predictor.physical import CHOSEN, ConstantHarm, Paths, rehearsed_time_saved_pct
from predictor.prediction import predict
from predictor.refit import refit
from predictor.report_grounds import grounds_part
from predictor.scores_summary import evaluation_json, evaluation_tables, refit_json, refit_tables
from predictor.verdicts import lengths_of
from stability_probe.limits import DEFAULT_LIMITS
from tests.predictor_factories import FAMILIES, make_characterization, make_corpus_row, make_metrics

EPOCHS = 20
Change = Callable[[int, int, int, int], float]
"""Of accuracy, points: by family, model, seed and epoch."""


def make_rows(
    change: Change, *, families: int = 8, seeds: int = 3, **fields: Any
) -> list[CorpusRow]:
    """Two models a family, whose runs save some 30 %, as rehearsed; accuracy is what differs."""
    rows = []
    fixed = tuple(np.linspace(0.5, 0.8, EPOCHS).tolist())
    for family, model, seed in itertools.product(range(families), range(2), range(seeds)):
        deltas = [change(family, model, seed, epoch) for epoch in range(1, EPOCHS + 1)]
        name = f"{FAMILIES[family]}{model}"
        rows.append(
            make_corpus_row(
                **{
                    "model": name,
                    "family": FAMILIES[family],
                    "seed": seed,
                    "epochs": EPOCHS,
                    "fixed_batch_sizes": (16,) * EPOCHS,
                    "adaptive_batch_sizes": (16,) * 10 + (256,) * (EPOCHS - 10),
                    "fixed_cpu_s": (1.0,) * EPOCHS,
                    "adaptive_cpu_s": (1.0,) * 10 + (0.4,) * (EPOCHS - 10),
                    "fixed_accuracies": fixed,
                    "adaptive_accuracies": tuple(
                        a + d / 100 for a, d in zip(fixed, deltas, strict=True)
                    ),
                    "fixed_run_id": f"{name}-fixed-s{seed}",
                    "adaptive_run_id": f"{name}-deba-s{seed}",
                    "trace_sigma": None,
                    "grad_sq_norm": None,
                }
                | fields
            )
        )
    return rows


def of_the_model(family: int, model: int, seed: int, epoch: int) -> float:
    """What repeats: one model of each family gains, the other loses."""
    return 1.0 + seed / 10 if model else -2.0 - seed / 10


def of_the_seed(family: int, model: int, seed: int, epoch: int) -> float:
    """What does not: seeds take turns."""
    return 1.0 if (family + model + seed) % 2 else -2.0


def refits_of(rows: list[CorpusRow]) -> Refits:
    return Refits(CANDIDATES[CHOSEN], make_examples(rows))


def told_of(rows: list[CorpusRow]) -> tuple[OtherSeeds, ...]:
    return what_they_tell(refits_of(rows), lengths_of(rows, DEFAULT_LIMITS))


def test_pairs_are_told_by_their_next_seeds_and_all_other_families() -> None:
    """Beside a loop that is written down otherwise."""
    rng = np.random.default_rng(0)
    noise = {key: float(rng.normal()) for key in itertools.product(range(8), range(2), range(3))}
    rows = make_rows(lambda f, m, s, e: noise[f, m, s] + 0.02 * e)
    refits = refits_of(rows)
    for count in (1, 2):
        at, told = told_by_other_seeds(refits, count)
        assert at.tolist() == list(range(len(rows)))
        for i, row in enumerate(rows):
            own = refits.examples[i]
            others = [e for e in refits.examples if e.family != own.family]
            # Each model has as many rows, so that their mean is that of the models.
            rate = np.mean([e.harm_share for e in others])
            change = np.mean([e.mean_end_delta_pp for e in others])
            beside = [
                e
                for step in range(1, count + 1)
                for e in refits.examples
                if (e.model, e.seed) == (own.model, (row.seed + step) % 3)
            ]
            assert len(beside) == count
            harm = (rate + sum(e.harm_share for e in beside)) / (1 + count)
            enough = np.mean(rehearsed_time_saved_pct(own.case) >= 10.0)
            assert told.probability_of_benefit[i] == pytest.approx(enough * (1 - harm))
            delta = (change + sum(e.mean_end_delta_pp for e in beside)) / (1 + count)
            assert told.accuracy_delta_pp[i] == pytest.approx(delta)


def test_its_scores_are_counted_by_hand() -> None:
    rows = make_rows(of_the_model)
    refits = refits_of(rows)
    one, two = score_other_seeds(refits)
    assert (two.num_seeds, two.num_pairs, two.num_models) == (2, 48, 16)
    assert (rehearsed_time_saved_pct(refits.cases[0]) >= 10.0).all()
    # Half of the others benefit, and so do both or none of its own: 1/6 or 5/6.
    assert two.brier == pytest.approx(1 / 36)
    assert two.brier_of_base_rate == pytest.approx(1 / 4)
    assert two.difference is not None
    assert two.difference.value == pytest.approx(1 / 36 - 1 / 4)
    assert (two.adapt, two.adapt_right, two.keep_fixed, two.keep_fixed_right) == (24,) * 4
    assert one.brier == pytest.approx(1 / 16)
    # Own changes are 1.0 to 1.2 and -2.0 to -2.2, the others' mean is -0.5.
    errors = [abs((-0.5 + 2 * (m + (0.3 - s) / 2)) / 3 - m - s) for m in (1.0,) for s in (0, 0.1)]
    assert two.accuracy_delta_half_width >= max(errors)


def test_what_repeats_may_decide_and_what_does_not_may_not() -> None:
    for told in told_of(make_rows(of_the_model)):
        assert (told.silent, told.only_verdict, told.why_only) == (None, None, None)
    for told in told_of(make_rows(of_the_seed)):
        assert told.silent is not None
        assert "told not surely more of the next than other models did (Brier" in told.silent


def test_seeds_that_tell_at_one_length_alone_decide_nothing() -> None:
    """At 18 epochs it is the seed that counts, and at 20 the model."""

    def turning(family: int, model: int, seed: int, epoch: int) -> float:
        return (of_the_model if epoch == EPOCHS else of_the_seed)(family, model, seed, epoch)

    rows = make_rows(turning)
    lengths = lengths_of(rows, DEFAULT_LIMITS)
    of_last = [
        dataclasses.replace(e, end_deltas_pp=e.end_deltas_pp[-1:]) for e in make_examples(rows)
    ]
    refits = Refits(CANDIDATES[CHOSEN], of_last)
    assert "at 20 epochs alone" in str(what_they_tell(refits, lengths)[1].silent)
    assert what_they_tell(refits, lambda epochs: of_last)[1].silent is None


def lost_at_last(family: int, model: int, seed: int, epoch: int) -> float:
    """Half of those that gain lose at the very end, whatever their other seeds do."""
    told = of_the_model(family, model, seed, epoch)
    return -2.0 if epoch == EPOCHS and model and (family + seed) % 2 else told


def won_at_last(family: int, model: int, seed: int, epoch: int) -> float:
    """And half of those that lose gain."""
    told = lost_at_last(family, model, seed, epoch)
    return 1.0 if epoch == EPOCHS and not model and (family + seed) % 2 else told


def test_a_verdict_that_came_true_too_seldom_is_not_given() -> None:
    rows = make_rows(lost_at_last)
    _, two = score_other_seeds(refits_of(rows))
    assert two.adapt_right < 0.7 * two.adapt
    assert two.keep_fixed_right == two.keep_fixed
    told = told_of(rows)[1]
    assert (told.silent, told.only_verdict) == (None, "keep_fixed")
    assert told.why_only == (
        f"but adapt came true in {two.adapt_right} of {two.adapt} at {EPOCHS} epochs"
    )
    _, neither = told_of(make_rows(won_at_last))
    assert neither.only_verdict is None
    assert str(neither.silent).startswith("told by 2 other seeds of a model, adapt came true in ")
    assert " and keep fixed came true in " in str(neither.silent)


def test_the_prediction_and_the_fit_say_which_verdict_is_not_given_and_why(tmp_path: Path) -> None:
    path, rows = tmp_path / "corpus.csv", make_rows(lost_at_last)
    path.write_text(format_corpus(rows))
    _, two = score_other_seeds(refits_of(rows))
    why = f"but adapt came true in {two.adapt_right} of {two.adapt} at {EPOCHS} epochs"
    # Of beta1 one seed of three lost at the end, of alpha1 two.
    loses, gains = (predict(asked(model), path) for model in ("beta0", "beta1"))
    assert loses.verdict == "keep_fixed"
    assert gains.probability_of_benefit >= 0.7
    assert gains.verdict == "abstain"
    assert gains.reason.endswith(f"above 0.7, {why}")
    text = screen(refit_tables(refit(rows, [])))
    assert (
        f"of a model with 2 seeds on the same data: the only verdict is keep fixed, {why}" in text
    )


def test_nor_is_one_that_came_true_too_seldom_in_runs_nearly_as_long() -> None:
    """Of runs of 18 epochs, where half of those that gain have lost."""

    def lost_before(family: int, model: int, seed: int, epoch: int) -> float:
        return lost_at_last(family, model, seed, EPOCHS if epoch == 18 else 1)

    told = told_of(make_rows(lost_before))[1]
    assert (told.silent, told.only_verdict) == (None, "keep_fixed")
    assert str(told.why_only).endswith(" at 18 epochs")


def test_nor_is_one_that_was_hardly_ever_told() -> None:
    def gains(family: int, model: int, seed: int, epoch: int) -> float:
        return of_the_model(family, model if family < 5 else 1, seed, epoch)

    rows = make_rows(gains)
    scores = score_other_seeds(refits_of([r for r in rows if r.model not in ("alpha0", "beta0")]))
    assert (scores[1].keep_fixed, scores[1].keep_fixed_right) == (9, 9)
    told = told_of([r for r in rows if r.model not in ("alpha0", "beta0")])[1]
    assert (told.silent, told.only_verdict) == (None, None)
    told = told_of([r for r in rows if r.model not in ("alpha0", "beta0", "gamma0")])[1]
    assert (told.silent, told.only_verdict) == (None, "adapt")
    assert told.why_only == "but keep fixed was told too seldom to show anything"


def test_pairs_of_the_same_seed_or_without_headroom_tell_nothing() -> None:
    rows = make_rows(of_the_model, seeds=2)
    again = [dataclasses.replace(row, adaptive_run_id=f"{row.adaptive_run_id}-b") for row in rows]
    assert [s.num_seeds for s in score_other_seeds(refits_of([*rows, *again]))] == [1]
    slow = make_rows(
        of_the_model, seeds=2, data="crops", curve_samples_per_s=(100.0, 101.0, 102.0, 103.0, 104.0)
    )
    assert score_other_seeds(refits_of(slow)) == ()
    (one,) = score_other_seeds(refits_of([*rows, *slow]))
    assert one.num_pairs == len(rows)
    assert known_models([*rows, *again])[0].num_pairs == 4
    assert known_models([*rows, *again])[0].num_seeds == 2


def test_one_family_shows_nothing() -> None:
    rows = make_rows(of_the_model, families=2)
    some = refits_of([r for r in rows if r.family == FAMILIES[0] or r.seed == 0])
    (one, two) = score_other_seeds(some)
    assert one.difference is two.difference is None
    assert all(told.silent for told in told_of(some_rows_of(rows)))


def some_rows_of(rows: list[CorpusRow]) -> list[CorpusRow]:
    return [r for r in rows if r.family == FAMILIES[0] or r.seed == 0]


def test_only_a_candidate_of_constant_harm_can_be_told_more() -> None:
    rows = make_rows(of_the_model)
    assert score_other_seeds(Refits(BASELINES["majority"], make_examples(rows))) == ()


def test_the_half_width_is_mapies() -> None:
    rng = np.random.default_rng(0)
    for count in (10, 23, 144):
        errors = np.abs(rng.normal(size=count))
        mapie = SplitConformalRegressor(
            DummyRegressor(strategy="constant", constant=0.0).fit([[0.0]], [0.0]), 0.9
        )
        mapie.conformalize(np.zeros((count, 1)), errors)
        low, high = mapie.predict_interval(np.zeros((1, 1)))[1][0, :, 0]
        assert conformal_half_width(errors) == pytest.approx(float(high - low) / 2)
    assert conformal_half_width(np.arange(9.0)) == 8.0, "nine cover nine in ten, all of them"
    assert conformal_half_width(np.arange(8.0)) == math.inf


shares = st.floats(0, 1)


@given(st.integers(0, 50), shares, shares, st.floats(-99, 99), st.floats(-99, 99))
def test_the_rate_lies_between_the_corpus_and_its_own(
    seeds: int, rate: float, own: float, change: float, own_change: float
) -> None:
    corpus = ConstantHarm(paths=Paths(), harm_rate=rate, mean_delta_pp=change)
    told = corpus.beside_own(seeds, harm_share=own, mean_delta_pp=own_change)
    for mixed, one, other in (
        (told.harm_rate, rate, own),
        (told.mean_delta_pp, change, own_change),
    ):
        assert min(one, other) - 1e-9 <= mixed <= max(one, other) + 1e-9
        assert abs(mixed - other) * (1 + seeds) == pytest.approx(abs(one - other), abs=1e-9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "corpus.csv"
    path.write_text(format_corpus(make_rows(of_the_model)))
    return path


def asked(model: str, **fields: Any) -> Any:
    config = {"model": model, "epochs": EPOCHS} | fields.pop("config", {})
    like_the_rows = {"windows": [make_metrics()], "norms": [(1.0, 0.9)]}
    return make_characterization(config=config, **(like_the_rows | fields))


def test_the_next_seed_of_a_measured_model_is_told_by_its_own_pairs(corpus: Path) -> None:
    gains, loses, new = (predict(asked(m), corpus) for m in ("alpha1", "alpha0", "resnet10t"))
    assert new.verdict == "abstain"
    assert "on families held out the prediction is no" in new.reason
    # 24 of 48 pairs lose, and none or all of its own three: (1/2 + 0) / 4 or (1/2 + 3) / 4.
    assert (gains.verdict, gains.probability_of_benefit) == ("adapt", pytest.approx(7 / 8))
    assert (loses.verdict, loses.probability_of_benefit) == ("keep_fixed", pytest.approx(1 / 8))
    assert gains.accuracy_delta_pp == pytest.approx((3 * 1.1 - 0.5) / 4)
    assert gains.time_saved_pct == new.time_saved_pct
    assert gains.basis.startswith(
        "3 seeds of this model on the same data; in the corpus, told by 2 other seeds of theirs, "
        "of 48 pairs adapt came true in 24 of 24 and keep fixed in 24 of 24; all of it: 48 paired"
    )
    known = fitted_predictor(corpus)
    ends = gains.accuracy_delta_interval_pp
    assert ends is not None
    assert ends[1] - ends[0] == pytest.approx(2 * known.other_seeds[1].accuracy_delta_half_width)
    assert ends[1] - ends[0] < 2 * known.accuracy_delta_half_width


def test_the_page_takes_the_rate_apart(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grounds_of(path: Path, model: str) -> tuple[Grounds, str]:
        for module in (fitted_module, grounds_module):
            monkeypatch.setattr(module, "known_paths", lambda: [path])
        grounds = make_grounds(asked(model))
        return grounds, " ".join(grounds_part("key", grounds).text)

    grounds, text = grounds_of(corpus, "alpha1")
    assert grounds.probability_of_benefit == predict(asked("alpha1"), corpus).probability_of_benefit
    assert (grounds.others_harm_rate, grounds.fitted.harm_rate) == (0.5, 0.125)
    assert (
        "lost more than 0.5 points of accuracy: 0.50, which counts as one seed beside the 3 of "
        "this very model, that lost it in 0.00 of their last epochs, so that the rate is 0.12. "
        "Probability of a benefit: 1.00 × (1 − 0.12) = 0.88."
    ) in text
    assert "on other seeds of its models" in text
    others = tmp_path / "others.csv"
    others.write_text(format_corpus(make_rows(of_the_seed)))
    for path, model in ((corpus, "resnet10t"), (others, "alpha1")):
        grounds, text = grounds_of(path, model)
        assert grounds.own is None
        assert "0.50, taken as the same for every model. " in text
        assert "on families it never saw" in text


def test_runs_to_be_scored_are_not_told_by_themselves(corpus: Path) -> None:
    c = asked("alpha1")
    one_left = predict(c, corpus, without={f"alpha1-fixed-s{seed}" for seed in (0, 1)})
    # 24 of 46 lose, in the mean over models of which one has fewer pairs one half.
    assert one_left.probability_of_benefit == pytest.approx((0.5 * 1 + 1 * 1) / 2)
    assert one_left.basis.startswith("1 seed of this model")
    none = predict(c, corpus, without={f"alpha1-fixed-s{seed}" for seed in range(3)})
    assert none.verdict == "abstain"
    assert "of this model" not in none.basis


@pytest.mark.parametrize(
    "other",
    [
        {"num_train": 1008},
        {"num_test": 401},
        {"num_params": 1_000_001},
        {"max_batch_size": 128},
        {"config": {"data": "crops"}},
        {"config": {"epochs": EPOCHS - 1}},
        {"config": {"precision": "bfloat16"}},
        {"config": {"weight_decay": 0.0}},
        {"config": {"lr": 0.02}},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not(
    corpus: Path, other: dict[str, Any]
) -> None:
    rows = load_corpus(corpus)
    assert own_pairs(asked("alpha1"), known_models(rows)) is not None
    assert own_pairs(asked("alpha1", **other), known_models(rows)) is None


def test_where_seeds_do_not_repeat_the_reason_says_so_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(make_rows(of_the_seed)))
    known, new = (predict(asked(model), path) for model in ("alpha1", "resnet10t"))
    assert known.verdict == new.verdict == "abstain"
    assert known.reason.startswith(f"{new.reason}; 2 other seeds of a model told not surely more")
    assert known.probability_of_benefit == new.probability_of_benefit
    assert known.basis == new.basis


def test_fewer_seeds_decide_by_what_as_few_tell(corpus: Path) -> None:
    fitted = fit_predictor([corpus])
    one, two = fitted.other_seeds
    fitted = dataclasses.replace(
        fitted, other_seeds=(dataclasses.replace(one, silent="no"), two), no_skill="none"
    )
    own = own_pairs(asked("alpha1"), fitted.models)
    assert isinstance(own, KnownModel)
    assert own.num_seeds == 3
    assert fitted.knowing(own).no_skill is None
    single = fitted.knowing(dataclasses.replace(own, num_seeds=1))
    assert (single.no_skill, single.harm_rate) == ("none; no", fitted.harm_rate)
    assert fitted.knowing(None) is fitted
    # What the corpus bears out of all models stays, where a model's own pairs bear out nothing.
    only = dataclasses.replace(fitted, no_skill=None, only_verdict="adapt")
    assert only.knowing(dataclasses.replace(own, num_seeds=1)) == only


def test_it_is_stored_and_read_back_with_ends_or_without(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(make_rows(of_the_model, families=2, seeds=2)))
    fitted = fit_predictor([path])
    assert [told.num_seeds for told in fitted.other_seeds] == [1]
    wide = tuple(
        dataclasses.replace(o, accuracy_delta_half_width=math.inf) for o in fitted.other_seeds
    )
    for some in (fitted, dataclasses.replace(fitted, other_seeds=wide)):
        stored = tmp_path / "fitted.json"
        stored.write_text(to_json(some))
        again = _read(stored)
        assert again is not None
        assert again.other_seeds == some.other_seeds
        assert to_json(again) == to_json(some), "not a number differs from itself"


def test_evaluate_and_fit_show_it() -> None:
    rows = make_rows(of_the_model, families=4)
    e = evaluate(rows)
    assert e.other_seeds == score_other_seeds(refits_of(rows))
    shown = screen(evaluation_tables(e))
    assert "told by other seeds pairs Brier base" in shown
    assert "2                      24  .028 .250 -.222" in shown
    told = json.dumps(evaluation_json(e), allow_nan=False)
    assert json.loads(told)["other_seeds"][1]["adapt_right"] == 12
    r = refit(rows, [])
    text = screen(refit_tables(r))
    assert "of a model with 2 seeds on the same data: verdicts can be given; told by 2" in text
    # Of eight pairs the interval has no ends, and JSON knows no infinity.
    few = make_rows(of_the_model, families=2, seeds=2)
    wide = evaluation_json(dataclasses.replace(e, other_seeds=score_other_seeds(refits_of(few))))
    assert wide["other_seeds"][0]["accuracy_delta_half_width"] is None
    assert json.dumps(refit_json(r), allow_nan=False)


def screen(item: Any) -> str:
    console = Console(width=200)
    with console.capture() as got:
        console.print(item)
    return got.get()
