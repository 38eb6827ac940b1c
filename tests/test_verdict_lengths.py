"""The benchmark that asks which verdicts the corpus bears out of runs of many lengths."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.candidates import BASELINES
from predictor.skill import FEWEST_ALIKE
from stability_probe.limits import DEFAULT_LIMITS, Limits
from tests.benchmarks.verdict_lengths import describe
from tests.predictor_factories import make_corpus_row, outcome


def told(losing: int, families: int, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Of two models a family that save some 40 %; those of the first `losing` lose two points."""
    rows = [
        make_corpus_row(
            family=f"f{i}",
            model=f"f{i}{model}",
            **outcome(40.0 + scatter, -2.0 if i < losing else 0.5),
        )
        for i in range(families)
        for model, scatter in (("a", -1.0), ("b", 1.0))
    ]
    return describe(rows, rows[0].epochs, limits, BASELINES["majority"])


def test_where_all_benefit_each_is_told_to_adapt_by_the_others() -> None:
    found = told(losing=0, families=FEWEST_ALIKE + 1)
    assert found["rows"] == 2 * FEWEST_ALIKE + 2
    assert found["share_of_benefits"].value == 1
    assert (found["only"], found["why_none"]) == ("adapt", None)
    assert found["before"] == found["after"] == {"adapt": found["rows"], "right": found["rows"]}


def test_what_came_true_is_counted_by_the_limits_asked() -> None:
    """One family of twelve loses: the others' share is adapt, and wrong of that one."""
    strict = told(losing=1, families=12)
    assert strict["share_of_benefits"].value == pytest.approx(11 / 12)
    assert strict["before"] == strict["after"] == {"adapt": 24, "right": 22}
    lenient = told(losing=1, families=12, limits=Limits(max_accuracy_loss_pp=3.0))
    assert lenient["after"] == {"adapt": 24, "right": 24}
    # Of five of twelve that lose no verdict is left, by the corpus or by the others of a family.
    none = told(losing=5, families=12)
    assert (none["only"], none["after"]) == (None, {"adapt": 0, "right": 0})
    assert none["no_skill"] == none["why_none"]
    assert "base rate" in none["no_skill"]


def test_intervals_are_counted_each_and_both_at_once() -> None:
    inside = told(losing=1, families=12)["inside"]
    # The two that lose are outside: their interval was made of the others' errors.
    assert inside == {"time_saved_pct": 24, "accuracy_delta_pp": 22, "both": 22}
