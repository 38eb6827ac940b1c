"""What a row says of shorter runs and of longer ones, and what is predicted of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import predict
from predictor.check import contradictions
from predictor.corpus import CorpusRow, format_corpus, make_row
from predictor.examples import make_examples, usable
from predictor.fitted import FittedPredictor, fit_predictor, fitted_predictor
from predictor.horizon import _BLIND_TO_THE_END, first_epochs, rows_for
from predictor.recipe import recipe_of
from stability_probe import metrics
from stability_probe.config import RunConfig
from stability_probe.loop import train
from stability_probe.records import EpochRecord, RunResult
from stability_probe.schedulers import SCHEDULERS
from stability_probe.state import make_state
from tests.predictor_factories import (
    CURVE,
    FAMILIES,
    make_characterization,
    make_corpus,
    make_corpus_row,
    make_run,
    make_size,
)
from tests.tiny import blobs

ARGUMENTS: dict[str, dict[str, Any]] = {"replay": {"batch_sizes": [16, 24, 48, 64] * 4}}


def trained(scheduler: str, epochs: int, **fields: Any) -> list[EpochRecord]:
    values = {"lr": 0.05, "window_epochs": 2, "max_batch_size": 64, "channels_last": "off"} | fields
    config = RunConfig(
        model="tests.tiny:net",
        data="blobs",
        epochs=epochs,
        scheduler=scheduler,
        scheduler_args=ARGUMENTS.get(scheduler, {}) | {"cooldown": 1},
        device="cpu",
        **values,
    )
    return list(train(make_state(config, blobs()), blobs(), config))


def told(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    return [(r.batch_size, r.next_batch_size, r.loss, r.grad_norm, r.test_loss) for r in records]


@pytest.mark.parametrize("scheduler", _BLIND_TO_THE_END)
def test_the_first_epochs_of_a_run_are_a_shorter_run(scheduler: str) -> None:
    """To the bit. What all of this rests on."""
    long = trained(scheduler, 8)
    assert told(trained(scheduler, 5)) == told(long[:5])
    assert (len({r.batch_size for r in long}) > 1) == (scheduler != "fixed")


def test_what_looks_ahead_to_the_end_is_not_cut() -> None:
    assert told(trained("adabatch", 5)) != told(trained("adabatch", 10)[:5])
    cosine = {"lr_schedule": "cosine"}
    assert told(trained("deba", 5, **cosine)) != told(trained("deba", 8, **cosine)[:5])
    assert set(SCHEDULERS) - {*_BLIND_TO_THE_END} == {"adabatch", "random", "replay"}
    for fields in ({"scheduler": "adabatch"}, {"scheduler": "my.own:rule"}, cosine):
        row = make_corpus_row(**fields)
        assert rows_for([row], 3) == [row]


def runs(epochs: int) -> tuple[RunResult, RunResult]:
    """A fixed and an adaptive run of 1000 samples, and as many epochs of the same eight."""
    sizes = (16, 16, 24, 40, 64, 64, 96, 144)[:epochs]
    updates = [-(-1000 // size) for size in sizes]
    fixed = make_run(
        batch_sizes=(16,) * epochs,
        accuracies=[0.5 + 0.04 * i for i in range(epochs)],
        cpu_s=np.linspace(3.0, 3.3, 8)[:epochs].tolist(),
        updates=(63,) * epochs,
        norms=np.linspace(2.0, 1.0, 8)[:epochs].tolist(),
    )
    adaptive = make_run(
        batch_sizes=sizes,
        accuracies=[0.5 + 0.03 * i for i in range(epochs)],
        cpu_s=np.linspace(3.0, 1.0, 8)[:epochs].tolist(),
        updates=updates,
        scheduler="deba",
    )
    return fixed, adaptive


def made(epochs: int) -> CorpusRow:
    return make_row(*runs(epochs), CURVE, arm="deba", size=make_size(), max_batch_size=256)


@pytest.mark.parametrize("epochs", [2, 3, 5, 7])
def test_a_cut_row_is_that_of_the_shorter_runs(epochs: int) -> None:
    got, expected = first_epochs(made(8), epochs), made(epochs)
    ids = {"fixed_run_id", "adaptive_run_id", "fixed_wall_s", "adaptive_wall_s"}
    for field in dataclasses.fields(CorpusRow):
        if field.name not in ids:
            assert getattr(got, field.name) == getattr(expected, field.name), field.name
    assert list(contradictions(got)) == []
    # Wall seconds are shared out by the curve, and so in equal parts where the batch is the same.
    assert got.fixed_wall_s == pytest.approx(made(8).fixed_wall_s * epochs / 8)
    speed = [metrics.samples_per_s(CURVE, size) for size in made(8).adaptive_batch_sizes]
    share = sum(1 / s for s in speed[:epochs]) / sum(1 / s for s in speed)
    assert got.adaptive_wall_s == pytest.approx(made(8).adaptive_wall_s * share)


def test_a_run_that_diverged_later_had_not_done_so_yet() -> None:
    row = dataclasses.replace(
        made(8),
        adaptive_status="diverged",
        adaptive_batch_sizes=made(8).adaptive_batch_sizes[:5],
        adaptive_accuracies=made(8).adaptive_accuracies[:5],
        adaptive_cpu_s=made(8).adaptive_cpu_s[:5],
    )
    assert [first_epochs(row, n).adaptive_status for n in (4, 5, 6)] == [
        *("finished", "finished", "diverged")
    ]
    assert first_epochs(row, 5).accuracy_delta_pp == first_epochs(made(8), 5).accuracy_delta_pp
    assert first_epochs(row, 6).accuracy_delta_pp < -50


LONG = make_corpus_row(epochs=8)
COSINE = make_corpus_row(epochs=8, lr_schedule="cosine")


@pytest.mark.parametrize(
    ("epochs", "lengths"),
    [
        (None, [8, 8, 4]),
        (2, [2, 2]),  # a cosine rate of eight epochs is none of two
        (4, [4, 8, 4]),
        (6, [6, 8, 4]),
        (8, [8, 8, 4]),
        (9, [8, 8]),  # a row of four epochs speaks for eight at most
        (16, [8, 8]),
        (17, [8, 8, 4]),  # none speaks for it: as they are
    ],
)
def test_which_rows_speak_for_a_length(epochs: int | None, lengths: list[int]) -> None:
    rows = [LONG, COSINE, make_corpus_row(epochs=4)]
    assert [row.epochs for row in rows_for(rows, epochs)] == lengths


@given(
    st.lists(st.tuples(st.integers(2, 30), st.booleans()), min_size=1, max_size=5),
    st.integers(2, 80),
)
def test_a_fit_is_kept_for_lengths_that_leave_its_rows_as_they_are(
    kinds: list[tuple[int, bool]], epochs: int
) -> None:
    rows = [
        make_corpus_row(epochs=n, lr_schedule="cosine" if cosine else "fixed", seed=i)
        for i, (n, cosine) in enumerate(kinds)
    ]
    recipe = recipe_of(vars(rows[0]))
    fitted = object.__new__(FittedPredictor)
    object.__setattr__(fitted, "recipe", recipe)
    object.__setattr__(fitted, "recipes", ())
    object.__setattr__(fitted, "run_epochs", (min(kinds)[0], max(kinds)[0]))
    if fitted.is_for(recipe, epochs):
        assert rows_for(rows, epochs) == rows
    if not any(cosine for _, cosine in kinds):
        assert fitted.is_for(recipe, epochs) == (rows_for(rows, epochs) == rows)


@pytest.fixture
def late_harm() -> list[CorpusRow]:
    """Twelve families whose runs save much, gain by the third epoch and lose two points in the
    fourth."""
    names = tuple(f"{name}{part}" for name in FAMILIES[:6] for part in "xy")
    rows = make_corpus(np.random.default_rng(0), families=names)
    return [
        dataclasses.replace(
            row,
            adaptive_batch_sizes=(16, 64, 256, 256),
            adaptive_accuracies=(0.5, 0.62, 0.72, 0.78),
            adaptive_cpu_s=(1.0, 0.4, 0.2, 0.2),
        )
        for row in rows
        if row.model.endswith("0")
    ]


def test_what_is_told_of_a_run_is_what_came_of_runs_as_long(
    late_harm: list[CorpusRow], tmp_path: Path
) -> None:
    path, cut = tmp_path / "corpus.csv", tmp_path / "cut.csv"
    path.write_text(format_corpus(late_harm))
    cut.write_text(format_corpus([first_epochs(row, 3) for row in late_harm]))
    whole, short = (fitted_predictor(path, epochs=n) for n in (4, 3))
    assert (whole.harm_rate, short.harm_rate) == (pytest.approx(1.0), 0.0)
    assert (whole.mean_delta_pp, short.mean_delta_pp) == (pytest.approx(-2.0), pytest.approx(2.0))
    expected = fit_predictor([cut])
    same = {f.name for f in dataclasses.fields(short)} - {"key", "recipes"}
    for name in same:
        np.testing.assert_equal(getattr(short, name), getattr(expected, name), err_msg=name)
    assert "over 3 epochs" in short.basis
    assert short.run_epochs == (3, 3)
    assert short.recipes == whole.recipes, "the corpus speaks for as much as it did"
    # A longer run is told what whole runs came to, up to twice their length.
    assert fitted_predictor(path, epochs=8) == whole


def test_a_prediction_asks_for_its_own_length(late_harm: list[CorpusRow], tmp_path: Path) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(late_harm))
    told = {
        n: predict(make_characterization(config={"epochs": n}), path).accuracy_delta_pp
        for n in (2, 3, 4, 8, 9)
    }
    assert told == {
        2: pytest.approx(2.0),
        3: pytest.approx(2.0),
        4: pytest.approx(-2.0),
        8: pytest.approx(-2.0),
        9: pytest.approx(-2.0),
    }
    far = predict(make_characterization(config={"epochs": 9}), path)
    assert far.time_saved_interval_pct is None
    assert far.reason == (
        "its number of epochs is 9, and the corpus speaks for 2 to 8; see --epochs"
    )


def test_a_prediction_is_made_of_runs_of_its_own_recipe(
    late_harm: list[CorpusRow], tmp_path: Path
) -> None:
    """The same models at a cosine rate, where nothing is lost: each is told its own."""
    half = late_harm[: len(late_harm) // 2]
    cosine = [
        dataclasses.replace(row, lr_schedule="cosine", adaptive_accuracies=row.fixed_accuracies)
        for row in half
    ]
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus([*cosine, *late_harm]))
    told = {
        name: predict(make_characterization(config={"epochs": 4, "lr_schedule": name}), path)
        for name in ("fixed", "cosine", "step")
    }
    assert {name: p.accuracy_delta_pp for name, p in told.items()} == {
        "fixed": pytest.approx(-2.0),
        "cosine": pytest.approx(0.0),
        "step": pytest.approx(-2.0),  # a number of the commonest, and no verdict
    }
    for name, rows in (("fixed", late_harm), ("cosine", cosine)):
        assert f"{len(rows)} paired full runs" in told[name].basis
        assert f"over 4 epochs at a {name} learning rate" in told[name].basis
    assert told["step"].reason == "the corpus holds too few runs with a step learning rate"
    # As if the others were not there.
    path.write_text(format_corpus(cosine))
    alone = predict(make_characterization(config={"epochs": 4, "lr_schedule": "cosine"}), path)
    assert told["cosine"] == alone


def test_what_counts_is_asked_of_the_runs_as_they_were_by_then(
    late_harm: list[CorpusRow], tmp_path: Path
) -> None:
    """One net learns in its fourth epoch only; another's fixed run diverges there."""
    first, second, *others = late_harm
    late = dataclasses.replace(first, profile_losses=(2.0, 2.0, 2.0, 1.0))
    diverged = dataclasses.replace(
        second,
        fixed_status="diverged",
        fixed_batch_sizes=second.fixed_batch_sizes[:3],
        fixed_accuracies=second.fixed_accuracies[:3],
        fixed_cpu_s=second.fixed_cpu_s[:3],
    )
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus([late, diverged, *others]))
    counts = {n: fitted_predictor(path, epochs=n).basis.partition(" paired")[0] for n in (2, 3, 4)}
    assert counts == {2: "23", 3: "23", 4: "23"}
    rows = [late, diverged, *others]
    kept = {n: {r.adaptive_run_id for r in usable(rows_for(rows, n))} for n in (3, 4)}
    assert kept[3] ^ kept[4] == {late.adaptive_run_id, diverged.adaptive_run_id}
    assert diverged.adaptive_run_id in kept[3]


def test_examples_of_a_length_are_of_that_length(late_harm: list[CorpusRow]) -> None:
    (one, *_) = make_examples(rows_for(usable(late_harm), 3))
    row = usable(late_harm)[0]
    assert (one.case.epochs, one.path) == (3, (16, 64, 256))
    assert one.measured_saved_pct == pytest.approx(100 * (1 - 1.6 / 3))
    speeds = [metrics.samples_per_s(row.curve, size) for size in (16, 64, 256)]
    curve_s = [sum(1 / s for s in speeds), 3 / speeds[0]]
    assert one.time_saved_pct == pytest.approx(100 * (1 - curve_s[0] / curve_s[1]))
