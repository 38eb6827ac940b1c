"""Results as JSON for programs and as one screen for people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from predictor.reproduce import changed_flags, limit_flags
from stability_probe import metrics
from stability_probe.folders import output_flags
from stability_probe.limits import DEFAULT_LIMITS
from stability_probe.plain import to_plain
from stability_probe.probe_summary import measured_table, over_seeds
from stability_probe.records import Characterization, Comparison, Prediction, Validation
from stability_probe.words import interval_words, signed

VERDICTS = {
    "adapt": ("ADAPT the batch", "bold green"),
    "keep_fixed": ("KEEP the batch FIXED", "bold yellow"),
    "abstain": ("CANNOT SAY", "bold magenta"),
}


def full_run_s(c: Characterization) -> float:
    """Seconds the full fixed run would train, from the window's own epochs."""
    epochs = [e for window in c.windows for e in window]
    return float(c.config["epochs"] * np.mean([e.time_s for e in epochs]))


def characterization_json(
    c: Characterization, p: Prediction, stored: Path | None = None
) -> dict[str, Any]:
    """The object that `probe characterize --json` prints; `stored` is the file that keeps both."""
    names = ("stability_score", "grad_norm_variation", "grad_component_variance", "loss_variation")
    noise = [m.noise_scale for m in c.metrics if m.noise_scale is not None]
    run_s = full_run_s(c)
    return {
        **{n: c.config[n] for n in ("model", "data")},
        "device": c.device,
        **{n: c.config[n] for n in ("precision", "batch_size", "window_epochs", "epochs")},
        "max_batch_size": c.max_batch_size,
        "seeds": list(c.seeds),
        "num_params": c.num_params,
        "normalization": c.normalization,
        **{n: to_plain(over_seeds(c, n)) for n in names},
        "noise_scale": to_plain(metrics.mean_std(noise)) if noise else None,
        "noise_scale_undefined": len(c.metrics) - len(noise),
        "throughput": [
            {"batch_size": q.batch_size, "samples_per_s": q.samples_per_s, "spread": q.spread}
            for q in c.curve.points
        ],
        "headroom": metrics.headroom(c.curve, c.config["batch_size"]),
        "memory_format": c.curve.memory_format,
        "memory_format_reason": c.curve.memory_format_reason,
        "busy": c.curve.busy,
        "prediction": to_plain(p),
        "cost": {
            "probe_s": c.probe_s,
            "compile_s": c.compile_s,
            "throughput_s": c.curve.time_s,
            "full_run_s": run_s,
            "fraction": c.probe_s / run_s,
        },
        "environment": dict(c.environment),
        "config": dict(c.config),
        "stored": None if stored is None else str(stored.resolve()),
    }


def characterization_table(c: Characterization, p: Prediction, root: Path | None = None) -> Group:
    """The screen that `probe characterize` prints; `root` is the folder of its runs."""
    return Group(measured_table(c), Text(), verdict_lines(p), Text(), _closing_lines(c, p, root))


def verdict_lines(p: Prediction) -> Text:
    """The verdict, its numbers and what they rest on."""
    words, style = VERDICTS[p.verdict]
    time_saved, _ = told_intervals(p)
    lines = Text.assemble(
        (words, style),
        f" — {p.reason}\n"
        f"time saved {p.time_saved_pct:+.0f} % "
        f"({time_saved}), "
        f"accuracy change {p.accuracy_delta_pp:+.1f} points "
        f"({interval_words(p.accuracy_delta_interval_pp, 1)})\n",
        (f"rests on {p.basis}", "dim"),
    )
    if p.measured_before:
        lines.append(f"\nseen before: {p.measured_before}")
    if p.alternative:
        lines.append(f"\nplainer: {p.alternative}")
    if p.limits != DEFAULT_LIMITS and p.limits.words not in p.reason:
        lines.append(f"\na benefit here: {p.limits.words}", "dim")
    return lines


def told_intervals(p: Prediction) -> tuple[str, str]:
    """Those of time saved and of the accuracy change, with their level."""
    level = f"{100 * p.interval_level:.0f} % interval "
    told = ((p.time_saved_interval_pct, 0), (p.accuracy_delta_interval_pp, 1))
    time_saved, accuracy = (
        ("" if ends is None else level) + interval_words(ends, digits) for ends, digits in told
    )
    return time_saved, accuracy


def validation_json(v: Validation) -> dict[str, Any]:
    """The object that `probe validate --json` prints."""
    return {
        **{n: v.config[n] for n in ("model", "data", "batch_size", "epochs")},
        "seeds": list(v.seeds),
        "prediction": to_plain(v.prediction),
        "measured": {
            "time_saved_pct": to_plain(v.time_saved_pct),
            "accuracy_delta_pp": to_plain(v.accuracy_delta_pp),
            "updates_saved_pct": v.updates_saved_pct,
            "time_to_target_saved_pct": v.time_to_target_saved_pct,
            "benefit_class": v.benefit_class,
        },
        "inside_interval": v.inside_interval,
        "class_correct": v.class_correct,
        "comparisons": [
            {**to_plain(c), "time_to_target_saved_pct": _finite(c.time_to_target_saved_pct)}
            for c in v.comparisons
        ],
    }


def validation_table(v: Validation) -> Group:
    """The screen that `probe validate` prints."""
    p = v.prediction
    table = Table(box=None, pad_edge=False)
    for column in ("", "predicted", "interval", "measured"):
        table.add_column(column)
    table.add_row(
        "time saved %",
        f"{p.time_saved_pct:+.1f}",
        interval_words(p.time_saved_interval_pct, 1),
        signed(v.time_saved_pct),
    )
    table.add_row(
        "accuracy change, points",
        f"{p.accuracy_delta_pp:+.1f}",
        interval_words(p.accuracy_delta_interval_pp, 1),
        signed(v.accuracy_delta_pp),
    )
    table.add_row("updates saved %", "", "", f"{v.updates_saved_pct:+.1f}")
    to_target = v.time_to_target_saved_pct
    table.add_row(
        "time to target saved %",
        "",
        "",
        "a seed never reached it" if to_target is None else f"{to_target:+.1f}",
    )
    verdict = VERDICTS[p.verdict][0].replace(" the batch", "")  # the column is narrow
    table.add_row("class", verdict, f"P(benefit) {p.probability_of_benefit:.2f}", v.benefit_class)
    seeds = ", ".join(
        f"seed {c.seed}: {c.time_saved_pct:+.0f} %, {c.accuracy_delta_pp:+.1f} points"
        for c in v.comparisons
    )
    head = f"{v.config['model']} on {v.config['data']}, {v.config['epochs']} epochs, {seeds}"
    luck = scatter_words(v.comparisons)
    target = f"target: the fixed run's final accuracy - {metrics.TARGET_MARGIN_PP:g} points"
    reason = f"predicted: {verdict}, as {p.reason}"
    beside = [Text(t, "dim") for t in (reason, target, luck) if t]
    if p.limits != DEFAULT_LIMITS:
        beside.append(Text(f"a benefit here: {p.limits.words}", "dim"))
    return Group(Text(head), Text(), table, *beside, Text(), _outcome(v))


def validation_failed(v: Validation) -> bool:
    """Whether the prediction was wrong: outside its interval, or of the wrong class.

    The interval is told with every verdict, and so with none.
    """
    return v.inside_interval is False or v.class_correct is False


def outcome_words(v: Validation) -> str:
    """Whether what was told came true."""
    if v.class_correct is not None:
        return "the prediction FAILED" if validation_failed(v) else "the prediction held"
    if v.inside_interval is None:
        return "neither a verdict nor an interval was given: there is nothing to score"
    inside = "lies inside" if v.inside_interval else "does not lie inside"
    return f"no verdict was given; the measured outcome {inside} the intervals"


def scatter_words(pairs: Sequence[Comparison]) -> str | None:
    """How much of an accuracy change may be the epoch that the fixed runs were stopped at."""
    known = [p.fixed_scatter_pp for p in pairs if p.fixed_scatter_pp is not None]
    if not known:
        return None
    scatter = math.sqrt(math.fsum(s * s for s in known) / len(known))
    runs = "run's" if len(pairs) == 1 else "runs'"
    return f"the fixed {runs} own accuracy moves by {scatter:.1f} points an epoch at the end"


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _closing_lines(c: Characterization, p: Prediction, root: Path | None) -> Text:
    run_s = full_run_s(c)
    config = c.config
    kept = output_flags(root) if root else []
    again = [config["model"], *changed_flags(config), *limit_flags(p.limits), *kept]
    compiled = f" ({c.compile_s:.1f} s of it compilation)" if c.compile_s else ""
    return Text.assemble(
        f"cost: window {c.probe_s:.1f} s{compiled}, {100 * c.probe_s / run_s:.1f} % of the full "
        f"run's {run_s:.0f} s; throughput curve {c.curve.time_s:.1f} s\n",
        f"next: probe validate {shlex.join(again)}",
    )


def _outcome(v: Validation) -> Text:
    style = "bold" if v.class_correct is None else "bold green"
    return Text(outcome_words(v), "bold red" if validation_failed(v) else style)
