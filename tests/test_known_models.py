"""What the corpus tells of the very model that is asked about."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from predictor import predict
from predictor.corpus import CorpusRow, format_corpus
from predictor.fitted import fitted_predictor
from predictor.known_models import known_models, measured_before
from predictor.recipe import recipe_of
from predictor.report_parts import verdict_of
from predictor.summary import verdict_lines
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import MeanStd
from tests.predictor_factories import make_characterization, make_corpus_row, make_size


def row(seed: int, points: float, **fields: Any) -> CorpusRow:
    """Of DEBA, whose last accuracy differs by so many points from the fixed run's 0.8."""
    ends = (0.5, 0.6, 0.7, 0.8 + points / 100)
    made = make_corpus_row(seed=seed, adaptive_accuracies=ends, **fields)
    return dataclasses.replace(made, adaptive_run_id=f"{made.data}-{made.epochs}-{made.lr}-{seed}")


ROWS = (row(0, -3.0), row(1, -1.0), row(0, 2.0, data="crops"))


def test_seeds_are_put_together_and_nothing_else_is() -> None:
    got = known_models(ROWS)
    assert [(k.data, k.num_pairs, k.harms) for k in got] == [("crops", 1, 0), ("digits", 2, 2)]
    # Sample standard deviation of -3 and -1.
    delta = got[1].accuracy_delta_pp
    assert (delta.mean, delta.std) == (pytest.approx(-2.0), pytest.approx(2**0.5))
    assert got[0].accuracy_delta_pp == MeanStd(mean=pytest.approx(2.0), std=None)
    assert [k.harms for k in known_models(ROWS, Limits(max_accuracy_loss_pp=2.0))] == [0, 1]
    for other in ({"lr": 0.02}, {"epochs": 5}, {"num_macs": 7}, {"momentum": 0.0}):
        assert [k.num_pairs for k in known_models([*ROWS, row(2, 0.0, **other)])].count(1) == 2
    assert known_models(reversed(ROWS)) == got, "whatever the order of the file"


def test_a_model_is_told_what_was_measured_of_it_on_its_own_data() -> None:
    known = known_models(ROWS)
    assert measured_before(make_characterization(), known) == (
        "DEBA changed this model's accuracy by -2.0 ± 1.4 points on 1000 samples of digits (2 "
        "pairs of runs, 4 epochs; more than 0.5 lost in 2)"
    )
    elsewhere = make_characterization(config={"data": "fashion-mnist"})
    assert measured_before(elsewhere, known) == (
        "DEBA changed this model's accuracy by +2.0 points on 1000 samples of crops (1 pair of "
        "runs, 4 epochs; more than 0.5 lost in 0); -2.0 ± 1.4 points on 1000 samples of digits (2 "
        "pairs of runs, 4 epochs; more than 0.5 lost in 2), which says little of other data"
    )
    wide = Limits(max_accuracy_loss_pp=2.0)
    told = measured_before(make_characterization(), known_models(ROWS, wide), wide)
    assert told is not None
    assert told.endswith("more than 2 lost in 1)")


@pytest.mark.parametrize(
    "other",
    [
        {"num_params": 1_000_001},
        {"size": make_size(num_macs=1)},
        {"config": {"model": "resnet18"}},
        {"config": {"lr": 0.011}},
        {"config": {"batch_size": 32}},
        {"config": {"optimizer": "adamw"}},
        {"config": {"lr_schedule": "cosine"}},
    ],
)
def test_another_model_or_recipe_is_told_nothing(other: dict[str, Any]) -> None:
    known = known_models(ROWS)
    assert measured_before(make_characterization(**other), known) is None
    assert measured_before(make_characterization(), ()) is None
    # One stored before sizes were recorded is known by its name and parameters.
    assert measured_before(make_characterization(size=None), known) is not None


def test_a_prediction_carries_it_to_screen_and_page_and_into_the_stored_fit(tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    others = [row(s, 0.0, family=f, model=f"{f}1") for f in ("alpha", "beta") for s in range(2)]
    path.write_text(format_corpus([*ROWS, *others]))
    first, again = fitted_predictor(path).models, fitted_predictor(path).models
    assert len(first) == 4
    assert first == again, "read back from what was stored"
    assert first[-1].recipe == recipe_of(make_characterization().config)
    p = predict(make_characterization(), path)
    assert p.measured_before == measured_before(make_characterization(), first, DEFAULT_LIMITS)
    assert p.measured_before is not None
    console = Console(width=200)
    with console.capture() as shown:
        console.print(verdict_lines(p))
    assert f"seen before: {p.measured_before}" in shown.get()
    assert f"Seen before: {p.measured_before}." in verdict_of(p).advice
    unknown = predict(make_characterization(config={"model": "resnet18"}), path)
    assert unknown.measured_before is None
    with console.capture() as shown:
        console.print(verdict_lines(unknown))
    assert "seen before" not in shown.get()
