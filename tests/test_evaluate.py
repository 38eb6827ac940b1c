"""Scores of the predictor, each recomputed the long way round."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from rich.console import Console
from sklearn.metrics import brier_score_loss, log_loss, mean_absolute_error, recall_score

import cli
from predictor import bootstrap, stability_scores
from predictor import evaluate as module
from predictor.candidates import BASELINES, CANDIDATES, BaseRate, Candidate
from predictor.corpus import CORPUS_READING, CorpusRow, format_corpus
from predictor.evaluate import SELECTED, Evaluation, evaluate
from predictor.examples import Example, make_examples, usable
from predictor.held_out import Refits, intervals
from predictor.horizon import first_epochs, rows_for
from predictor.horizon_scores import score_horizons
from predictor.learning import learning_curve
from predictor.outcomes import compare_arms
from predictor.physical import Estimates
from predictor.plots import (
    draw_horizons,
    draw_predicted,
    reliability,
    write_evaluation_plots,
)
from predictor.scores import Score
from predictor.scores_summary import _short, evaluation_json, evaluation_tables
from predictor.skill import brier
from predictor.variance import seed_floor
from stability_probe import metrics
from stability_probe.errors import MissingError, UsageError
from stability_probe.limits import Limits
from tests.predictor_factories import FAMILIES, make_corpus, make_corpus_row

FEW: dict[str, Candidate] = {
    "headroom": CANDIDATES["headroom + stability"],
    "all": CANDIDATES["logistic"],
    "mean": BaseRate(),
}


@pytest.fixture(scope="module")
def rows() -> list[CorpusRow]:
    """Four families with harm in some rows, timed runs beside, three seeds on two data sets; the
    seconds are those of a machine that others share."""
    rng = np.random.default_rng(2)
    made = []
    for data in ("digits", "crops"):
        for row in make_corpus(rng, families=FAMILIES[:4], seeds=3):
            delta = float(rng.normal(0.0, 1.0))
            ends = (*row.adaptive_accuracies[:3], row.fixed_accuracies[-1] + delta / 100)
            run = f"fixed-{row.model}-{data}-{row.seed}"
            seconds = tuple(float(rng.normal(1.0, 0.1)) * s for s in row.adaptive_cpu_s)
            row = dataclasses.replace(
                row,
                data=data,
                adaptive_accuracies=ends,
                adaptive_cpu_s=seconds,
                fixed_run_id=run,
            )
            timed = dataclasses.replace(
                row,
                arm="timed",
                scheduler="timed",
                scheduler_args="{}",
                adaptive_batch_sizes=(16, 32, 64, 128),
            )
            made += [row, timed]
    return made


@pytest.fixture(scope="module")
def evaluation(rows: list[CorpusRow]) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CANDIDATES", FEW)
        patch.setattr(module, "BASELINES", {"majority": BASELINES["majority"]})
        patch.setattr(module, "CONTRASTS", (("all to headroom", "all", "headroom"),))
        patch.setattr(module, "CHOSEN", "headroom")
        patch.setattr(stability_scores, "DRAWS", 10)
        return evaluate(rows)


@pytest.mark.usefixtures("few_candidates")
def test_a_run_that_diverged_is_harm_and_says_nothing_of_a_model_that_trains(
    rows: list[CorpusRow], evaluation: Evaluation
) -> None:
    lost = dataclasses.replace(usable(rows)[0], seed=99, adaptive_status="diverged")
    told = evaluate([*rows, lost])
    assert (evaluation.num_diverged, told.num_diverged) == (0, 1)
    assert told.num_rows == evaluation.num_rows + 1
    harms = [e.class_counts.get("harms", 0) for e in (evaluation, told)]
    assert harms[1] == harms[0] + 1
    assert told.models == evaluation.models


def naive_held_out(candidate: Candidate, examples: list[Example]) -> Estimates:
    told = [
        candidate.fit([o for o in examples if o.family != e.family]).estimates([e.case])
        for e in examples
    ]
    return Estimates(
        **{n: np.array([getattr(t, n)[0] for t in told]) for n in Estimates.__dataclass_fields__}
    )


def test_scores_against_scikit_learn(rows: list[CorpusRow], evaluation: Evaluation) -> None:
    examples = make_examples(usable(rows))
    measured = [r.time_saved_pct for r in usable(rows)]
    truth = np.array([e.time_saved_pct >= 10 and e.accuracy_delta_pp >= -0.5 for e in examples])
    for name, candidate in FEW.items():
        (got,) = [s for s in evaluation.scores if s.name == name]
        told = naive_held_out(candidate, examples)
        p = told.probability_of_benefit
        sure = np.abs(p - 0.5) >= 0.2
        values = {n: s.value for n, s in vars(got).items() if n != "name" and s is not None}
        assert values["brier"] == pytest.approx(brier_score_loss(truth, p))
        assert values["log_loss"] == pytest.approx(log_loss(truth, np.clip(p, 0.01, 0.99)))
        assert values["abstained"] == pytest.approx(1 - sure.mean())
        assert values["time_saved_mae"] == pytest.approx(
            mean_absolute_error([e.time_saved_pct for e in examples], told.time_saved_pct)
        )
        assert values["time_saved_mae_measured"] == pytest.approx(
            mean_absolute_error(measured, told.time_saved_pct)
        )
        assert values["accuracy_delta_mae"] == pytest.approx(
            mean_absolute_error([e.accuracy_delta_pp for e in examples], told.accuracy_delta_pp)
        )
        if len(set(truth[sure])) == 2:
            recalls = [recall_score(truth[sure], p[sure] > 0.5, pos_label=k) for k in (True, False)]
            assert values["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        else:
            assert got.balanced_accuracy is None


def test_coverage_is_nested(rows: list[CorpusRow], evaluation: Evaluation) -> None:
    """Each row's interval from fits and errors that never saw its family: it is not even there."""
    examples = make_examples(usable(rows))
    inside, width = [], []
    for family in sorted({e.family for e in examples}):
        others = [e for e in examples if e.family != family]
        own = [e for e in examples if e.family == family]
        refits = Refits(FEW["all"], others, [e.case for e in own])
        ends = intervals(refits, range(len(others), len(examples))).time_saved_pct
        inside += [
            low <= e.measured_saved_pct <= high for e, (low, high) in zip(own, ends, strict=True)
        ]
        width += [high - low for low, high in ends]
    (got,) = [s for s in evaluation.scores if s.name == "all"]
    assert got.time_saved_coverage is not None
    assert got.time_saved_width is not None
    assert got.time_saved_coverage.value == pytest.approx(np.mean(inside))
    assert got.time_saved_width.value == pytest.approx(np.mean(width))
    assert 0.6 < np.mean(inside) < 1


def test_selection_never_sees_the_family_it_is_scored_on(
    rows: list[CorpusRow], evaluation: Evaluation
) -> None:
    """The pick for a family is the best of the others alone, and its estimate is that pick's."""
    examples = make_examples(usable(rows))
    for family, picked in evaluation.selections.items():
        others = [e for e in examples if e.family != family]
        scores = {n: brier(naive_held_out(c, others), others) for n, c in FEW.items()}
        assert picked == min(scores, key=lambda n: scores[n])
    told = {n: naive_held_out(c, examples).probability_of_benefit for n, c in FEW.items()}
    p = np.array([told[evaluation.selections[e.family]][i] for i, e in enumerate(examples)])
    (got,) = [s for s in evaluation.scores if s.name == SELECTED]
    assert got.brier is not None
    assert got.brier.value == pytest.approx(brier_score_loss([e.benefits for e in examples], p))


def test_a_family_held_out_has_no_say_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alpha is large and contradicts all others: learned from, it would spoil the better choice."""
    monkeypatch.setattr(module, "CANDIDATES", FEW)
    examples = make_examples(usable(make_corpus(np.random.default_rng(0), families=FAMILIES[:4])))
    alpha = [
        dataclasses.replace(e, time_saved_pct=0.0 if e.benefits else 40.0)
        for e in examples
        if e.family == "alpha"
    ]
    odd = [*(e for e in examples if e.family != "alpha"), *10 * alpha]
    refits = {name: Refits(c, odd) for name, c in FEW.items()}
    assert module._pick(refits, "alpha") in ("headroom", "all")
    assert module._pick(refits, "beta") == "mean"


def test_what_a_candidate_adds_is_a_paired_difference(evaluation: Evaluation) -> None:
    by_name = {s.name: s for s in evaluation.scores}
    (contrast,) = evaluation.contrasts
    for name in ("brier", "time_saved_mae", "accuracy_delta_mae"):
        one, other = (getattr(by_name[n], name) for n in ("all", "headroom"))
        got = getattr(contrast, name)
        assert got.value == pytest.approx(one.value - other.value)
        assert got.low <= got.value <= got.high


def test_arms_beside_deba_share_their_fixed_run(
    rows: list[CorpusRow], evaluation: Evaluation
) -> None:
    deba, timed = evaluation.arms
    assert (deba.name, timed.name, deba.num_rows, timed.num_rows) == ("deba", "timed", 48, 48)
    assert deba.deba_saves_more_pct is None
    saved = [
        next(
            o for o in rows if o.fixed_run_id == r.fixed_run_id and o.arm == "deba"
        ).curve_saved_pct
        - r.curve_saved_pct
        for r in rows
        if r.arm == "timed"
    ]
    assert timed.deba_saves_more_pct is not None
    assert timed.deba_saves_more_pct.value == pytest.approx(np.mean(saved))
    assert timed.deba_more_accurate_pp is not None
    assert timed.deba_more_accurate_pp.value == pytest.approx(0.0, abs=1e-9)
    alone = [r for r in rows if r.arm == "timed"]
    assert compare_arms(alone)[0].deba_saves_more_pct is None
    assert compare_arms(alone)[0].same_batches == 0


def test_runs_with_debas_own_batch_sizes_are_counted() -> None:
    """Of the same seed: they are one run, and what differs there is no signal's doing."""
    timed = {"arm": "timed", "scheduler": "timed", "scheduler_args": "{}"}
    rows = []
    for seed, sizes in enumerate([(16, 24, 36, 56), (16, 16, 24, 36), (16, 24, 36, 56)]):
        deba = make_corpus_row(
            seed=seed, adaptive_batch_sizes=(16, 24, 36, 56), fixed_run_id=f"fixed-{seed}"
        )
        rows += [deba, dataclasses.replace(deba, **timed, adaptive_batch_sizes=sizes)]
    assert [arm.same_batches for arm in compare_arms(rows)] == [None, 2]


def test_an_arm_of_another_machine_is_compared_with_deba_on_one_curve() -> None:
    deba = make_corpus_row(curve_samples_per_s=(100.0, 110.0, 120.0, 130.0, 140.0))
    other = {"arm": "timed", "scheduler": "timed", "scheduler_args": "{}"}
    timed = dataclasses.replace(make_corpus_row(), **other)
    assert timed.curve_saved_pct > deba.curve_saved_pct + 10
    _, arm = compare_arms([deba, timed])
    assert arm.deba_saves_more_pct is not None
    assert arm.deba_saves_more_pct.value == 0.0, "both grew alike"


def test_no_arm_counts_a_row_with_the_curve_of_a_busy_machine() -> None:
    rows = [make_corpus_row(seed=s, fixed_run_id=f"f{s}", curve_busy=s == 0) for s in range(3)]
    timed = {"arm": "timed", "scheduler": "timed", "scheduler_args": "{}"}
    both = [*rows, *(dataclasses.replace(r, **timed) for r in rows)]
    assert [arm.num_rows for arm in compare_arms(both)] == [2, 2]


def test_a_schedule_is_none_the_better_for_a_run_that_diverged() -> None:
    finished = [make_corpus_row(seed=seed, family=f"f{seed}", model="m") for seed in range(3)]
    lost = dataclasses.replace(
        finished[0], adaptive_status="diverged", adaptive_accuracies=(), adaptive_batch_sizes=(16,)
    )
    (before,), (after,) = (compare_arms([one, *finished[1:]]) for one in (finished[0], lost))
    assert (before.num_rows, after.num_rows) == (3, 3)
    assert before.accuracy_delta_pp is not None
    assert after.accuracy_delta_pp is not None
    assert after.accuracy_delta_pp.value < before.accuracy_delta_pp.value - 10


def test_an_evaluation_repeats_to_the_bit(
    rows: list[CorpusRow], evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANDIDATES", FEW)
    monkeypatch.setattr(module, "BASELINES", {"majority": BASELINES["majority"]})
    monkeypatch.setattr(module, "CONTRASTS", (("all to headroom", "all", "headroom"),))
    monkeypatch.setattr(module, "CHOSEN", "headroom")
    monkeypatch.setattr(stability_scores, "DRAWS", 10)
    order = np.random.default_rng(0).permutation(len(rows))
    assert evaluate([rows[i] for i in order]) == evaluation


def test_two_families_cannot_be_scored() -> None:
    rows = [make_corpus_row(family=f, seed=s) for f in "ab" for s in range(3)]
    reading = CORPUS_READING["reading"]
    with pytest.raises(MissingError, match=f"fewer than 3 families.*{reading}"):
        evaluate(rows)


def test_the_screen_fits_80_columns_and_the_object_is_json(evaluation: Evaluation) -> None:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    console.print(evaluation_tables(evaluation))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("48 rows, 8 models, 4 families: ")
    assert max(map(len, lines)) <= 80
    told = "\n".join(lines)
    for words in ("Brier", "all to headroom", "DEBA minus the arm", "share of the variance"):
        assert words in told
    plain = json.loads(json.dumps(evaluation_json(evaluation), allow_nan=False))
    assert [s["name"] for s in plain["scores"]] == ["majority", *FEW, SELECTED]


def test_what_each_row_was_told_is_there_to_be_drawn(
    rows: list[CorpusRow], evaluation: Evaluation
) -> None:
    kept = usable(rows)
    assert [(c.model, c.data, c.seed) for c in evaluation.cases] == [
        (r.model, r.data, r.seed) for r in kept
    ]
    (got,) = [s for s in evaluation.scores if s.name == evaluation.chosen]
    assert got.time_saved_mae is not None
    assert got.time_saved_coverage is not None
    assert got.time_saved_mae.value == pytest.approx(
        np.mean([abs(c.time_saved_told_pct - c.time_saved_pct) for c in evaluation.cases])
    )
    assert got.time_saved_coverage.value == pytest.approx(
        np.mean(
            [
                c.time_saved_interval_pct[0] <= c.measured_saved_pct <= c.time_saved_interval_pct[1]
                for c in evaluation.cases
            ]
        )
    )


def test_the_learning_curve_ends_at_all_other_families(
    rows: list[CorpusRow], evaluation: Evaluation
) -> None:
    assert [p.num_families for p in evaluation.learning_curve] == [2, 3]
    (got,) = [s for s in evaluation.scores if s.name == evaluation.chosen]
    assert got.brier is not None
    # families are of one size here, so their mean is the mean over rows
    assert evaluation.learning_curve[-1].brier == pytest.approx(got.brier.value)
    examples = make_examples(usable(rows))
    (one,) = learning_curve(Refits(FEW["headroom"], examples), [1])
    errors = []
    for e in examples:
        for other in sorted({o.family for o in examples} - {e.family}):
            fitted = FEW["headroom"].fit([o for o in examples if o.family == other])
            told = fitted.estimates([e.case]).time_saved_pct[0]
            errors.append(abs(told - e.time_saved_pct))
    # 5 random draws of 3 possible subsets, against all of them
    assert one.time_saved_mae == pytest.approx(np.mean(errors), rel=0.25)


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", FEW)
    monkeypatch.setattr(module, "BASELINES", {"majority": BASELINES["majority"]})
    monkeypatch.setattr(module, "CONTRASTS", ())
    monkeypatch.setattr(module, "CHOSEN", "headroom")
    monkeypatch.setattr(stability_scores, "DRAWS", 10)


@pytest.mark.usefixtures("few_candidates")
def test_a_run_no_longer_than_its_window_is_none_to_predict(rows: list[CorpusRow]) -> None:
    window = rows[0].window_epochs
    with pytest.raises(UsageError, match=f"use --epochs {window + 1} or more"):
        evaluate(rows, epochs=window)


@pytest.mark.usefixtures("few_candidates")
def test_rates_are_scored_apart(rows: list[CorpusRow]) -> None:
    cosine = [dataclasses.replace(row, lr_schedule="cosine") for row in rows[: len(rows) * 3 // 4]]
    both = [*cosine, *rows]
    assert evaluate(both) == evaluate(both, lr_schedule="fixed") == evaluate(rows)
    got = evaluate(both, lr_schedule="cosine")
    assert got == evaluate(cosine)
    assert (got.recipe.lr_schedule, got.horizons) == ("cosine", ())
    with pytest.raises(MissingError, match=r"eager at a step learning rate; it cannot be scored"):
        evaluate(both, lr_schedule="step")


@pytest.mark.usefixtures("few_candidates")
def test_runs_of_another_length_are_scored_as_rows_cut_to_it(
    rows: list[CorpusRow], tmp_path: Path
) -> None:
    got = evaluate(rows, epochs=3)
    assert got == evaluate([first_epochs(row, 3) for row in rows])
    assert {len(row.path) for row in make_examples(rows_for(usable(rows), 3))} == {3}
    assert got.horizons == score_horizons(rows_for(usable(rows), 3), FEW["headroom"])
    assert [h.epochs for h in got.horizons] == [3]
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(rows))
    done = CliRunner().invoke(
        cli.probe, ["evaluate", "--corpus", str(path), "--epochs", "3", "--json"]
    )
    assert done.exit_code == 0
    assert [h["epochs"] for h in json.loads(done.stdout)["horizons"]] == [3]


def test_what_came_of_each_length_is_shown_and_drawn(evaluation: Evaluation) -> None:
    score = Score(value=0.25, low=0.1, high=0.4)
    told = dataclasses.replace(
        evaluation.horizons[0],
        epochs=20,
        benefits=Score(value=0.75, low=0.5, high=0.9),
        harms=score,
        adapt=9,
        adapt_right=7,
        keep_fixed=5,
        keep_fixed_right=4,
    )
    both = dataclasses.replace(
        evaluation, horizons=(told, dataclasses.replace(told, epochs=60, harms=None))
    )
    console = Console(width=80, file=io.StringIO())
    console.print(evaluation_tables(both))
    (line,) = [x for x in console.file.getvalue().splitlines() if x.startswith("20 ")]  # type: ignore[attr-defined]
    assert ".25 [.10,.40]" in line
    assert line.split()[-2:] == ["7/9", "4/5"]
    ax = Figure().subplots()
    draw_horizons(ax, both)
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines["benefited"].get_xdata()) == [20, 60]
    assert list(lines["benefited"].get_ydata()) == [75.0, 75.0]
    assert list(lines["lost accuracy"].get_ydata()) == [25.0]
    assert len(ax.collections) == 2, "a band each"
    without = dataclasses.replace(evaluation, horizons=())
    draw_horizons(Figure().subplots(), without)
    console.print(evaluation_tables(without))


def test_figures_show_the_numbers(evaluation: Evaluation, tmp_path: Path) -> None:
    points = reliability(evaluation.cases)
    assert sum(count for *_, count in points) == len(evaluation.cases)
    shares = sum(share * count for _, share, count in points)
    assert shares == pytest.approx(sum(c.benefits for c in evaluation.cases))
    ax = Figure().subplots()
    draw_predicted(ax, evaluation)
    drawn = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() != "None"])
    told = [(c.time_saved_told_pct, c.measured_saved_pct) for c in evaluation.cases]
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(told))
    (path,) = write_evaluation_plots(evaluation, tmp_path / "new")
    assert path.name == "evaluation.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_fifth_without_cases_is_left_out(evaluation: Evaluation) -> None:
    cases = [
        dataclasses.replace(evaluation.cases[0], probability_of_benefit=p, benefit_share=share)
        for p, share in ((0.0, 0.0), (0.1, 1.0), (0.95, 0.75), (1.0, 1.0))
    ]
    assert reliability(cases) == [(0.05, 0.5, 2), (0.975, 0.875, 2)]


def test_runs_that_learned_nothing_are_left_out_and_counted(rows: list[CorpusRow]) -> None:
    flat = {"profile_losses": (2.3026,) * 4, "profile_grad_norms": (0.1, 0.0, 0.0, 0.0)}
    stuck = [dataclasses.replace(r, fixed_run_id=f"stuck{i}", **flat) for i, r in enumerate(rows)]
    deba = len(usable(rows))
    got, before = evaluate([*rows, *stuck[:30]]), evaluate(rows)
    assert got.num_stuck == len([r for r in rows[:30] if r.scheduler == "deba"]) > 0
    assert (got.num_rows, before.num_stuck) == (deba, 0)
    assert dataclasses.replace(got, num_stuck=0) == before
    shown = Console(file=io.StringIO(), width=80)
    shown.print(evaluation_tables(got))
    told = " ".join(shown.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"; {got.num_stuck} more learned nothing and are left out" in told


def test_other_limits_are_applied_to_every_label(rows: list[CorpusRow]) -> None:
    limits = Limits(min_time_saved_pct=30.0, max_accuracy_loss_pp=1.5)
    got = evaluate(rows, limits=limits)
    labels = [
        metrics.benefit_class(r.curve_saved_pct, r.accuracy_delta_pp, limits) for r in usable(rows)
    ]
    assert got.limits == limits
    assert got.class_counts == dict(sorted(Counter(labels).items()))
    assert sum(c.benefits for c in got.cases) == labels.count("benefits")
    assert sum(m.benefits for m in got.models) == labels.count("benefits")
    assert got.arms[0].benefits is not None
    assert got.arms[0].benefits.value == pytest.approx(labels.count("benefits") / len(labels))
    assert got.harm.deba is not None
    assert got.harm.deba.value == pytest.approx(labels.count("harms") / len(labels))
    before = evaluate(rows)
    assert before.class_counts != got.class_counts, "else nothing is shown"
    assert before.floor.time_saved_mae == got.floor.time_saved_mae
    drawn = bootstrap.draw([r.family for r in usable(rows)])
    assert got.floor == seed_floor(usable(rows), drawn, limits) != before.floor


def test_what_is_zero_but_for_rounding_has_no_sign_of_its_own() -> None:
    """Else the table would differ from processor to processor."""
    assert _short(-1e-17, 2, "+") == _short(1e-17, 2, "+") == "+.00"
    assert (_short(-0.0004, 3, "+"), _short(-0.5, 1)) == ("-.000", "-.5")
