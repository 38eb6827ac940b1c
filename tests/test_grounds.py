"""A prediction taken apart: its parts make it up, and the distance is what it says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from predictor import predict
from predictor.corpus import load_corpus
from predictor.examples import case_of, usable
from predictor.features import FEATURES, make_cases
from predictor.fitted import fitted_predictor
from predictor.grounds import make_grounds
from predictor.recipe import recipe_of, rows_like, rows_of
from predictor.scores import load_held_out
from stability_probe import metrics
from tests.report_factories import probed


def test_the_parts_make_up_the_prediction() -> None:
    c = probed()
    told, grounds = predict(c), make_grounds(c)
    assert grounds.probability_of_benefit == told.probability_of_benefit
    by_seed = [np.mean(r.saved_pct) for r in grounds.rehearsed]
    assert np.mean(by_seed) == pytest.approx(told.time_saved_pct)
    enough = np.mean([r.enough for r in grounds.rehearsed])
    product = enough * (1 - grounds.fitted.harm_rate)
    assert product == pytest.approx(told.probability_of_benefit)
    assert tuple(r.seed for r in grounds.rehearsed) == c.seeds


def test_each_path_saves_what_its_batch_sizes_take_on_the_curve() -> None:
    c = probed()
    for r in make_grounds(c).rehearsed:
        for path, saved in zip(r.paths, r.saved_pct, strict=True):
            fixed = sum(1 / metrics.samples_per_s(c.curve, 16) for _ in path)
            own = sum(1 / metrics.samples_per_s(c.curve, size) for size in path)
            assert saved == pytest.approx(100 * (1 - own / fixed))


def test_the_distance_is_the_naive_one() -> None:
    c = probed()
    fitted = fitted_predictor()
    own = np.mean([case.features for case in make_cases(c)], axis=0)
    nearest = make_grounds(c).neighbours[0]
    rows = [
        row
        for row in usable(rows_like(load_corpus(), None, c.config["epochs"]))
        if (row.model, row.data) == (nearest.model, nearest.data)
    ]
    mean = np.mean([case_of(row).features for row in rows], axis=0)
    ends = fitted.known.feature_low, fitted.known.feature_high
    squares = [
        ((m - o) / (high - low)) ** 2 for m, o, low, high in zip(mean, own, *ends, strict=True)
    ]
    # The hand-made windows measured no noise, so that feature tells no distance.
    known = [square for square in squares if not math.isnan(square)]
    assert len(known) == len(FEATURES) - 1
    assert nearest.distance == pytest.approx(math.sqrt(sum(known) / len(known)))
    assert nearest.seeds == len(rows)
    saved = [row.curve_saved_pct for row in rows]
    assert nearest.time_saved_pct.mean == pytest.approx(np.mean(saved))


def test_the_nearest_come_first_and_all_are_there() -> None:
    found = make_grounds(probed()).neighbours
    distances = [n.distance for n in found]
    assert distances == sorted(distances)
    rows = usable(rows_of(load_corpus(), None))
    assert len(found) == len({(row.model, row.data) for row in rows})
    assert sum(n.seeds for n in found) == len(rows)


def test_neighbours_are_of_its_own_recipe() -> None:
    c = probed()
    known = next(row for row in load_corpus() if row.lr_schedule == "cosine")
    recipe = dataclasses.asdict(recipe_of(vars(known)))
    cosine = dataclasses.replace(c, config={**c.config, **recipe, "epochs": known.epochs})
    found = make_grounds(cosine)
    rows = usable(rows_like(load_corpus(), recipe_of(cosine.config), known.epochs))
    assert {row.lr_schedule for row in rows} == {"cosine"}
    assert sum(n.seeds for n in found.neighbours) == len(rows)
    assert found.fitted.recipe.lr_schedule == "cosine"


def test_a_row_of_the_corpus_is_nearest_to_itself() -> None:
    row = usable(rows_of(load_corpus(), None))[0]
    c = probed()
    window = [
        dataclasses.replace(
            c.windows[0][0],
            epoch=i + 1,
            loss=row.profile_losses[i],
            grad_norm=row.profile_grad_norms[i],
            noise=None,
        )
        for i in range(row.window_epochs)
    ]
    same = dataclasses.replace(
        c, seeds=(0,), windows=(tuple(window),), metrics=c.metrics[:1], curve=row.curve,
        size=row.size,
    )  # fmt: skip
    assert make_grounds(same).neighbours[0].model == row.model


def test_features_are_told_in_their_own_units() -> None:
    c = probed()
    told = {f.name: f for f in make_grounds(c).features}
    assert len(told) == len(FEATURES)
    assert c.size is not None
    assert told["number of parameters"].value == pytest.approx(c.size.num_params)
    assert told["number of normalization layers"].value == pytest.approx(c.size.num_norm_layers)
    assert told["headroom"].value == pytest.approx(metrics.headroom(c.curve, 16))
    assert told["BatchNorm"].value == 1.0
    variation = np.exp(
        np.mean([np.log(abs(w[1].grad_norm - w[0].grad_norm) + 1e-3) for w in c.windows])
    )
    assert told["norm variation"].value == pytest.approx(variation - 1e-3, abs=1e-6)


def test_a_feature_outside_the_corpus_is_marked_where_a_verdict_is_refused() -> None:
    c = probed(config={"window_epochs": 4, "epochs": 50})
    assert c.size is not None
    huge = dataclasses.replace(c, size=dataclasses.replace(c.size, num_params=10**9))
    outside = [f.name for f in make_grounds(huge).features if f.outside]
    assert "number of parameters" in outside
    assert "number of parameters" not in [f.name for f in make_grounds(c).features if f.outside]
    assert any(f"its {name} lies" in predict(huge).reason for name in outside)


def test_the_shipped_scores_are_of_the_predictor_that_is_used() -> None:
    held = load_held_out()
    assert held.chosen == "rehearsal"
    assert held.recipe == recipe_of(vars(rows_of(load_corpus(), None)[0]))
    assert len(held.cases) == held.num_rows == len(usable(rows_of(load_corpus(), None)))
    errors = [abs(c.time_saved_told_pct - c.time_saved_pct) for c in held.cases]
    assert held.time_saved_mae.value == pytest.approx(np.mean(errors))
    errors = [abs(c.time_saved_told_pct - c.measured_saved_pct) for c in held.cases]
    assert held.time_saved_mae_measured.value == pytest.approx(np.mean(errors))
    inside = [
        c.time_saved_interval_pct[0] <= c.measured_saved_pct <= c.time_saved_interval_pct[1]
        for c in held.cases
    ]
    assert held.time_saved_coverage.value == pytest.approx(np.mean(inside))
