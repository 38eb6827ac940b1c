"""A user's own rows: told by the shipped ones first, then learned from with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from predictor import refit as module
from predictor.candidates import CANDIDATES
from predictor.corpus import CorpusRow, format_corpus, load_corpus, own_corpus_path
from predictor.examples import make_examples, usable
from predictor.held_out import Refits
from predictor.horizon import first_epochs
from predictor.refit import refit
from tests.predictor_factories import FAMILIES, make_corpus, make_corpus_row


def shipped_fit() -> Path:
    return Path(__file__).parents[1] / "data" / "fitted.json"


@pytest.fixture
def shipped() -> list[CorpusRow]:
    return make_corpus(np.random.default_rng(0), families=FAMILIES[:3])


@pytest.fixture
def own() -> list[CorpusRow]:
    """Of which every second one was measured on a machine that ran twice as slow by then."""
    rows = make_corpus(np.random.default_rng(1), families=("mine",))
    twice = [tuple(2 * s for s in row.adaptive_cpu_s) for row in rows]
    return [
        dataclasses.replace(row, adaptive_cpu_s=slow) if i % 2 else row
        for i, (row, slow) in enumerate(zip(rows, twice, strict=True))
    ]


def test_own_rows_are_told_by_the_shipped_alone(
    shipped: list[CorpusRow], own: list[CorpusRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHOSEN", "logistic")
    got = refit(shipped, own)
    examples = make_examples(usable(own))
    fitted = CANDIDATES["logistic"].fit(make_examples(usable(shipped)))
    told = fitted.estimates([e.case for e in examples])
    assert [c.probability_of_benefit for c in got.own] == list(told.probability_of_benefit)
    truth = np.array([e.benefits for e in examples], float)
    assert got.own_brier == pytest.approx(np.mean((told.probability_of_benefit - truth) ** 2))
    assert got.own_time_saved_mae == pytest.approx(
        np.mean(
            [
                abs(e.measured_saved_pct - t)
                for e, t in zip(examples, told.time_saved_pct, strict=True)
            ]
        )
    )
    together = Refits(CANDIDATES["logistic"], make_examples(usable([*shipped, *own])))
    seconds = [e.measured_saved_pct for e in together.examples]
    assert got.together.time_saved_mae == pytest.approx(
        np.abs(together.leave_one_out().time_saved_pct - seconds).mean()
    )
    assert (got.shipped.num_rows, got.together.num_rows) == (12, 16)
    assert (got.shipped.num_families, got.together.num_families) == (3, 4)
    assert got.own_coverage == 0.5, "of the measured times, of which half are far off"
    worse = [dataclasses.replace(r, adaptive_accuracies=(0.1,) * 4) for r in own]
    changed = refit(shipped, worse)
    assert changed.shipped == got.shipped
    assert changed.together.brier != got.together.brier
    assert changed.own_coverage == got.own_coverage, "of the time saved, which is the same"
    for kind in ("time_saved_interval_pct", "accuracy_delta_interval_pp"):
        assert [getattr(c, kind) for c in changed.own] == [getattr(c, kind) for c in got.own]


def test_own_rows_are_told_by_runs_as_long(shipped: list[CorpusRow], own: list[CorpusRow]) -> None:
    short = [first_epochs(row, 3) for row in own[:2]]
    got = refit(shipped, [*own[2:], *short])
    assert [c.seed for c in got.own] == [row.seed for row in (*short, *own[2:])]
    alone = refit([first_epochs(row, 3) for row in shipped], short)
    assert got.own[: len(short)] == alone.own
    assert got.own[len(short) :] == refit(shipped, own[2:]).own
    assert alone.own != refit(shipped, own[:2]).own


def test_own_rows_are_told_by_runs_of_their_recipe(
    shipped: list[CorpusRow], own: list[CorpusRow]
) -> None:
    def at_cosine(rows: list[CorpusRow]) -> list[CorpusRow]:
        return [dataclasses.replace(row, lr_schedule="cosine") for row in rows]

    harmless = [dataclasses.replace(r, adaptive_accuracies=r.fixed_accuracies) for r in shipped[:9]]
    both = [*shipped, *at_cosine(harmless)]
    got = refit(both, [*at_cosine(own), own[0]])
    first, *others = got.own[::-1]
    assert first == refit(shipped, own[:1]).own[0]
    assert others[::-1] == list(refit(at_cosine(harmless), at_cosine(own)).own)
    # Scored together with the shipped are those of the commonest recipe.
    assert got.shipped == refit(shipped, []).shipped
    assert got.together == refit(shipped, own[:1]).together


def test_rows_of_another_reading_are_no_rows_of_it(shipped: list[CorpusRow]) -> None:
    timed = make_corpus_row(scheduler="timed", scheduler_args="{}")
    got = refit(shipped, [timed])
    assert got == refit(shipped, [])
    assert (got.own, got.own_brier, got.together) == ((), None, got.shipped)


def assert_alike(one: Any, other: Any) -> None:
    """Whatever is nested in them: other machines differ in the last digits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_alike(*pair)
    else:
        assert one == (pytest.approx(other) if isinstance(one, float) else other)


def test_the_command_tells_what_own_rows_change(tmp_path: Path) -> None:
    def invoke(*args: str) -> tuple[int, str, str]:
        got = CliRunner().invoke(cli.probe, ["fit", *args])
        return got.exit_code, got.stdout, got.stderr

    code, shown, _ = invoke("-o", str(tmp_path / "fitted.json"))
    assert code == 0
    assert "add some with probe corpus add RUN_ID" in shown
    written, stored = (
        json.loads(path.read_text()) for path in (tmp_path / "fitted.json", shipped_fit())
    )
    assert written.keys() == stored.keys()
    del written["crc32"], stored["crc32"]
    assert_alike(written, stored)
    own_corpus_path().parent.mkdir(parents=True)
    rows = usable(load_corpus())
    mine = [dataclasses.replace(r, family="mine", adaptive_run_id=r.arm) for r in rows[:3]]
    # A comparison that is shipped counts once, whoever adds it.
    own_corpus_path().write_text(format_corpus([*mine, *rows[3:6]]))
    code, shown, _ = invoke()
    assert code == 0
    assert "on your 3 rows: Brier" in shown
    code, text, _ = invoke("--json")
    assert (code, len(json.loads(text)["own"])) == (0, 3)
