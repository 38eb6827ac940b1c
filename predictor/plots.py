"""Figures of predictions and of an evaluation: one function a figure, records on a given axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from predictor.features import Case, make_cases
from predictor.physical import rehearsals
from predictor.scores import HeldOutCase
from stability_probe.plots import (
    MARKERS,
    PALETTE,
    Panels,
    scale_log2,
    write_characterization_plots,
    write_figure,
    write_run_plots,
    write_study_plots,
    write_validation_plots,
)
from stability_probe.records import RunResult, Study, Validation
from stability_probe.stored import Stored, fixed_twin

if TYPE_CHECKING:  # it brings scikit-learn
    from predictor.evaluate import Evaluation

_BINS = np.linspace(0.0, 1.0, 6)


def reliability(cases: Sequence[HeldOutCase]) -> list[tuple[float, float, int]]:
    """Mean probability told, share that benefited and number of cases, by fifths of probability.

    A fifth without any case is left out.
    """
    told = np.array([c.probability_of_benefit for c in cases])
    truth = np.array([c.benefit_share for c in cases])
    at = np.clip(np.digitize(told, _BINS) - 1, 0, len(_BINS) - 2)
    return [
        (float(told[at == b].mean()), float(truth[at == b].mean()), int((at == b).sum()))
        for b in range(len(_BINS) - 1)
        if (at == b).any()
    ]


def draw_reliability(ax: Axes, evaluation: Evaluation) -> None:
    """Share that benefited against the probability told; on the diagonal it means what it says."""
    from scipy.stats import binomtest

    points = reliability(evaluation.cases)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    x, y, _ = zip(*points, strict=True)
    # As if rows were independent; those of a family are alike, so in truth they are wider.
    ends = [binomtest(round(s * n), n).proportion_ci(method="wilson") for _, s, n in points]
    error = np.array([(s - e.low, e.high - s) for s, e in zip(y, ends, strict=True)]).T.clip(0)
    ax.errorbar(x, y, yerr=error, color=PALETTE[0], marker="o", capsize=3, label="held out")
    for px, py, count in points:
        ax.annotate(str(count), (px, py), xytext=(6, 6), textcoords="offset points", fontsize=8)
    share = float(np.mean([c.benefit_share for c in evaluation.cases]))
    ax.axhline(share, color=PALETTE[1], linewidth=1, linestyle=":", label="share of all")
    ax.set(
        title=f"Reliability of “{evaluation.chosen}”\n(on the diagonal it means what it says)",
        xlabel="probability of benefit told",
        ylabel="share that benefited",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    ax.legend(loc="best", fontsize=8)


def draw_predicted(ax: Axes, evaluation: Evaluation) -> None:
    """Time saved that was measured against what was told, with the interval, by family."""
    draw_told(ax, evaluation.cases, evaluation.interval_level)


def draw_told(ax: Axes, cases: Sequence[HeldOutCase], interval_level: float) -> None:
    """What was told of families held out, and what came of it; on the diagonal it was right."""
    names = sorted({c.family for c in cases})
    for index, name in enumerate(names):
        own = [c for c in cases if c.family == name]
        ax.plot(
            [c.time_saved_told_pct for c in own],
            [c.measured_saved_pct for c in own],
            linestyle="",
            marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            markersize=5,
            alpha=0.8,
            label=name,
        )
    told = np.array([c.time_saved_told_pct for c in cases])
    order = np.argsort(told)
    for end in (0, 1):
        ends = np.array([c.time_saved_interval_pct[end] for c in cases])
        ax.plot(told[order], ends[order], color="0.75", linewidth=1, zorder=0)
    reach = [*told, *(c.measured_saved_pct for c in cases)]
    span = [min(reach) - 3, max(reach) + 3]
    ax.plot(span, span, color="0.6", linestyle="--", linewidth=1, zorder=0)
    level = f"{100 * interval_level:.0f} %"
    ax.set(
        title=f"Time saved, families held out\n(grey: {level} intervals)",
        xlabel="told, %",
        ylabel="measured, %",
    )
    # Beside the points, of which it would hide some.
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def draw_rehearsals(ax: Axes, cases: Sequence[Case], seeds: Sequence[int]) -> None:
    """Batch sizes that the rule would choose on each seed's window, carried on without training."""
    sizes = [size for case in cases for path in rehearsals(case) for size in path]
    for index, (case, seed) in enumerate(zip(cases, seeds, strict=True)):
        for draw, path in enumerate(rehearsals(case)):
            x = np.arange(1, len(path) + 1)
            label = "" if draw else f"seed {seed}"
            (line,) = ax.plot(x, path, color=PALETTE[index % 7], alpha=0.7, label=label)
            line.set_drawstyle("steps-mid")
    scale_log2(ax.yaxis, sizes)
    if len(cases) > 1:
        ax.legend(fontsize="small", ncols=1 + len(cases) // 5)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    ax.set(title="Rehearsed batch sizes", xlabel="epoch", ylabel="batch size (samples per update)")
    ax.grid(alpha=0.25)


def write_plots(stored: Stored, root: Path, out: Path, fmt: str) -> list[Path]:
    """Draw whatever is stored in folder `out`; the fixed run beside a run is looked for in `root`.

    Raises as `write_figure`.
    """
    if isinstance(stored, RunResult):
        return write_run_plots(stored, out, fmt, fixed_twin(stored, root))
    if isinstance(stored, Study):
        return write_study_plots(stored, out, fmt)
    if isinstance(stored, Validation):
        return write_validation_plots(stored, out, fmt)
    c = stored.characterization
    rehearsed = partial(draw_rehearsals, cases=make_cases(c), seeds=c.seeds)
    return write_characterization_plots(c, out, fmt, [rehearsed], stored.name)


def draw_learning(ax: Axes, evaluation: Evaluation) -> None:
    """Scores against the number of families that were learned from."""
    x = [p.num_families for p in evaluation.learning_curve]
    ax.plot(x, [p.brier for p in evaluation.learning_curve], color=PALETTE[0], marker="o")
    ax.set(xlabel="architecture families learned from", title="What more families teach")
    ax.set_ylabel("Brier score (circles)", color=PALETTE[0])
    ax.set_ylim(0, 1.3 * max(p.brier for p in evaluation.learning_curve) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    other = ax.twinx()
    errors = [p.time_saved_mae for p in evaluation.learning_curve]
    other.plot(x, errors, color=PALETTE[1], marker="s")
    other.set_ylabel("error of time saved, points (squares)", color=PALETTE[1])
    other.set_ylim(0, 1.6 * max(errors) or 1)


def draw_horizons(ax: Axes, evaluation: Evaluation) -> None:
    """Shares that benefited and that lost accuracy, and time saved, by the length of the run."""
    lengths = evaluation.horizons
    saved = [(h.epochs, h.time_saved_pct.value) for h in lengths if h.time_saved_pct is not None]
    ax.plot(
        [n for n, _ in saved],
        [s for _, s in saved],
        color="0.4",
        linestyle="--",
        label="time saved, mean",
    )
    for name, label, color in (
        ("benefits", "benefited", PALETTE[2]),
        ("harms", "lost accuracy", PALETTE[1]),
    ):
        scores = [(h.epochs, score) for h in lengths if (score := getattr(h, name)) is not None]
        x = [epochs for epochs, _ in scores]
        ax.plot(x, [100 * s.value for _, s in scores], color=color, marker="o", label=label)
        low, high = ([100 * getattr(s, end) for _, s in scores] for end in ("low", "high"))
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set(
        title="What a longer run does\n(bands: 90 % over families)",
        xlabel="epochs of the run",
        ylabel="share of the rows; of the time, %",
        xlim=(0, None),
        ylim=(0, 100),
    )
    if lengths:
        ax.legend(loc="best", fontsize=8)


def write_evaluation_plots(evaluation: Evaluation, out: Path, fmt: str = "png") -> list[Path]:
    """Write `evaluation.<fmt>` in folder `out`: reliability, told beside measured, learning, and
    lengths of run."""
    figures = (draw_reliability, draw_predicted, draw_learning, draw_horizons)
    panels: Panels = [partial(draw, evaluation=evaluation) for draw in figures]
    title = (
        f"{evaluation.num_rows} rows, {evaluation.num_models} models, "
        f"{evaluation.num_families} families"
    )
    return write_figure(panels, title, out, "evaluation", fmt)
