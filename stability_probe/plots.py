"""Figures of runs, probes and validations: one function a figure, records on a given axes.

The numbers come from `stability_probe.series`. Everything goes through matplotlib's object
interface, so no backend, style or figure of the caller is touched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from stability_probe.advice import goes_by_curve
from stability_probe.config import as_file_name
from stability_probe.errors import RunError, UsageError
from stability_probe.files import write_bytes
from stability_probe.records import (
    ArmOutcome,
    Characterization,
    MeanStd,
    RunResult,
    Study,
    ThroughputCurve,
    Validation,
)
from stability_probe.series import (
    Epochs,
    Windows,
    batch_decisions,
    epoch_series,
    epochs_by_seed,
    speed_ups,
    symmetric_limit,
    wants_log,
)

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's colour-blind safe set, without its yellow (too pale for lines on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv"
DECISION_MARKS = {"increase": ("^", PALETTE[2]), "rollback": ("v", PALETTE[1])}

Draw = Callable[[Axes], None]
Panels = list[Draw]
Names = Sequence[int | str]  # Of several runs: their seeds, or what else tells them apart.


def draw_norms(ax: Axes, records: Windows, seeds: Names = ()) -> None:
    """Epoch-mean gradient norm, with a band of one standard error."""
    for index, epochs in enumerate(epochs_by_seed(records)):
        x, norm = epoch_series(epochs, "grad_norm")
        sem = epoch_series(epochs, "grad_norm_sem")[1]
        ax.fill_between(x, norm - sem, norm + sem, color=PALETTE[index % 7], alpha=0.2, linewidth=0)
    _draw_fields(ax, records, seeds, grad_norm="norm")
    ax.set(title="Gradient norm", ylabel="gradient norm ‖g‖ (epoch mean ± SEM)")


def draw_component_variance(ax: Axes, records: Windows, seeds: Names = ()) -> None:
    """Variance over the components of the gradient, mean over each epoch."""
    _draw_fields(ax, records, seeds, grad_component_variance="variance")
    ax.set(title="Gradient component variance", ylabel="variance over components (epoch mean)")


def draw_variation(ax: Axes, records: Windows, seeds: Names = ()) -> None:
    """Relative change of gradient norm and loss between consecutive epochs."""
    _draw_fields(ax, records, seeds, grad_norm_variation="gradient norm", loss_variation="loss")
    ax.set(title="Variation: norm (solid), loss (dashed)", ylabel="change since last epoch (ratio)")


def draw_loss(ax: Axes, records: Windows, seeds: Names = ()) -> None:
    """Training and test loss."""
    _draw_fields(ax, records, seeds, loss="training", test_loss="test")
    ax.set(title="Loss: training (solid), test (dashed)", ylabel="loss (nats per sample)")


def draw_accuracy(ax: Axes, records: Windows, seeds: Names = ()) -> None:
    """Test accuracy in percent."""
    _draw_fields(ax, records, seeds, test_accuracy="test")
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    ax.set(title="Test accuracy", ylabel="test accuracy (%)")


def draw_batch_size(ax: Axes, epochs: Epochs, beside: Epochs = ()) -> None:
    """Batch size of each epoch as steps, with the schedule's decisions at epoch boundaries.

    `beside` is the fixed run that it is compared with.
    """
    _draw_fields(ax, epochs, batch_size="batch size")
    if beside:
        x, y = epoch_series(beside, "batch_size")
        ax.plot(x, y, "--", color=PALETTE[1], label="fixed batch")
        ax.legend(fontsize="small")
    for line in ax.lines:
        line.set_drawstyle("steps-mid")
    for action, (marker, color) in DECISION_MARKS.items():
        if at := batch_decisions(epochs, action):
            ax.scatter(*zip(*at, strict=True), marker=marker, color=color, zorder=3, label=action)
            ax.legend(fontsize="small")
    scale_log2(ax.yaxis, [e.batch_size for e in (*epochs, *beside)])
    ax.set(title="Batch size", ylabel="batch size (samples per update)")


def draw_throughput(ax: Axes, curve: ThroughputCurve, batch_size: int | None = None) -> None:
    """Training speed against batch size; labels give the speed-up over `batch_size`."""
    sizes = [p.batch_size for p in curve.points]
    speeds = [p.samples_per_s for p in curve.points]
    bars = [p.samples_per_s * p.spread / 2 for p in curve.points]
    ax.errorbar(sizes, speeds, bars, color=PALETTE[0], marker="o", markersize=4, elinewidth=1)
    before = 0
    for size, speed, ratio in zip(sizes, speeds, speed_ups(curve, batch_size), strict=True):
        if math.isfinite(ratio):
            # Below and to the right, a rising curve leaves room; but not for two that are close.
            place = (3, -10) if size >= 1.5 * before else (0, 6)
            at = (size, speed)
            ax.annotate(f"{ratio:.3g}×", at, place, textcoords="offset points", size=8)
            before = size
    if wants_log(speeds):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, symmetric_limit(speeds))
    scale_log2(ax.xaxis, sizes)
    notes = ["machine was busy: timings disagree"] if curve.busy else []
    notes += [f"curve ends early: {curve.stopped_by}"] if curve.stopped_by else []
    ax.text(0.97, 0.04, "\n".join(notes), transform=ax.transAxes, ha="right", color=PALETTE[1])
    ax.set(title=f"Throughput ({curve.memory_format})", ylabel="training speed (samples/s)")
    ax.set_xlabel("batch size (samples per update)")
    ax.grid(alpha=0.25)


def draw_validation(ax: Axes, validation: Validation) -> None:
    """Predicted intervals beside what was measured; above the zero line is better for both."""
    p, runs, right = validation.prediction, validation.comparisons, ax.twinx()
    measured = [c.time_saved_pct for c in runs]
    predicted = (p.time_saved_pct, *(p.time_saved_interval_pct or ()))
    _draw_outcome(ax, 0, predicted, measured, validation.time_saved_pct)
    measured = [c.accuracy_delta_pp for c in runs]
    predicted = (p.accuracy_delta_pp, *(p.accuracy_delta_interval_pp or ()))
    _draw_outcome(right, 1, predicted, measured, validation.accuracy_delta_pp)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlim=(-0.5, 1.5), ylabel="time saved (%)")
    ax.set_xticks([0, 1], ["time saved (left axis)", "accuracy change (right axis)"])
    right.set_ylabel("accuracy change (percentage points)")
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    level = f"{100 * p.interval_level:.0f} % intervals"
    ax.set_title(f"predicted {p.verdict} ({level}), measured {validation.benefit_class}")


ROLE_LOOKS = {
    "reference": ("*", PALETTE[6]),
    "noise": ("*", "0.6"),
    "fixed": ("s", PALETTE[0]),
    "decay": ("D", PALETTE[4]),
    "schedule": ("o", PALETTE[1]),
    "control": ("^", PALETTE[3]),
}


def draw_study(ax: Axes, study: Study) -> None:
    """Final accuracy against training time, a point an arm, bars of one standard deviation.

    Time goes by the throughput curve where the seconds of two machines do not compare.
    """
    by_curve = goes_by_curve(study)
    done = [
        (arm, _share_by_curve(arm) if by_curve else arm.time_s, arm.accuracy) for arm in study.arms
    ]
    for role, (marker, color) in ROLE_LOOKS.items():
        points = [(t, a) for arm, t, a in done if arm.role == role and t and a]
        if not points:
            continue
        ax.errorbar(
            [t.mean for t, _ in points],
            [100 * a.mean for _, a in points],
            xerr=[t.std or 0.0 for t, _ in points],
            yerr=[100 * (a.std or 0.0) for _, a in points],
            fmt=marker,
            color=color,
            markersize=9 if marker == "*" else 6,
            elinewidth=0.8,
            label=role,
        )
    _label_apart(ax, [(arm.name, t.mean, 100 * a.mean) for arm, t, a in done if t and a])
    unit = "CPU seconds" if study.clock == "cpu_s" else "seconds"
    if by_curve:
        unit = f"by the throughput curve, % of {study.reference}"
    ax.set(xlabel=f"training time ({unit})", ylabel="final test accuracy (%)")
    ax.set_title("Accuracy against time, mean ± SD over seeds")
    ax.grid(alpha=0.25)
    ax.legend(fontsize="small")


def _share_by_curve(arm: ArmOutcome) -> MeanStd:
    """Percent of the reference's time, whose batches an arm without a difference has."""
    saved = arm.curve_saved_pct
    return MeanStd(mean=100 - saved.mean, std=saved.std) if saved else MeanStd(mean=100, std=None)


EPOCH_FIGURES = (draw_norms, draw_component_variance, draw_variation, draw_loss, draw_accuracy)


def plot_run(
    result: RunResult, figure: Figure | None = None, beside: RunResult | None = None
) -> list[Axes]:
    """What one run recorded over its epochs: the axes of the panels, in `figure` or a new one.

    `beside` is the fixed run that it is compared with, drawn where both can be read.
    """
    return draw_panels(*_run_panels(result, beside), figure)


def plot_characterization(c: Characterization, figure: Figure | None = None) -> list[Axes]:
    """Windows and throughput of a probe: the axes of the panels, in `figure` or a new one."""
    return draw_panels(*_characterization_panels(c), figure)


def write_run_plots(
    result: RunResult, out: Path, fmt: str = "png", beside: RunResult | None = None
) -> list[Path]:
    """Write `<run_id>.<fmt>` in folder `out`: the figure of `plot_run`."""
    return write_figure(*_run_panels(result, beside), out, result.run_id, fmt)


def write_characterization_plots(
    c: Characterization, out: Path, fmt: str = "png", more: Panels | None = None, name: str = ""
) -> list[Path]:
    """Write `<name>-characterization.<fmt>` in folder `out`, by default named
    `<model>-<data>`: windows and throughput, and `more` behind them."""
    panels, title = _characterization_panels(c)
    name = name or f"{c.config['model']}-{c.config['data']}"
    return write_figure([*panels, *(more or [])], title, out, f"{name}-characterization", fmt)


def _run_panels(result: RunResult, beside: RunResult | None) -> tuple[Panels, str]:
    """Panels and title."""
    panels: Panels = [partial(draw, records=result.epochs) for draw in EPOCH_FIGURES]
    if beside is not None:
        panels[-1] = partial(draw_accuracy, **beside_fixed(result, beside))
    against = beside.epochs if beside else ()
    panels += [partial(draw_batch_size, epochs=result.epochs, beside=against)]
    config, about = result.config, f"{result.device}, {result.status}"
    return panels, f"{config['model']} on {config['data']}, {config['scheduler']} schedule, {about}"


def beside_fixed(result: RunResult, fixed: RunResult) -> dict[str, Any]:
    """Arguments that make a figure of epochs show a run and the fixed one beside it."""
    names = (str(result.config["scheduler"]), "fixed batch")
    return {"records": (result.epochs, fixed.epochs), "seeds": names}


def _characterization_panels(c: Characterization) -> tuple[Panels, str]:
    """Panels and title."""
    panels: Panels = [partial(d, records=c.windows, seeds=c.seeds) for d in EPOCH_FIGURES]
    panels += [partial(draw_throughput, curve=c.curve, batch_size=c.config["batch_size"])]
    return panels, f"{c.config['model']} on {c.config['data']}, {c.device}"


def write_validation_plots(v: Validation, out: Path, fmt: str = "png") -> list[Path]:
    """Write `<model>-<data>-validation.<fmt>` in folder `out`: prediction and measurement."""
    panels: Panels = [partial(draw_validation, validation=v)]
    model, data = v.config["model"], v.config["data"]
    title = f"{model} on {data}, {v.config.get('device', '')}".rstrip(", ")
    return write_figure(panels, title, out, f"{model}-{data}-validation", fmt)


def write_study_plots(study: Study, out: Path, fmt: str = "png", name: str = "") -> list[Path]:
    """Write `<name>.<fmt>` in folder `out`, by default `<model>-<data>-study`: all arms."""
    model, data = study.config["model"], study.config["data"]
    where = study.environment.get("device_name", "")
    if len(study.machines) > 1:
        where = " and ".join(study.machines)
    title = f"{model} on {data}, {where}"
    panels: Panels = [partial(draw_study, study=study)]
    return write_figure(panels, title, out, name or f"{model}-{data}-study", fmt, scale=1.6)


def _draw_fields(ax: Axes, records: Windows, seeds: Names = (), **fields: str) -> None:
    """A line a seed and field (name=label). The second field is dashed; colour and marker tell
    seeds apart, or the fields of a single run."""
    windows = epochs_by_seed(records)
    names: Names = seeds if len(seeds) == len(windows) else range(len(windows))
    for index, (epochs, name) in enumerate(zip(windows, names, strict=True)):
        for order, (field, label) in enumerate(fields.items()):
            x, y = epoch_series(epochs, field)
            look = order if len(windows) == 1 else index
            told = f"seed {name}" if isinstance(name, int) else name
            text = label if len(windows) == 1 else "" if order else told
            (line,) = ax.plot(x, y, ("-", "--")[order], color=PALETTE[look % 7], label=text)
            # Markers keep a single epoch visible; on a long run they would hide the line.
            line.set(marker=MARKERS[look % 5] if len(x) <= 40 else "", markersize=3)
    if len(ax.lines) > 1:
        ax.legend(fontsize="small", ncols=1 + len(windows) // 5)
    values = [v for line in ax.lines for v in np.asarray(line.get_ydata())]
    if wants_log(values):
        ax.set_yscale("log")
    if not np.isfinite(values).any():
        ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center")
    numbers = [e.epoch for epochs in windows for e in epochs] or [1]
    ax.set(xlabel="epoch", xlim=(min(numbers) - 0.5, max(numbers) + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    ax.grid(alpha=0.25)


def _label_apart(ax: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """A label at each point, moved up or down until it covers none that is there already."""
    ax.autoscale_view()
    to_pixels = ax.transData
    taken: list[tuple[float, float, float]] = []
    height = 0.14 * ax.figure.dpi
    for name, x, y in sorted(points, key=lambda p: (p[2], p[1])):
        left, bottom = to_pixels.transform((x, y))
        width = 0.062 * ax.figure.dpi * len(name)
        # Steps of half a line, near ones first, above before below.
        for step in sorted(range(-40, 41), key=lambda s: (abs(s), -s)):
            level = bottom + step * height / 2
            if all(
                abs(level - other) >= height or left + width < start or left > end
                for start, end, other in taken
            ):
                break
        taken.append((left, left + width, level))
        up = (level - bottom) / ax.figure.dpi * 72 + 3
        ax.annotate(name, (x, y), (6, up), textcoords="offset points", size=7)


def scale_log2(axis: Axis, sizes: Sequence[int]) -> None:
    """Base-2 axis with plain numbers; the margin always leaves a power of two in view."""
    low, high = min(sizes, default=1) / 1.5, max(sizes, default=1) * 1.5
    axes = axis.axes
    if axis is axes.xaxis:
        axes.set_xscale("log", base=2)
        axes.set_xlim(low, high)
    else:
        axes.set_yscale("log", base=2)
        axes.set_ylim(low, high)
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    axis.set_ticks([2.0**k for k in powers], labels=[f"{2.0**k:g}" for k in powers])
    axis.set_minor_locator(NullLocator())


def _draw_outcome(
    ax: Axes, x: int, predicted: Sequence[float], measured: Sequence[float], mean: MeanStd
) -> None:
    """Prediction (value, and low, high where it has an interval), each seed, and their mean, side
    by side around `x`."""
    limit = symmetric_limit([*predicted, *measured])
    ax.set_ylim(-limit, limit)
    value, *ends = predicted
    if ends:
        low, high = ends
        ax.vlines([x - 0.2], low, high, color=PALETTE[0], linewidth=8, alpha=0.35)
    ax.plot([x - 0.2], [value], "D", color=PALETTE[0], label="predicted")
    # Spread sideways, so that equal outcomes stay visible.
    across = x + np.linspace(-0.05, 0.05, len(measured))
    ax.plot(across, measured, "o", color=PALETTE[1], label="measured, each seed")
    ax.errorbar([x + 0.2], [mean.mean], [mean.std or 0.0], fmt="sk", label="mean ± SD")


def draw_panels(
    panels: Panels, title: str, figure: Figure | None = None, scale: float = 1.0
) -> list[Axes]:
    """Two to four panels a row in `figure`, which gets the size they need; their axes."""
    fig = figure or Figure()
    columns = {4: 2}.get(len(panels), 4 if len(panels) > 6 else min(3, len(panels)))
    rows = math.ceil(len(panels) / columns)
    fig.set_size_inches(scale * (4.4 * columns + 1), scale * (3.6 * rows + 1))
    fig.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    places: list[Axes] = list(fig.subplots(rows, columns, squeeze=False).flat)
    for draw, ax in zip(panels, places, strict=False):
        draw(ax)
    _take_literally(fig)
    for ax in places[len(panels) :]:
        ax.set_axis_off()
    # A $ in a folder's name would otherwise start a formula.
    fig.suptitle(title, parse_math=False)
    return places[: len(panels)]


def write_figure(
    panels: Panels, title: str, out: Path, name: str, fmt: str, scale: float = 1.0
) -> list[Path]:
    """Panels as `<name>.<fmt>` in folder `out`, all of the file or nothing.

    Raises `UsageError` for an unknown format, `RunError` for a folder that cannot be made,
    `OSError` for a disk that does not take it.
    """
    if fmt not in FORMATS:
        raise UsageError(f"unknown plot format {fmt!r}; use one of {', '.join(FORMATS)}")
    fig = Figure(dpi=120)
    draw_panels(panels, title, fig, scale)
    content = io.BytesIO()
    fig.savefig(content, format=fmt)
    path = out / f"{as_file_name(name)}.{fmt}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    write_bytes(path, content.getvalue())
    return [path]


def _take_literally(fig: Figure) -> None:
    """Names are the user's: a $ in them starts no formula. Those of the ticks are ours."""
    for ax in fig.axes:
        legend = ax.get_legend()
        for text in (ax.title, *ax.texts, *(legend.get_texts() if legend else ())):
            text.set_parse_math(False)


_PAGE_COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--card, #ffffff)",
    "#0072b2": "var(--blue, #0072b2)",  # too dark for a dark page
}


def svg_text(draw: Draw, key: str, size: tuple[float, float]) -> str:
    """One figure of `size` inches as an <svg> element to be set into a page.

    The same records give the same text; `key` begins every id, so that figures of different keys
    share a page. Text stays text, black is the page's colour of text, white its background.
    """
    fig = Figure(figsize=size)
    fig.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    draw(fig.subplots())
    _take_literally(fig)
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        fig.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    text = content.getvalue()
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # The page sets the width; the viewBox keeps the proportions.
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", text)
    for color, name in _PAGE_COLORS.items():
        text = text.replace(color, name)
    return text
