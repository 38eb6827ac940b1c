"""Figures of an evaluation: one function a figure, records on a given axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.stats import binomtest

from predictor.evaluate import Evaluation, HeldOutCase
from stability_probe.plots import MARKERS, PALETTE, Panels, write_figure

_BINS = np.linspace(0.0, 1.0, 6)


def reliability(cases: Sequence[HeldOutCase]) -> list[tuple[float, float, int]]:
    """Mean probability told, share that benefited and number of cases, by fifths of probability.

    A fifth without any case is left out.
    """
    told = np.array([c.probability_of_benefit for c in cases])
    truth = np.array([c.benefits for c in cases], float)
    at = np.clip(np.digitize(told, _BINS) - 1, 0, len(_BINS) - 2)
    return [
        (float(told[at == b].mean()), float(truth[at == b].mean()), int((at == b).sum()))
        for b in range(len(_BINS) - 1)
        if (at == b).any()
    ]


def draw_reliability(ax: Axes, evaluation: Evaluation) -> None:
    """Share that benefited against the probability told; on the diagonal it means what it says."""
    points = reliability(evaluation.cases)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    x, y, _ = zip(*points, strict=True)
    # As if rows were independent; those of a family are alike, so in truth they are wider.
    ends = [binomtest(round(s * n), n).proportion_ci(method="wilson") for _, s, n in points]
    error = np.array([(s - e.low, e.high - s) for s, e in zip(y, ends, strict=True)]).T.clip(0)
    ax.errorbar(x, y, yerr=error, color=PALETTE[0], marker="o", capsize=3, label="held out")
    for px, py, count in points:
        ax.annotate(str(count), (px, py), xytext=(6, 6), textcoords="offset points", fontsize=8)
    share = float(np.mean([c.benefits for c in evaluation.cases]))
    ax.axhline(share, color=PALETTE[1], linewidth=1, linestyle=":", label="share of all")
    ax.set(
        title=f"Reliability of “{evaluation.chosen}”",
        xlabel="probability of benefit told",
        ylabel="share that benefited",
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
    )
    ax.legend(loc="best", fontsize=8)


def draw_predicted(ax: Axes, evaluation: Evaluation) -> None:
    """Time saved that was measured against what was told, with the interval, by family."""
    names = sorted({c.family for c in evaluation.cases})
    for index, name in enumerate(names):
        own = [c for c in evaluation.cases if c.family == name]
        ax.plot(
            [c.time_saved_told_pct for c in own],
            [c.time_saved_pct for c in own],
            linestyle="",
            marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            markersize=5,
            alpha=0.8,
            label=name,
        )
    told = np.array([c.time_saved_told_pct for c in evaluation.cases])
    order = np.argsort(told)
    for end in (0, 1):
        ends = np.array([c.time_saved_interval_pct[end] for c in evaluation.cases])
        ax.plot(told[order], ends[order], color="0.75", linewidth=1, zorder=0)
    reach = [*told, *(c.time_saved_pct for c in evaluation.cases)]
    span = [min(reach) - 3, max(reach) + 3]
    ax.plot(span, span, color="0.6", linestyle="--", linewidth=1, zorder=0)
    level = f"{100 * evaluation.interval_level:.0f} %"
    ax.set(
        title=f"Time saved, families held out (grey: {level} intervals)",
        xlabel="told, %",
        ylabel="by the run's batch sizes, %",
    )
    ax.legend(loc="best", fontsize=7, ncols=2)


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


def write_evaluation_plots(evaluation: Evaluation, out: Path, fmt: str = "png") -> list[Path]:
    """Write `evaluation.<fmt>` in folder `out`: reliability, told beside measured, learning."""
    figures = (draw_reliability, draw_predicted, draw_learning)
    panels: Panels = [partial(draw, evaluation=evaluation) for draw in figures]
    title = (
        f"{evaluation.num_rows} rows, {evaluation.num_models} models, "
        f"{evaluation.num_families} families"
    )
    return write_figure(panels, title, out, "evaluation", fmt)
