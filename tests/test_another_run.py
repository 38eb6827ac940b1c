"""The benchmark that asks whether one pair of runs tells of another of the same model."""

from __future__ import annotations

import itertools
import math

import pytest

from predictor.corpus import CorpusRow
from tests.benchmarks.another_run import describe
from tests.predictor_factories import FAMILIES, make_corpus_row, outcome


@pytest.fixture(scope="module")
def rows() -> list[CorpusRow]:
    """Two models a family on two data sets, two seeds each, whose change is that of the model and
    data: as every even pattern of gains and losses is there once, nothing else goes with it."""
    made = []
    patterns = [p for p in itertools.product((1, -1), repeat=4) if math.prod(p) == 1]
    cells = list(itertools.product("ab", ("digits", "crops")))
    for family, pattern in zip(FAMILIES, patterns, strict=True):
        for (model, data), sign in zip(cells, pattern, strict=True):
            for seed in (0, 1):
                made.append(
                    make_corpus_row(
                        family=family,
                        model=family + model,
                        data=data,
                        seed=seed,
                        **outcome(30.0, (2.0 + seed) * sign),
                    )
                )
    return made


def test_a_seed_tells_of_another_where_the_change_is_the_models(rows: list[CorpusRow]) -> None:
    found = describe(rows)["another seed"]
    assert found["pairs"] == len(rows) == 64
    assert found["correlation"] == pytest.approx(2 * 3 / 6.5)  # a pair does not tell of itself
    # One pair like it and the others' share, near a half, as one more: a quarter off.
    assert found["brier"] == pytest.approx(0.25**2, abs=0.02)
    assert found["brier_base"] == pytest.approx(0.25, abs=0.03)
    assert found["brier_difference"].high < 0
    assert found["error_pp"] == pytest.approx(found["error_base_pp"] / 2, rel=0.05)


def test_what_tells_nothing_is_worse_than_the_base(rows: list[CorpusRow]) -> None:
    found = describe(rows)
    for kind in ("other data", "family"):
        assert found[kind]["correlation"] == pytest.approx(0.0, abs=1e-9)
        assert found[kind]["brier"] > found[kind]["brier_base"]
    assert "family" not in describe([r for r in rows if r.model.endswith("a")])
