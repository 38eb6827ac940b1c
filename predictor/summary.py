"""Results as JSON for programs and as one screen for people."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from predictor.reproduce import changed_flags
from stability_probe import metrics
from stability_probe.records import (
    Characterization,
    MeanStd,
    Prediction,
    Validation,
    to_plain,
)
from stability_probe.run_summary import SCHEMA_VERSION

VERDICTS = {
    "adapt": ("ADAPT the batch", "bold green"),
    "keep_fixed": ("KEEP the batch FIXED", "bold yellow"),
    "abstain": ("CANNOT SAY", "bold magenta"),
}


def full_run_s(c: Characterization) -> float:
    """Seconds the full fixed run would train, from the window's own epochs."""
    epochs = [e for window in c.windows for e in window]
    return float(c.config["epochs"] * np.mean([e.time_s for e in epochs]))


def characterization_json(c: Characterization, p: Prediction) -> dict[str, Any]:
    """The object that `probe characterize --json` prints."""
    names = ("stability_score", "grad_norm_variation", "grad_component_variance", "loss_variation")
    noise = [m.noise_scale for m in c.metrics if m.noise_scale is not None]
    run_s = full_run_s(c)
    return {
        "schema_version": SCHEMA_VERSION,
        **{n: c.config[n] for n in ("model", "data")},
        "device": c.device,
        **{n: c.config[n] for n in ("precision", "batch_size", "window_epochs", "epochs")},
        "max_batch_size": c.max_batch_size,
        "seeds": list(c.seeds),
        "num_params": c.num_params,
        "normalization": c.normalization,
        **{n: to_plain(_over_seeds(c, n)) for n in names},
        "noise_scale": to_plain(metrics.mean_std(noise)) if noise else None,
        "throughput": [
            {"batch_size": q.batch_size, "samples_per_s": q.samples_per_s, "spread": q.spread}
            for q in c.curve.points
        ],
        "headroom": metrics.headroom(c.curve, c.config["batch_size"]),
        "memory_format": c.curve.memory_format,
        "memory_format_reason": c.curve.memory_format_reason,
        "busy": c.curve.busy,
        "prediction": _prediction_json(p),
        "cost": {
            "probe_s": c.probe_s,
            "throughput_s": c.curve.time_s,
            "full_run_s": run_s,
            "fraction": c.probe_s / run_s,
        },
        "environment": dict(c.environment),
        "config": dict(c.config),
    }


def characterization_table(c: Characterization, p: Prediction) -> Group:
    """The screen that `probe characterize` prints."""
    config = c.config
    seeds = f"{len(c.seeds)} seed" + ("s" if len(c.seeds) > 1 else "")
    head = Text.assemble(
        (f"{config['model']}", "bold"),
        f" ({c.num_params / 1e6:.2f} M parameters) on {config['data']}, {c.num_train} samples, "
        f"{c.environment['device_name']}, {config['precision']}\n"
        f"measured: first {config['window_epochs']} of {config['epochs']} epochs at batch "
        f"{config['batch_size']}, {seeds}, {config['optimizer']} at {config['lr']:g}",
    )
    best = metrics.best_batch_size(c.curve, config["batch_size"])
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "headroom",
        f"{metrics.headroom(c.curve, config['batch_size']):.2f}x at batch {best}",
        Text(_curve_words(c), "dim"),
    )
    table.add_row("memory format", c.curve.memory_format, Text(c.curve.memory_format_reason, "dim"))
    score, norm, loss, variance = (
        with_std(_over_seeds(c, name))
        for name in (
            *("stability_score", "grad_norm_variation", "loss_variation"),
            "grad_component_variance",
        )
    )
    for label, value, meaning in (
        ("stability", score, "1 is perfectly steady"),
        ("norm variation", norm, f"change between epochs; loss {loss}"),
        ("component variance", variance, "over the components of the gradient"),
    ):
        table.add_row(label, value, Text(meaning, "dim"))
    table.add_row("noise scale", *_noise_words(c))
    return Group(head, Text(), table, Text(), verdict_lines(p), Text(), _closing_lines(c, p))


def verdict_lines(p: Prediction) -> Text:
    """The verdict, its numbers and what they rest on."""
    words, style = VERDICTS[p.verdict]
    level = f"{100 * p.interval_level:.0f} %"
    lines = Text.assemble(
        (words, style),
        f" — {p.reason}\n"
        f"time saved {p.time_saved_pct:+.0f} % "
        f"({level} interval {interval_words(p.time_saved_interval_pct)}), "
        f"accuracy change {p.accuracy_delta_pp:+.1f} points "
        f"({interval_words(p.accuracy_delta_interval_pp, 1)})\n",
        (f"rests on {p.basis}", "dim"),
    )
    if p.alternative:
        lines.append(f"\nplainer: {p.alternative}")
    return lines


def _prediction_json(p: Prediction) -> dict[str, Any]:
    """An interval end that is unbounded, from too small a corpus, becomes null."""
    values: dict[str, Any] = to_plain(p)
    for name in ("time_saved_interval_pct", "accuracy_delta_interval_pp"):
        values[name] = [_finite(end) for end in values[name]]
    return values


def validation_json(v: Validation) -> dict[str, Any]:
    """The object that `probe validate --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        **{n: v.config[n] for n in ("model", "data", "batch_size", "epochs")},
        "seeds": list(v.seeds),
        "prediction": _prediction_json(v.prediction),
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
        with_std(v.time_saved_pct),
    )
    table.add_row(
        "accuracy change, points",
        f"{p.accuracy_delta_pp:+.2f}",
        interval_words(p.accuracy_delta_interval_pp, 2),
        with_std(v.accuracy_delta_pp),
    )
    table.add_row("updates saved %", "", "", f"{v.updates_saved_pct:.1f}")
    to_target = v.time_to_target_saved_pct
    table.add_row(
        "time to target saved %",
        "",
        "",
        "a seed never reached it" if to_target is None else f"{to_target:.1f}",
    )
    table.add_row("class", p.verdict, f"P(benefit) {p.probability_of_benefit:.2f}", v.benefit_class)
    seeds = ", ".join(
        f"seed {c.seed}: {c.time_saved_pct:+.0f} %, {c.accuracy_delta_pp:+.1f} pp"
        for c in v.comparisons
    )
    head = f"{v.config['model']} on {v.config['data']}, {v.config['epochs']} epochs, {seeds}"
    return Group(Text(head), Text(), table, Text(), _outcome(v))


def validation_failed(v: Validation) -> bool:
    """Whether the prediction was wrong: outside its interval, or of the wrong class."""
    return not v.inside_interval or v.class_correct is False


def _over_seeds(c: Characterization, name: str) -> MeanStd:
    return metrics.mean_std([getattr(m, name) for m in c.metrics])


def with_std(value: MeanStd) -> str:
    """Mean and, of several seeds, standard deviation."""
    return f"{value.mean:.3g}" + ("" if value.std is None else f" ± {value.std:.2g}")


def signed(value: MeanStd, digits: int = 1) -> str:
    """A difference: mean with its sign and, of several seeds, standard deviation."""
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:+.{digits}f}{std}"


def percent(share: float, digits: int = 0) -> str:
    """A fraction as percent."""
    return f"{100 * share:.{digits}f} %"


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def interval_words(ends: tuple[float, float], digits: int = 0) -> str:
    """Both ends of an interval, with their signs."""
    return f"{ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}"


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _curve_words(c: Characterization) -> str:
    points = c.curve.points
    words = f"{points[0].samples_per_s:.0f} samples/s at {points[0].batch_size}"
    if len(points) > 1:
        words += f", {points[-1].samples_per_s:.0f} at {points[-1].batch_size}"
    if c.curve.stopped_by:
        words += f"; {c.curve.stopped_by}"
    return words + ("; MACHINE BUSY, timings disagree" if c.curve.busy else "")


def _noise_words(c: Characterization) -> tuple[str, Text]:
    known = [m.noise_scale for m in c.metrics if m.noise_scale is not None]
    if not known:
        return "undefined", Text("the mean gradient drowns in its noise", "dim")
    value = metrics.mean_std(known)
    return f"{value.mean:.0f} samples", Text("batches below it are mostly noise", "dim")


def _closing_lines(c: Characterization, p: Prediction) -> Text:
    run_s = full_run_s(c)
    config = c.config
    return Text.assemble(
        f"cost: window {c.probe_s:.1f} s, {100 * c.probe_s / run_s:.1f} % of the full run's "
        f"{run_s:.0f} s; throughput curve {c.curve.time_s:.1f} s\n",
        f"next: probe validate {shlex.join([config['model'], *changed_flags(config)])}",
    )


def _outcome(v: Validation) -> Text:
    if validation_failed(v):
        return Text("the prediction FAILED", "bold red")
    if v.class_correct is None:
        return Text("no verdict was given; the measured outcome lies inside the intervals", "bold")
    return Text("the prediction held", "bold green")
