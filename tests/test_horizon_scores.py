"""Scores by length of run, and the verdicts that `probe` would have given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from predictor import verdicts as module
from predictor.candidates import BASELINES, CANDIDATES
from predictor.corpus import CorpusRow, format_corpus, in_order
from predictor.examples import Example, case_of, make_examples
from predictor.fitted import fit_predictor
from predictor.held_out import Refits
from predictor.horizon import first_epochs
from predictor.horizon_scores import score_horizons
from predictor.physical import CHOSEN, rehearsals
from predictor.prediction import predict_cases
from predictor.scores import HorizonScores
from predictor.verdicts import hangs_on_length, lengths_of, verdicts, why_none
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from tests.predictor_factories import FAMILIES, make_corpus, with_delta

NAMES = tuple(f"{name}{part}" for name in FAMILIES[:6] for part in "xy")
CHOICE = CANDIDATES[CHOSEN]


@pytest.fixture(scope="module")
def rows() -> list[CorpusRow]:
    """Models with headroom and models without in twelve families, which grow as rehearsed; in runs
    of 24 epochs they lose a point in the last six, but for one family, which always gains."""
    made = []
    for row in make_corpus(np.random.default_rng(0), families=NAMES):
        loses = 0.0 if row.family == NAMES[0] else 0.01
        gain = np.array([*[0.02] * 18, *[-loses] * 6])
        long = dataclasses.replace(row, epochs=24)
        fixed, sizes = np.linspace(0.5, 0.8, 24), rehearsals(case_of(long))[0]
        seconds = [float(100 / metrics.samples_per_s(row.curve, size)) for size in sizes]
        made.append(
            dataclasses.replace(
                long,
                fixed_batch_sizes=(16,) * 24,
                adaptive_batch_sizes=sizes,
                fixed_accuracies=tuple(fixed),
                adaptive_accuracies=tuple(fixed + gain),
                fixed_cpu_s=(1.0,) * 24,
                adaptive_cpu_s=tuple(seconds),
            )
        )
    return made


@pytest.fixture(scope="module")
def scores(rows: list[CorpusRow]) -> tuple[HorizonScores, ...]:
    return score_horizons(rows, CHOICE)


def rows_of(rows: list[CorpusRow], examples: list[Example]) -> list[CorpusRow]:
    """The rows that the examples are made of, which are in an order of their own."""
    assert [r.model for r in in_order(rows)] == [e.model for e in examples]
    return in_order(rows)


def naive_brier(by_epoch: list[list[bool]], told: list[float]) -> float:
    """Every last epoch of a row is an outcome of its own; all rows weigh alike."""
    return float(
        np.mean(
            [
                brier_score_loss(k, [p] * len(k), pos_label=True)
                for k, p in zip(by_epoch, told, strict=True)
            ]
        )
    )


def test_each_length_is_scored_as_runs_of_that_length(
    rows: list[CorpusRow], scores: tuple[HorizonScores, ...]
) -> None:
    assert [h.epochs for h in scores] == [10, 15, 20, 24]
    for h in scores:
        examples = make_examples([first_epochs(row, h.epochs) for row in in_order(rows)])
        # Had each run stopped at any of its last epochs; what it saves is that of the whole.
        by_epoch = [
            [
                e.time_saved_pct >= 10 and a - f >= -0.005 - 1e-9
                for a, f in list(zip(row.adaptive_accuracies, row.fixed_accuracies, strict=True))[
                    h.epochs - min(5, h.epochs // 4) : h.epochs
                ]
            ]
            for row, e in zip(rows_of(rows, examples), examples, strict=True)
        ]
        share = [np.mean(kinds) for kinds in by_epoch]
        told = [
            CHOICE.fit([o for o in examples if o.family != e.family])
            .estimates([e.case])
            .probability_of_benefit[0]
            for e in examples
        ]
        base = [
            np.mean([s for s, o in zip(share, examples, strict=True) if o.family != e.family])
            for e in examples
        ]
        got = {
            name: score.value
            for name in ("time_saved_pct", "harms", "benefits", "brier", "brier_of_base_rate")
            if (score := getattr(h, name)) is not None
        }
        assert got == {
            "time_saved_pct": pytest.approx(np.mean([e.time_saved_pct for e in examples])),
            "harms": pytest.approx(np.mean([e.harm_share for e in examples])),
            "benefits": pytest.approx(np.mean(share)),
            "brier": pytest.approx(naive_brier(by_epoch, told)),
            "brier_of_base_rate": pytest.approx(naive_brier(by_epoch, base)),
        }
        assert h.num_rows == len(rows)


def test_a_verdict_is_what_a_corpus_without_the_family_gives(
    rows: list[CorpusRow], scores: tuple[HorizonScores, ...], tmp_path: Path
) -> None:
    """By way of the file: fitted without the family, decided as a prediction is."""
    for h in scores:
        cut = [first_epochs(row, h.epochs) for row in rows]
        examples = make_examples(cut)
        expected = []
        for family in NAMES:
            path = tmp_path / f"{family}.csv"
            path.write_text(format_corpus([row for row in rows if row.family != family]))
            fitted = fit_predictor([path], epochs=h.epochs)
            expected += [
                predict_cases([case_of(row)], vars(row), fitted).verdict
                for row in in_order(cut)
                if row.family == family
            ]
        assert verdicts(Refits(CHOICE, examples), lengths_of(rows, DEFAULT_LIMITS)) == expected
        assert (h.adapt, h.keep_fixed) == (expected.count("adapt"), expected.count("keep_fixed"))


def test_right_verdicts_are_counted(scores: tuple[HorizonScores, ...]) -> None:
    """Half of 48 rows have no headroom, which needs no corpus; the others gain until epoch 18."""
    _, short, _, whole = scores
    assert (short.keep_fixed, short.keep_fixed_right) == (24, 24)
    assert (short.adapt, short.adapt_right) == (24, 24)
    # In runs of 24 epochs all but one family lose, so that one is told wrongly; to the others, of
    # whom the one that gains is seen, the share is no answer at 22 epochs, and so none at 24.
    assert (whole.adapt, whole.adapt_right) == (0, 0)
    assert (whole.keep_fixed, whole.keep_fixed_right) == (26, 24)


def test_limits_change_what_is_right(rows: list[CorpusRow]) -> None:
    whole = score_horizons(rows, CHOICE, Limits(max_accuracy_loss_pp=2.0))[-1]
    assert whole.harms is not None
    assert (whole.harms.value, whole.adapt, whole.adapt_right) == (0.0, 24, 24)


def test_lengths_lie_beyond_the_window_and_end_with_the_longest_run(rows: list[CorpusRow]) -> None:
    long = [dataclasses.replace(row, epochs=33, window_epochs=10) for row in rows[:16]]
    assert [h.epochs for h in score_horizons(long, CHOICE)] == [15, 20, 25, 30, 33]
    ahead = [dataclasses.replace(row, lr_schedule="cosine") for row in rows]
    assert score_horizons(ahead, BASELINES["majority"]) == ()
    assert score_horizons([], CHOICE) == ()


def test_whether_a_corpus_bears_out_verdicts_is_asked_without_the_family(
    rows: list[CorpusRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[set[str]]] = {"no_skill": [], "only_verdict": []}
    for name, families in seen.items():
        monkeypatch.setattr(
            module, name, lambda refits, kept=families: kept.append({*refits.family})
        )
    verdicts(Refits(CHOICE, make_examples(rows)), None)
    for asked in seen.values():
        assert [{*NAMES} - families for families in asked] == [{n} for n in sorted(NAMES)]


@pytest.mark.parametrize("changed", [{"num_params": 10**12}, {"profile_losses": (2.0,) * 24}])
def test_what_is_unlike_all_other_families_gets_no_verdict(
    rows: list[CorpusRow], changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its headroom alone speaks for it, by which a batch may have to be kept."""
    if "profile_losses" in changed:  # which are unlike the others', too
        monkeypatch.setattr(module, "unlike", lambda *_: None)
    short = [first_epochs(row, 15) for row in in_order(rows)]
    before = verdicts(Refits(CHOICE, make_examples(short)), lengths_of(short, DEFAULT_LIMITS))
    other = [
        dataclasses.replace(row, **changed) if row.family == NAMES[1] else row  # type: ignore[arg-type]
        for row in short
    ]
    expected = [
        "abstain" if row.family == NAMES[1] and said == "adapt" else said
        for row, said in zip(other, before, strict=True)
    ]
    assert (
        verdicts(Refits(CHOICE, make_examples(other)), lengths_of(other, DEFAULT_LIMITS))
        == expected
        != before
    )


@pytest.mark.parametrize("verdict", ["adapt", "keep_fixed"])
@pytest.mark.parametrize(("right", "told"), [(17, None), (16, "16 of 24"), (0, "0 of 24")])
def test_verdicts_that_came_true_too_seldom_are_not_given(
    rows: list[CorpusRow],
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    right: int,
    told: str | None,
) -> None:
    """17 of 24 are 71 %. Where there is no headroom a batch is kept, and that is always right."""
    examples = make_examples([first_epochs(row, 15) for row in rows])
    open_ = [e.benefits for e in examples]
    assert sum(open_) == 24
    said = [verdict if o else "keep_fixed" for o in open_]
    false = [i for i, o in enumerate(open_) if o][right:]
    lost = [
        with_delta(e, -9.0) if (i in false) == (verdict == "adapt") and open_[i] else e
        for i, e in enumerate(examples)
    ]
    monkeypatch.setattr(module, "no_skill", lambda _: None)
    monkeypatch.setattr(module, "verdicts", lambda *_, **__: said)
    reason = why_none(Refits(CHOICE, lost), lengths_of(rows, DEFAULT_LIMITS))
    if told is None:
        assert reason is None
    else:
        assert f"the verdict {verdict.replace('_', ' ')} came true in {told}, less often" in reason


def test_a_share_that_is_an_answer_at_one_length_and_not_near_it_is_none(
    rows: list[CorpusRow],
) -> None:
    """Of the last five epochs of runs of 19 one lost a point, of 20 two: 77 and 63 % benefit."""

    def asked(epochs: int, known: list[CorpusRow]) -> str | None:
        cut = [first_epochs(row, epochs) if epochs < row.epochs else row for row in known]
        return hangs_on_length(
            Refits(CHOICE, make_examples(cut)), lengths_of(known, DEFAULT_LIMITS)
        )

    assert [asked(epochs, rows) for epochs in (9, 15, 18)] == [None, None, None]
    told = asked(19, rows)
    assert told is not None
    assert "would be an answer at 19 epochs and is none at 20" in told
    # Where there is no such verdict nothing hangs on the length.
    assert [asked(epochs, rows) for epochs in (20, 21)] == [None, None]
    # Keeping the batch is an answer, too: of 24 epochs all five lost a point.
    assert "would be an answer at 24 epochs and is none at 22" in str(asked(24, rows))
    # Nothing is asked of runs longer than the rows are.
    short = [first_epochs(row, 19) for row in rows]
    assert asked(19, short) is None
    assert asked(18, short) is None


def test_a_prediction_asks_the_lengths_near_the_run(
    rows: list[CorpusRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_came_true_too_seldom", lambda _: None)
    path = tmp_path / "rows.csv"
    path.write_text(format_corpus(rows))

    def asked(epochs: int) -> tuple[str | None, str | None]:
        fitted = fit_predictor([path], epochs=epochs)
        return fitted.only_verdict, fitted.no_skill

    assert asked(17) == ("adapt", None)
    only, silent = asked(19)
    assert only == "adapt"
    assert silent is not None
    assert "would be an answer at 19 epochs and is none at 20" in silent
