"""The benchmark that asks whether a longer window would tell who keeps the accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.corpus import CorpusRow
from tests.benchmarks.longer_window import describe, known_after
from tests.predictor_factories import FAMILIES, make_corpus_row

RISING = tuple(np.linspace(0.5, 0.73, 24))


def rows_that_part_at(epoch: int, *, arm: str = "deba", sign: int = 1) -> list[CorpusRow]:
    """In each family a model that gains two to three points from an epoch on and one that loses
    them, alike until then, the last five epochs at 75 % less time."""
    rows = []
    for number, family in enumerate(FAMILIES):
        for gains in (1, -1):
            points = sign * gains * (0.02 + 0.001 * number)
            then = [0.0] * (epoch - 1) + [points] * (25 - epoch)
            rows.append(
                make_corpus_row(
                    family=family,
                    model=f"{family} {gains}",
                    arm=arm,
                    scheduler="deba" if arm == "deba" else "fixed",
                    epochs=24,
                    fixed_batch_sizes=(16,) * 24,
                    adaptive_batch_sizes=(256,) * 24,
                    fixed_accuracies=RISING,
                    adaptive_accuracies=tuple(np.add(RISING, then)),
                    fixed_cpu_s=(1.0,) * 24,
                    adaptive_cpu_s=(0.25,) * 24,
                )
            )
    return rows


def test_what_is_known_is_the_mean_of_the_last_three_epochs_so_far() -> None:
    row = make_corpus_row(
        fixed_accuracies=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        adaptive_accuracies=(0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    )
    known = known_after(4, [row, row], [row, None])
    assert known["DEBA"] == pytest.approx(np.full(2, 10 / 3))
    assert known["gain"] == pytest.approx(np.full(2, 30.0 - 15.0))
    assert known["larger"] == pytest.approx([10 / 3, np.nan], nan_ok=True)


def test_a_lead_tells_from_the_epoch_on_at_which_it_is_there() -> None:
    found = describe(rows_that_part_at(8))
    before, after = found["DEBA 4"], found["DEBA 10"]
    assert before["rank"] is None
    assert before["brier"] == pytest.approx(before["base"]) == 0.25
    assert after["rank"].value == pytest.approx(1.0)
    assert after["brier"] < 0.15
    assert after["difference"].high < 0
    assert found["gain 10"]["rank"] is None
    assert "larger 4" not in found


def test_a_larger_batch_that_does_the_contrary_is_ranked_the_other_way_round() -> None:
    rows = rows_that_part_at(8) + rows_that_part_at(8, arm="larger", sign=-1)
    found = describe(rows)["larger 10"]
    assert found["rows"] == 16
    assert found["rank"].value == pytest.approx(-1.0)
