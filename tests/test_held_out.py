"""Conformal intervals: the formula the long way round, no leak, and the promised coverage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from predictor.candidates import BASELINES, CANDIDATES
from predictor.examples import Example, make_examples, usable
from predictor.held_out import INTERVAL_LEVEL, Refits, intervals
from tests.predictor_factories import FAMILIES, make_corpus, make_corpus_row


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    made = make_corpus(np.random.default_rng(0), families=FAMILIES[:4], seeds=2)
    return make_examples(usable(made))


def naive_cv_plus(
    examples: list[Example], index: int, without: str | None, level: float
) -> tuple[float, float]:
    """Barber et al., arXiv 1905.02928, eq. (9) with a family as the fold, in plain loops."""
    low, high = [], []
    known = [e for e in examples if e.family != without]
    for one in known:
        others = [e for e in known if e.family != one.family]
        fitted = CANDIDATES["logistic"].fit(others)
        told = fitted.estimates([one.case, examples[index].case]).time_saved_pct
        error = abs(one.time_saved_pct - told[0])
        low.append(told[1] - error)
        high.append(told[1] + error)
    n = len(known)
    rank = int(np.ceil(round(level * (n + 1), 9)))
    return sorted(low)[n - rank], sorted(high)[rank - 1]


@pytest.mark.parametrize("without", [None, "alpha"])
def test_intervals_are_cv_plus_with_a_family_as_the_fold(
    examples: list[Example], without: str | None
) -> None:
    refits = Refits(CANDIDATES["logistic"], examples)
    at = [0, 3, 5]
    got = intervals(refits, at, without=without, level=0.8).time_saved_pct
    expected = [naive_cv_plus(examples, i, without, 0.8) for i in at]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_family_held_out_moves_none_of_its_own_ends(examples: list[Example]) -> None:
    own = [i for i, e in enumerate(examples) if e.family == "alpha"]
    odd = [
        dataclasses.replace(e, time_saved_pct=-300.0, accuracy_delta_pp=50.0)
        if e.family == "alpha"
        else e
        for e in examples
    ]
    ends = [
        intervals(Refits(CANDIDATES["logistic"], some), own, without="alpha")
        for some in (examples, odd)
    ]
    for name in ("time_saved_pct", "accuracy_delta_pp"):
        np.testing.assert_array_equal(getattr(ends[0], name), getattr(ends[1], name))


def test_too_few_rows_have_no_bound() -> None:
    rows = [make_corpus_row(family=f, seed=s) for f in "ab" for s in range(4)]
    got = intervals(Refits(BASELINES["majority"], make_examples(rows)), [0])
    assert (got.time_saved_pct == [[-np.inf, np.inf]]).all()
    one_family = [make_corpus_row(family="a", seed=s) for s in range(20)]
    got = intervals(Refits(BASELINES["majority"], make_examples(one_family)), [0])
    assert (got.accuracy_delta_pp == [[-np.inf, np.inf]]).all()


def test_intervals_cover_families_of_one_kind_as_often_as_promised() -> None:
    """Each family has one row with a known spread: a new one is inside nine times in ten."""
    rng = np.random.default_rng(1)
    base = make_examples([make_corpus_row()])[0]
    inside = []
    for _ in range(150):
        drawn = rng.normal(20.0, 10.0, size=15)
        made = [
            dataclasses.replace(base, family=f"f{i}", time_saved_pct=float(v))
            for i, v in enumerate(drawn)
        ]
        ends = intervals(Refits(BASELINES["majority"], made), [14], without="f14")
        low, high = ends.time_saved_pct[0]
        inside.append(low <= drawn[14] <= high)
    share = np.mean(inside)
    assert INTERVAL_LEVEL - 3 * np.sqrt(0.09 / 150) <= share
