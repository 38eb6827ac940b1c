"""The stored scores of the shipped corpus: refitted here, they are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from predictor import bootstrap
from predictor.candidates import BASELINES, CANDIDATES
from predictor.corpus import load_corpus
from predictor.examples import make_examples, usable
from predictor.held_out import Refits
from predictor.horizon import rows_for
from predictor.horizon_scores import score_horizons
from predictor.outcomes import compare_arms
from predictor.physical import CHOSEN
from predictor.recipe import rows_of
from predictor.skill import brier
from predictor.variance import harm_shares, seed_floor, variance_shares
from stability_probe.plain import to_plain

STORED = json.loads((Path(__file__).parents[1] / "data" / "scores.json").read_text())
SLOW = {"trees", "gaussian process", "selected"}
"""Left to `probe evaluate`; so are intervals."""


@pytest.mark.parametrize("name", [s["name"] for s in STORED["scores"] if s["name"] not in SLOW])
def test_a_refit_scores_as_stored(name: str) -> None:
    (stored,) = [s for s in STORED["scores"] if s["name"] == name]
    examples = make_examples(usable(rows_of(load_corpus(), None)))
    told = Refits((BASELINES | CANDIDATES)[name], examples).leave_one_out()
    saved = np.array([e.time_saved_pct for e in examples])
    delta = np.array([e.accuracy_delta_pp for e in examples])
    # Linear algebra may differ in the last digits between machines.
    assert brier(told, examples) == pytest.approx(stored["brier"]["value"], rel=1e-6)
    assert np.abs(told.time_saved_pct - saved).mean() == pytest.approx(
        stored["time_saved_mae"]["value"], rel=1e-6
    )
    assert np.abs(told.accuracy_delta_pp - delta).mean() == pytest.approx(
        stored["accuracy_delta_mae"]["value"], rel=1e-6
    )


def test_what_the_rows_say_of_arms_and_variance_is_as_stored() -> None:
    rows = rows_of(load_corpus(), None)
    assert [a["name"] for a in STORED["arms"]] == [a.name for a in compare_arms(rows)]
    for stored, arm in zip(STORED["arms"], compare_arms(rows), strict=True):
        assert arm.time_saved_pct is not None
        assert stored["time_saved_pct"]["value"] == pytest.approx(arm.time_saved_pct.value)
    shares = to_plain(variance_shares(usable(rows)))
    assert set(STORED["shares"]) == set(shares)
    for outcome, stored in STORED["shares"].items():
        assert stored == pytest.approx(shares[outcome])
    kept = usable(rows)
    drawn = bootstrap.draw([r.family for r in kept])
    for name, told in (("floor", seed_floor(kept, drawn)), ("harm", harm_shares(kept, drawn))):
        for part, score in to_plain(told).items():
            assert STORED[name][part] == pytest.approx(score)
    # Every third length: each is fitted many times.
    few = {n: h for n, h in enumerate(STORED["horizons"]) if n % 3 == 2}
    for stored in few.values():
        (told,) = score_horizons(rows_for(kept, stored["epochs"]), CANDIDATES[CHOSEN])[-1:]
        for part, score in to_plain(told).items():
            assert stored[part] == pytest.approx(score), part
    assert STORED["num_rows"] == len(usable(rows))
