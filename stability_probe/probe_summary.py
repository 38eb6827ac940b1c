"""What a probe measured, as one screen for people; the prediction is shown elsewhere."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from stability_probe import metrics
from stability_probe.records import Characterization, MeanStd
from stability_probe.words import counted, with_std


def measured_table(c: Characterization) -> Group:
    """The upper part of the screen that `probe characterize` prints."""
    config = c.config
    head = Text.assemble(
        (f"{config['model']}", "bold"),
        f" ({c.num_params / 1e6:.2f} M parameters) on {config['data']}, {c.num_train} samples, "
        f"{c.environment.get('device_name', c.device)}, {config['precision']}\n"
        f"measured: first {config['window_epochs']} of {config['epochs']} epochs at batch "
        f"{config['batch_size']}, {counted(len(c.seeds), 'seed')}, {config['optimizer']} at "
        f"{config['lr']:g}",
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
        with_std(over_seeds(c, name))
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
    noise, meaning = noise_words(c)
    table.add_row("noise scale", noise, Text(meaning, "dim"))
    return Group(head, Text(), table)


def over_seeds(c: Characterization, name: str) -> MeanStd:
    """A field of `StabilityMetrics`, mean and deviation over the seeds."""
    return metrics.mean_std([getattr(m, name) for m in c.metrics])


def _curve_words(c: Characterization) -> str:
    first = c.config["batch_size"]
    best = metrics.best_batch_size(c.curve, first)
    words = f"{float(metrics.samples_per_s(c.curve, first)):.0f} samples/s at {first}"
    # Where no larger batch is faster, how fast the largest is.
    other = best if best > first else c.curve.points[-1].batch_size
    if other > first:
        words += f", {float(metrics.samples_per_s(c.curve, other)):.0f} at {other}"
    if c.curve.stopped_by:
        words += f"; {c.curve.stopped_by}"
    return words + ("; MACHINE BUSY, timings disagree" if c.curve.busy else "")


def noise_words(c: Characterization) -> tuple[str, str]:
    """The noise scale over the seeds, and what it means."""
    known = [m.noise_scale for m in c.metrics if m.noise_scale is not None]
    if not known:
        return "undefined", "the mean gradient drowns in its noise"
    value = metrics.mean_std(known)
    meaning = "batches below it are mostly noise"
    if unknown := len(c.metrics) - len(known):
        meaning += f"; undefined in {unknown} of {counted(len(c.metrics), 'seed')}: drowned in it"
    return f"{value.mean:.0f} samples", meaning
