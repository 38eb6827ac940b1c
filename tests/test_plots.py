"""Figures: the numbers behind them, the lines drawn, the files written."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stability_probe import plots, series
from stability_probe.config import RunConfig
from stability_probe.errors import RunError, UsageError
from stability_probe.metrics import mean_std, relative_change
from stability_probe.records import (
    Characterization,
    Comparison,
    EpochRecord,
    Prediction,
    RunResult,
    StabilityMetrics,
    ThroughputCurve,
    ThroughputPoint,
    Validation,
)

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def make_epochs(count: int, seed: int = 0, **changes: Any) -> tuple[EpochRecord, ...]:
    """A plausible falling run; `changes` replace fields in every epoch."""
    random = np.random.default_rng(seed)
    epochs: list[EpochRecord] = []
    for number in range(1, count + 1):
        norm = 2.0 + 3.0 / number + 0.1 * random.standard_normal()
        loss = 0.2 + 2.0 / number + 0.02 * random.standard_normal()
        last = epochs[-1] if epochs else None
        values: dict[str, Any] = {
            "epoch": number, "batch_size": 16, "micro_batch_size": 16, "lr": 0.01, "updates": 100,
            "samples": 1600, "loss": loss, "grad_norm": norm, "grad_norm_sem": 0.1,
            "grad_norm_last": norm, "grad_component_variance": norm**2 / 1e6,
            "num_measured_steps": 20,
            "grad_norm_variation": last and relative_change(norm, last.grad_norm),
            "loss_variation": last and relative_change(loss, last.loss),
            "test_loss": loss + 0.1, "test_accuracy": 0.9 - 0.7 / number, "time_s": 1.0,
            "cpu_s": 1.0,
        }  # fmt: skip
        epochs.append(EpochRecord(**(values | changes)))
    return tuple(epochs)


def make_adaptive(sizes: Sequence[int]) -> tuple[EpochRecord, ...]:
    """Epochs at these batch sizes, each change recorded as a decision of the epoch before."""
    epochs = []
    for index, epoch in enumerate(make_epochs(len(sizes))):
        after = sizes[min(index + 1, len(sizes) - 1)]
        change = after - sizes[index]
        action = "increase" if change > 0 else "rollback" if change < 0 else "hold"
        changes: dict[str, Any] = {"action": action, "next_batch_size": after}
        epochs.append(dataclasses.replace(epoch, batch_size=sizes[index], **changes))
    return tuple(epochs)


def make_result(epochs: tuple[EpochRecord, ...], **changes: Any) -> RunResult:
    config = RunConfig(model="resnet18", scheduler="deba")
    values: dict[str, Any] = {
        "run_id": config.run_id(), "config": config.to_dict(), "status": "finished",
        "device": "cpu", "num_params": 11_000_000, "num_train": 1600, "num_test": 400,
        "memory_format": "channels_last", "environment": {}, "epochs": epochs,
    }  # fmt: skip
    return RunResult(**(values | changes))


def make_curve(speeds: Sequence[float], first: int = 16, **changes: Any) -> ThroughputCurve:
    points = tuple(
        ThroughputPoint(batch_size=first * 2**k, samples_per_s=speed, spread=0.06)
        for k, speed in enumerate(speeds)
    )
    values: dict[str, Any] = {
        "points": points, "memory_format": "channels_last", "memory_format_reason": "faster",
        "busy": False,
    }  # fmt: skip
    return ThroughputCurve(**(values | changes))


def make_characterization(num_seeds: int = 3, epochs: int = 4) -> Characterization:
    metrics = StabilityMetrics(
        stability_score=0.8, grad_norm_variation=0.1, grad_component_variance=1e-6,
        loss_variation=0.2, noise_scale=None,
    )  # fmt: skip
    return Characterization(
        config=RunConfig(model="resnet50").to_dict(), seeds=tuple(range(num_seeds)), device="cpu",
        num_params=25_000_000, num_train=1600, num_test=400, max_batch_size=320,
        normalization="batch", metrics=(metrics,) * num_seeds,
        windows=tuple(make_epochs(epochs, seed) for seed in range(num_seeds)),
        curve=make_curve([289, 420, 560, 660, 720, 743]), probe_s=40.0, environment={},
    )  # fmt: skip


def make_validation(time_saved: Sequence[float], accuracy: Sequence[float]) -> Validation:
    prediction = Prediction(
        verdict="adapt", probability_of_benefit=0.8, time_saved_pct=30.0,
        time_saved_interval_pct=(12.0, 45.0), accuracy_delta_pp=0.4,
        accuracy_delta_interval_pp=(-0.8, 1.5), interval_level=0.8, reason="", basis="",
    )  # fmt: skip
    comparisons = tuple(
        Comparison(
            seed=seed, time_saved_pct=saved, accuracy_delta_pp=delta, updates_saved_pct=50.0,
            time_to_target_saved_pct=20.0, benefit_class="benefits",
        )
        for seed, (saved, delta) in enumerate(zip(time_saved, accuracy, strict=True))
    )  # fmt: skip
    return Validation(
        config=RunConfig(model="resnet50").to_dict(), seeds=tuple(range(len(time_saved))),
        prediction=prediction, comparisons=comparisons,
        time_saved_pct=mean_std(time_saved), accuracy_delta_pp=mean_std(accuracy),
        updates_saved_pct=50.0, time_to_target_saved_pct=20.0, benefit_class="benefits",
        inside_interval=True, class_correct=True,
    )  # fmt: skip


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def drawn(ax: Axes, line: int = 0) -> np.ndarray:
    return np.asarray(ax.lines[line].get_xydata())


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


# The numbers


def test_a_single_run_and_several_are_told_apart() -> None:
    run, other = make_epochs(3), make_epochs(2)
    assert series.epochs_by_seed(run) == [list(run)]
    assert series.epochs_by_seed([run, other]) == [run, other]
    assert series.epochs_by_seed([]) == []


def test_series_skips_missing_values_and_breaks_at_values_that_are_not_finite() -> None:
    epochs = list(make_epochs(4))
    epochs[2] = dataclasses.replace(epochs[2], grad_norm_variation=math.inf)
    x, y = series.epoch_series(epochs, "grad_norm_variation")
    assert x.tolist() == [2, 3, 4]
    np.testing.assert_array_equal(np.isnan(y), [False, True, False])
    assert [len(part) for part in series.epoch_series([], "loss")] == [0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 31.0], True),
        ([1.0, 30.0], False),
        ([0.0, 1e6], False),
        ([-1.0, 1e6], False),
        ([1.0, math.nan, math.inf], False),
        ([math.nan], False),
        ([], False),
    ],
)
def test_log_axis_is_for_positive_values_that_span_widely(
    values: list[float], expected: bool
) -> None:
    assert series.wants_log(values) is expected


def test_decisions_lie_between_the_epochs_they_separate() -> None:
    epochs = make_adaptive([16, 16, 24, 36, 28])
    assert series.batch_decisions(epochs, "increase") == [(2.5, 24), (3.5, 36)]
    assert series.batch_decisions(epochs, "rollback") == [(4.5, 28)]


def test_a_decision_no_epoch_followed_is_not_drawn() -> None:
    last = dataclasses.replace(make_epochs(1)[0], action="increase", next_batch_size=24)
    assert series.batch_decisions([last], "increase") == []


def test_speed_ups_refer_to_the_initial_batch() -> None:
    curve = make_curve([100.0, 200.0, 300.0])
    assert series.speed_ups(curve) == [1.0, 2.0, 3.0]
    assert series.speed_ups(curve, 32) == [0.5, 1.0, 1.5]
    assert series.speed_ups(make_curve([])) == []
    assert math.isnan(series.speed_ups(make_curve([0.0]))[0])


def test_symmetric_limit_holds_every_finite_value() -> None:
    assert series.symmetric_limit([-4.0, 2.0, math.inf, math.nan]) == pytest.approx(4.6)
    assert series.symmetric_limit([0.0]) == series.symmetric_limit([]) == 1.0


# What is drawn


@pytest.mark.parametrize(
    ("draw", "fields"),
    [
        (plots.draw_norms, ["grad_norm"]),
        (plots.draw_component_variance, ["grad_component_variance"]),
        (plots.draw_variation, ["grad_norm_variation", "loss_variation"]),
        (plots.draw_loss, ["loss", "test_loss"]),
        (plots.draw_accuracy, ["test_accuracy"]),
    ],
)
def test_lines_are_the_records(ax: Axes, draw: Any, fields: list[str]) -> None:
    windows = [make_epochs(4, seed) for seed in range(2)]
    draw(ax, windows, (7, 9))
    expected = [
        [(e.epoch, getattr(e, field)) for e in window if getattr(e, field) is not None]
        for window in windows
        for field in fields
    ]
    assert len(ax.lines) == len(expected)
    for line, points in enumerate(expected):
        np.testing.assert_allclose(drawn(ax, line), points)
    assert legend_texts(ax) == ["seed 7", "seed 9"]
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel()
    assert ax.get_title()


def test_a_single_run_names_its_fields_and_needs_no_legend_for_one_line(ax: Axes) -> None:
    plots.draw_loss(ax, make_epochs(4))
    assert legend_texts(ax) == ["training", "test"]
    other = Figure().subplots()
    plots.draw_norms(other, make_epochs(4))
    assert legend_texts(other) == []


def test_norm_band_is_one_standard_error_wide(ax: Axes) -> None:
    plots.draw_norms(ax, make_epochs(3, grad_norm=2.0, grad_norm_sem=0.25))
    corners = np.asarray(ax.collections[0].get_paths()[0].vertices)
    assert (corners[:, 1].min(), corners[:, 1].max()) == (1.75, 2.25)


def test_epoch_ticks_are_whole_numbers(ax: Axes) -> None:
    for count in (1, 2, 4, 100):
        plots.draw_loss(ax, make_epochs(count))
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_wide_values_get_a_log_axis(ax: Axes) -> None:
    wide = list(make_epochs(4))
    wide[0] = dataclasses.replace(wide[0], grad_norm=1000.0)
    plots.draw_norms(ax, wide)
    assert ax.get_yscale() == "log"
    other = Figure().subplots()
    plots.draw_norms(other, make_epochs(4))
    assert other.get_yscale() == "linear"


def test_batch_size_is_a_step_plot_with_marked_decisions(ax: Axes) -> None:
    epochs = make_adaptive([16, 24, 36, 36, 28])
    plots.draw_batch_size(ax, epochs)
    np.testing.assert_array_equal(drawn(ax), [(e.epoch, e.batch_size) for e in epochs])
    assert ax.lines[0].get_drawstyle() == "steps-mid"
    assert legend_texts(ax) == ["batch size", "increase", "rollback"]
    marks = [np.asarray(c.get_offsets()).tolist() for c in ax.collections]
    assert marks == [[[1.5, 24], [2.5, 36]], [[4.5, 28]]]
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_yticklabels()] == ["16", "32"]


def test_a_constant_batch_has_no_legend_and_a_labelled_axis(ax: Axes) -> None:
    plots.draw_batch_size(ax, make_epochs(3, batch_size=23))
    assert legend_texts(ax) == []
    low, high = ax.get_ylim()
    assert any(low <= tick <= high for tick in ax.get_yticks())


def test_throughput_points_carry_their_speed_up(ax: Axes) -> None:
    curve = make_curve([289.0, 560.0, 743.0])
    plots.draw_throughput(ax, curve, 16)
    expected = [(p.batch_size, p.samples_per_s) for p in curve.points]
    np.testing.assert_allclose(drawn(ax), expected)
    texts = [text.get_text() for text in ax.texts]
    assert [t for t in texts if "×" in t] == ["1×", "1.94×", "2.57×"]
    assert "channels_last" in ax.get_title()
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] == 0
    assert not any("busy" in t for t in texts)


def test_throughput_warns_when_busy_or_out_of_memory(ax: Axes) -> None:
    plots.draw_throughput(ax, make_curve([1.0, 2.0], busy=True, stopped_by="out of memory"))
    note = "\n".join(text.get_text() for text in ax.texts)
    assert "busy" in note
    assert "out of memory" in note


def test_validation_shows_intervals_and_every_finite_measurement(ax: Axes) -> None:
    plots.draw_validation(ax, make_validation([20.0, 28.0], [0.5, -0.2]))
    right = ax.figure.axes[1]
    for side, interval, seeds in (
        (ax, (12.0, 45.0), [20.0, 28.0]),
        (right, (-0.8, 1.5), [0.5, -0.2]),
    ):
        segment = np.asarray(side.collections[0].get_paths()[0].vertices)
        assert tuple(segment[:, 1]) == interval
        measured = next(line for line in side.lines if line.get_label() == "measured, each seed")
        assert list(np.asarray(measured.get_ydata())) == seeds
        low, high = side.get_ylim()
        assert low == -high
        assert high > max(interval)


def test_where_there_is_no_interval_none_is_drawn(ax: Axes) -> None:
    validation = make_validation([20.0], [0.5])
    without = dataclasses.replace(
        validation.prediction, verdict="abstain", time_saved_interval_pct=None
    )
    plots.draw_validation(ax, dataclasses.replace(validation, prediction=without))
    bars = [c for c in ax.collections if c.get_linewidth()[0] == 8]
    assert bars == []
    assert "predicted" in [line.get_label() for line in ax.lines]


def test_a_run_stands_beside_its_fixed_run(ax: Axes) -> None:
    run = make_result(make_adaptive([16, 16, 24, 36]))
    fixed = make_result(make_epochs(4, seed=5))
    plots.draw_accuracy(ax, **plots.beside_fixed(run, fixed))
    assert legend_texts(ax) == ["deba", "fixed batch"]
    for line, result in enumerate((run, fixed)):
        np.testing.assert_allclose(drawn(ax, line)[:, 1], [e.test_accuracy for e in result.epochs])
    other = Figure().subplots()
    plots.draw_batch_size(other, run.epochs, fixed.epochs)
    assert legend_texts(other) == ["batch size", "fixed batch", "increase"]
    assert drawn(other, 1)[:, 1].tolist() == [16, 16, 16, 16]


# On a page


def test_a_figure_for_a_page_is_the_same_text_again_and_keeps_to_its_ids() -> None:
    def draw(ax: Axes) -> None:
        plots.draw_norms(ax, [make_epochs(3, seed) for seed in range(2)])

    text = plots.svg_text(draw, "key", (4.8, 3.5))
    assert text == plots.svg_text(draw, "key", (4.8, 3.5))
    root = ElementTree.fromstring(text)
    ids = [str(e.get("id")) for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids)) > 10
    assert all(name.startswith("key-") for name in ids)
    other = plots.svg_text(draw, "other", (4.8, 3.5))
    assert not set(ids) & {e.get("id") for e in ElementTree.fromstring(other).iter()}
    assert "date" not in text
    assert root.get("viewBox") == "0 0 345.6 252"
    assert root.get("width") is None
    # Text is text, in the page's colour.
    assert "Gradient norm" in [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "currentColor" in text
    assert "#000000" not in text


def test_names_are_no_formulas_on_a_page() -> None:
    config = RunConfig(model="m", scheduler="a:$x^{$").to_dict()
    run = make_result(make_adaptive([16, 24]), config=config)
    both = plots.beside_fixed(run, make_result(make_epochs(2)))
    text = plots.svg_text(lambda ax: plots.draw_accuracy(ax, **both), "key", (4.8, 3.5))
    assert ">a:$x^{$<" in text
    curve = make_curve([1.0, 2.0], stopped_by="$\\frac{$", memory_format="$x$")
    text = plots.svg_text(lambda ax: plots.draw_throughput(ax, curve), "key", (4.8, 3.5))
    assert "$\\frac{$" in text
    assert "Throughput ($x$)" in text


# Files


@pytest.mark.parametrize("fmt", plots.FORMATS)
def test_each_format_is_written_whole(tmp_path: Path, fmt: str) -> None:
    result = make_result(make_adaptive([16, 16, 24, 20]))
    written = [
        *plots.write_run_plots(result, tmp_path / "new", fmt),
        *plots.write_characterization_plots(make_characterization(2), tmp_path / "new", fmt),
        *plots.write_validation_plots(make_validation([20.0, 1.0], [0.0, 0.1]), tmp_path, fmt),
    ]
    assert [path.name for path in written] == [
        f"{result.run_id}.{fmt}",
        f"resnet50-digits-characterization.{fmt}",
        f"resnet50-digits-validation.{fmt}",
    ]
    assert all(path.read_bytes().startswith(MAGIC[fmt]) for path in written)
    # No temporary file is left beside them.
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(written)


def test_an_unknown_format_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^unknown plot format 'gif'; use one of png, svg, pdf$"):
        plots.write_run_plots(make_result(make_epochs(2)), tmp_path / "new", "gif")
    assert not (tmp_path / "new").exists()


def test_an_output_that_is_a_file_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match=r"^cannot write .*taken"):
        plots.write_run_plots(make_result(make_epochs(2)), tmp_path / "taken")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    result = make_result(make_epochs(2))
    (path,) = plots.write_run_plots(result, tmp_path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.write_run_plots(make_result(make_epochs(3)), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "epochs",
    [
        (),
        make_epochs(1),
        make_epochs(3, grad_norm=math.nan, grad_norm_sem=math.nan, loss=math.inf),
        make_epochs(3, grad_norm=0.0, grad_norm_sem=0.0, grad_component_variance=0.0),
    ],
    ids=["no epoch", "one epoch", "not finite", "zero gradient"],
)
# Deprecations are between the plotting library and its own requirements.
@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
def test_degenerate_runs_are_drawn(tmp_path: Path, epochs: tuple[EpochRecord, ...]) -> None:
    (path,) = plots.write_run_plots(make_result(epochs, status="diverged"), tmp_path)
    assert path.read_bytes().startswith(MAGIC["png"])


# Deprecations are between the plotting library and its own requirements.
@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
def test_degenerate_probes_and_validations_are_drawn(tmp_path: Path) -> None:
    for curve in (make_curve([]), make_curve([math.nan, 3.0]), make_curve([5.0], first=1)):
        figure = Figure()
        plots.draw_throughput(figure.subplots(), curve)
        figure.draw_without_rendering()
    empty = dataclasses.replace(make_characterization(0), curve=make_curve([]))
    assert plots.write_characterization_plots(empty, tmp_path)[0].exists()
    v = make_validation([math.nan], [-math.inf])
    assert plots.write_validation_plots(v, tmp_path)[0].exists()
    assert plots.write_validation_plots(dataclasses.replace(v, comparisons=()), tmp_path)


def test_the_title_says_model_data_and_device_literally(tmp_path: Path) -> None:
    config = RunConfig(model="my_pkg.nets:make_$net", data="folder:/data/$a$").to_dict()
    result = make_result(make_epochs(2), config=config, run_id="run")
    (path,) = plots.write_run_plots(result, tmp_path, "svg")
    assert "my_pkg.nets:make_$net on folder:/data/$a$" in path.read_text()
    case = dataclasses.replace(make_characterization(1), config=config)
    (path,) = plots.write_characterization_plots(case, tmp_path)
    assert path.parent == tmp_path
    assert path.name == "my_pkg.nets-make_-net-folder--data--a--characterization.png"


def test_no_global_state_of_matplotlib_is_touched(tmp_path: Path) -> None:
    before = dict(rcParams)
    plots.write_characterization_plots(make_characterization(1), tmp_path)
    assert dict(rcParams) == before
    code = (
        "import sys, pathlib; from test_plots import plots, make_validation;"
        "[plots.write_validation_plots(make_validation([1], [1]), pathlib.Path(sys.argv[1]), f)"
        " for f in plots.FORMATS];"
        "bad = {'matplotlib.pyplot', 'torch'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(command, cwd=tests, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
