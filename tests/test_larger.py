"""What the corpus tells of a larger fixed batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from predictor import predict
from predictor.corpus import CorpusRow, format_corpus
from predictor.fitted import fitted_predictor
from predictor.larger import LargerBatch, larger_batch
from stability_probe.limits import Limits
from tests.factories import make_curve
from tests.predictor_factories import FAMILIES, make_characterization, make_corpus, outcome


def losing(row: CorpusRow, points: float) -> CorpusRow:
    return dataclasses.replace(
        row, adaptive_accuracies=outcome(0.0, -points)["adaptive_accuracies"]
    )


def at_fixed(row: CorpusRow, factor: int = 4, **fields: Any) -> CorpusRow:
    """A fixed run at a larger batch, beside the same fixed run as `row`."""
    size = factor * row.fixed_batch_sizes[0]
    values: dict[str, Any] = {
        "arm": f"larger{factor}",
        "scheduler": "fixed",
        "scheduler_args": "{}",
        "adaptive_lr": factor * row.lr,
        "adaptive_batch_sizes": (size,) * len(row.fixed_batch_sizes),
        "adaptive_run_id": f"{row.fixed_run_id}-x{factor}-{sorted(fields)}",
    }
    return dataclasses.replace(row, **(values | fields))


@pytest.fixture
def deba() -> list[CorpusRow]:
    """Of one model two runs and of another six, none of which loses accuracy."""
    rows = make_corpus(np.random.default_rng(0), families=FAMILIES[:1], seeds=6)
    one, other = sorted({row.model for row in rows})
    first = [row for row in rows if row.model == one][:2]
    return [losing(row, 0.0) for row in (*first, *(row for row in rows if row.model == other))]


def test_it_stands_beside_deba_of_the_same_runs_and_each_model_counts_alike(
    deba: list[CorpusRow],
) -> None:
    larger = [losing(at_fixed(deba[0]), 3.0), at_fixed(deba[1]), *map(at_fixed, deba[2:])]
    lost = [*deba[:2], *(losing(row, 1.0) for row in deba[2:5]), *deba[5:]]
    got = larger_batch([*lost, *larger])
    # One of the two runs of one model; three of the six of the other.
    none = {"collapses": 0, "deba_collapses": 0}
    assert got == LargerBatch(factor=4.0, num_pairs=8, harm_rate=0.25, deba_harm_rate=0.25, **none)
    lenient = larger_batch([*lost, *larger], Limits(max_accuracy_loss_pp=2.0))
    assert lenient == dataclasses.replace(got, deba_harm_rate=0.0)


def test_a_run_that_diverged_is_harm(deba: list[CorpusRow]) -> None:
    gone = at_fixed(deba[0], adaptive_status="diverged", adaptive_accuracies=(0.5,))
    got = larger_batch([*deba[:1], gone])
    assert got is not None
    assert (got.num_pairs, got.harm_rate, got.collapses, got.deba_collapses) == (1, 1.0, 1, 0)


def test_what_learned_next_to_nothing_is_counted_apart(deba: list[CorpusRow]) -> None:
    """The fixed runs end at 80 %, half of which is 40 points."""
    larger = [losing(at_fixed(row), lost) for row, lost in zip(deba, (39.0, 41.0), strict=False)]
    got = larger_batch([losing(deba[0], 70.0), *deba[1:], *larger])
    assert got is not None
    assert (got.num_pairs, got.collapses, got.deba_collapses) == (2, 1, 1)
    assert got.words(Limits(max_accuracy_loss_pp=1.5)).endswith(
        "lost more than 1.5 points in 100 % of 2 pairs, DEBA in 50 %; it learned next to nothing "
        "in 1, DEBA in 1"
    )


def test_what_is_no_larger_fixed_batch_does_not_count(deba: list[CorpusRow]) -> None:
    row = deba[0]
    others = [
        at_fixed(row, adaptive_lr=row.lr),
        at_fixed(row, 1),
        at_fixed(row, scheduler="timed"),
        at_fixed(row, fixed_run_id="of no pair"),
    ]
    assert larger_batch([*deba, *others]) is None
    assert larger_batch(deba) is None
    # Of several factors the one that was run most.
    got = larger_batch([*deba, *others, at_fixed(row, 8), *(at_fixed(r, 2) for r in deba[:2])])
    assert got is not None
    assert (got.factor, got.num_pairs) == (2.0, 2)


def test_a_prediction_tells_it_of_a_batch_as_large_and_of_a_case_like_the_corpus(
    tmp_path: Any,
) -> None:
    rows = [
        dataclasses.replace(row, epochs=60)
        for row in make_corpus(np.random.default_rng(0), families=FAMILIES[:5])
    ]
    path = tmp_path / "corpus.csv"
    larger = [losing(at_fixed(row), 1.0 if i % 4 == 0 else 0.0) for i, row in enumerate(rows)]
    path.write_text(format_corpus([*rows, *larger]))
    known = larger_batch([*rows, *larger])
    assert known is not None
    assert (known.num_pairs, fitted_predictor(path).larger) == (20, known)
    assert fitted_predictor(path).larger == known, "read back from what was stored"

    def plainer(*speeds: float, **fields: Any) -> str:
        curve = make_curve((16, 32, 64, 128, 256), speeds)
        config = {"epochs": 60} | fields
        return predict(make_characterization(curve=curve, config=config), path).alternative or ""

    told = plainer(100.0, 200.0, 320.0, 320.0, 320.0)
    assert told.startswith("a plain fixed batch of 64 would save 69 %")
    assert told.endswith(
        "in the corpus one 4 times as large as the initial, with its rate scaled, lost more than "
        "0.5 points in 25 % of 20 pairs, DEBA in 0 %"
    )
    unknown = "what it does to accuracy was not measured"
    assert unknown in plainer(100.0, 110.0, 120.0, 320.0, 320.0), "8 times as large"
    assert unknown in plainer(100.0, 200.0, 320.0, 320.0, 320.0, optimizer="adamw")
