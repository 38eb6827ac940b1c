"""The figures of a report: drawn by the two `plots`, each with its words and its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup, escape

from predictor.csv_data import data_uri, format_csv
from predictor.grounds import Grounds
from predictor.page import Download, Figure
from predictor.plots import draw_rehearsals, draw_told
from predictor.scores import HeldOut
from stability_probe import metrics, plots
from stability_probe.probe_summary import over_seeds
from stability_probe.records import (
    Characterization,
    EpochRecord,
    Prediction,
    RunResult,
    Study,
    ThroughputCurve,
    Validation,
)
from stability_probe.series import batch_decisions, epochs_by_seed, speed_ups
from stability_probe.words import counted, interval_words, percent, signed, with_std

_SIZE = (4.8, 3.5)
"""Inches; on a telephone a figure is about as wide as this at 72 points an inch."""
_WIDE = (8.4, 5.4)


def download(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Download:
    """Rows as a file that the page carries."""
    kept = list(rows)
    return Download(name=name, rows=len(kept), href=data_uri(format_csv(columns, kept)))


def figure(
    key: str,
    draw: plots.Draw,
    *,
    title: str,
    alt: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    wide: bool = False,
) -> Figure:
    """One drawing on axes of its own; `key` is unique on the page."""
    svg = plots.svg_text(draw, key, _WIDE if wide else _SIZE)
    named = (
        f'<svg role="img" aria-labelledby="{key}-title {key}-desc" '
        f"{svg[len('<svg ') : svg.index('>')]}>\n"
        f'<title id="{key}-title">{escape(title)}</title>\n'
        f'<desc id="{key}-desc">{escape(alt)}</desc>{svg[svg.index(">") + 1 :]}'
    )
    data = download(f"{key}.csv", columns, rows)
    # matplotlib escapes what it writes; title and description are escaped above.
    return Figure(title=title, alt=alt, svg=Markup(named), data=data, wide=wide)  # noqa: S704


def throughput_figure(key: str, curve: ThroughputCurve, batch_size: int) -> Figure:
    """Training speed against batch size."""
    best = metrics.best_batch_size(curve, batch_size)
    at, top = (float(metrics.samples_per_s(curve, size)) for size in (batch_size, best))
    return figure(
        f"{key}-throughput",
        partial(plots.draw_throughput, curve=curve, batch_size=batch_size),
        title="Training speed by batch size",
        alt=f"{at:.0f} samples/s at batch {batch_size}, {top:.0f} at batch {best}, the fastest "
        f"from there up: {metrics.headroom(curve, batch_size):.2f} times as fast.",
        columns=("batch_size", "samples_per_s", "spread", "speed_up"),
        rows=(
            (p.batch_size, p.samples_per_s, p.spread, ratio)
            for p, ratio in zip(curve.points, speed_ups(curve, batch_size), strict=True)
        ),
    )


def window_figures(key: str, c: Characterization) -> tuple[Figure, ...]:
    """The signals of every seed over the probe's window."""
    names = [f"seed {seed}" for seed in c.seeds]
    drawn: dict[str, Any] = {"records": c.windows, "seeds": c.seeds}
    norms = _from_to(names, c.windows, "grad_norm", "{:.3g}")
    losses = _from_to(names, c.windows, "loss", "{:.3g}")
    score = with_std(over_seeds(c, "stability_score"))
    changes = with_std(over_seeds(c, "grad_norm_variation"))
    return (
        figure(
            f"{key}-norms",
            partial(plots.draw_norms, **drawn),
            title="Gradient norm",
            alt=f"Epoch means over the window, {norms}; stability score {score}.",
            **_columns(c.windows, c.seeds, "grad_norm", "grad_norm_sem"),
        ),
        figure(
            f"{key}-variation",
            partial(plots.draw_variation, **drawn),
            title="Variation of norm and loss",
            alt=f"Change between epochs; of the gradient norm {changes} on average.",
            **_columns(c.windows, c.seeds, "grad_norm_variation", "loss_variation"),
        ),
        figure(
            f"{key}-loss",
            partial(plots.draw_loss, **drawn),
            title="Training and test loss",
            alt=f"Training loss over the window, {losses}.",
            **_columns(c.windows, c.seeds, "loss", "test_loss"),
        ),
    )


def run_figures(key: str, run: RunResult, fixed: RunResult | None) -> tuple[Figure, ...]:
    """Batch size, accuracy, loss and gradient norm of a run, beside the fixed one's."""
    runs = (run,) if fixed is None else (run, fixed)
    names = (str(run.config["scheduler"]), "fixed batch")[: len(runs)]
    epochs = [r.epochs for r in runs]
    drawn = {"records": run.epochs} if fixed is None else plots.beside_fixed(run, fixed)
    sizes = sorted(set(run.batch_sizes))
    grown, cut = (len(batch_decisions(run.epochs, a)) for a in ("increase", "rollback"))
    against = fixed.epochs if fixed else ()
    return (
        figure(
            f"{key}-batch",
            partial(plots.draw_batch_size, epochs=run.epochs, beside=against),
            title="Batch size over the epochs",
            alt=f"From {run.batch_sizes[0]} to {run.batch_sizes[-1]}, between {sizes[0]} and "
            f"{sizes[-1]}; {counted(grown, 'increase')}, {counted(cut, 'rollback')}.",
            **_columns(epochs, names, "batch_size", "action", "lr"),
        ),
        figure(
            f"{key}-accuracy",
            partial(plots.draw_accuracy, **drawn),
            title="Test accuracy over the epochs",
            alt="After each epoch, as a fraction, "
            f"{_from_to(names, epochs, 'test_accuracy', '{:.3f}')}.",
            **_columns(epochs, names, "test_accuracy"),
        ),
        figure(
            f"{key}-loss",
            partial(plots.draw_loss, **drawn),
            title="Loss over the epochs",
            alt=f"Training loss, {_from_to(names, epochs, 'loss', '{:.3g}')}.",
            **_columns(epochs, names, "loss", "test_loss"),
        ),
        figure(
            f"{key}-norms",
            partial(plots.draw_norms, **drawn),
            title="Gradient norm over the epochs",
            alt=f"Epoch means, {_from_to(names, epochs, 'grad_norm', '{:.3g}')}.",
            **_columns(epochs, names, "grad_norm", "grad_norm_sem"),
        ),
    )


def rehearsal_figure(key: str, grounds: Grounds) -> Figure:
    """The batch sequences that a prediction rests on."""
    told = grounds.rehearsed
    largest = sorted({max(path) for r in told for path in r.paths})
    saved = [s for r in told for s in r.saved_pct]
    return figure(
        f"{key}-rehearsals",
        partial(draw_rehearsals, cases=[r.case for r in told], seeds=[r.seed for r in told]),
        title="Rehearsed batch sizes",
        alt=f"{len(saved)} rehearsals start at batch {told[0].case.batch_size} and reach at most "
        f"{_span(largest, '{:.0f}')}; they save {_span(saved, '{:.0f}')} % of the time.",
        columns=("seed", "rehearsal", "epoch", "batch_size", "time_saved_pct"),
        rows=(
            (r.seed, number, epoch, size, saved)
            for r in told
            for number, (path, saved) in enumerate(zip(r.paths, r.saved_pct, strict=True), 1)
            for epoch, size in enumerate(path, 1)
        ),
    )


def validation_figure(key: str, v: Validation) -> Figure:
    """Predicted intervals beside what full runs measured."""
    p = v.prediction
    return figure(
        f"{key}-validation",
        partial(plots.draw_validation, validation=v),
        title="Predicted beside measured",
        alt=f"Time saved: predicted {p.time_saved_pct:+.1f} % "
        f"({interval_words(p.time_saved_interval_pct)}), measured {signed(v.time_saved_pct)} %. "
        f"Accuracy: predicted {p.accuracy_delta_pp:+.1f} points "
        f"({interval_words(p.accuracy_delta_interval_pp, 1)}), measured "
        f"{signed(v.accuracy_delta_pp)}.",
        columns=("what", "time_saved_pct", "accuracy_delta_pp"),
        rows=[
            ("predicted", p.time_saved_pct, p.accuracy_delta_pp),
            *_interval_rows(p),
            *((f"seed {c.seed}", c.time_saved_pct, c.accuracy_delta_pp) for c in v.comparisons),
        ],
    )


def _interval_rows(p: Prediction) -> Iterable[tuple[str, float, float]]:
    saved, delta = p.time_saved_interval_pct, p.accuracy_delta_interval_pp
    if saved is not None and delta is not None:
        yield from zip(("predicted low", "predicted high"), saved, delta, strict=True)


def told_figure(key: str, held: HeldOut) -> Figure:
    """What the predictor told of families held out, and what came of it."""
    mae, coverage = held.time_saved_mae_measured, held.time_saved_coverage
    names = (
        *("model", "data", "seed", "family"),
        *("time_saved_told_pct", "time_saved_pct", "measured_saved_pct"),
    )
    return figure(
        f"{key}-told",
        partial(draw_told, cases=held.cases, interval_level=held.interval_level),
        title="Told beside measured, families held out",
        alt=f"{len(held.cases)} pairs of runs: mean error {mae.value:.1f} points ({mae.low:.1f} to "
        f"{mae.high:.1f}); {percent(coverage.value)} lie inside their "
        f"{percent(held.interval_level)} interval.",
        columns=(*names, "told_low", "told_high"),
        rows=((*(getattr(c, n) for n in names), *c.time_saved_interval_pct) for c in held.cases),
    )


def study_figure(key: str, study: Study) -> Figure:
    """All arms of a study."""
    done = [(a, a.time_s, a.accuracy) for a in study.arms if a.time_s and a.accuracy]
    told = [f"{a.name} {s.mean:.0f} s, {percent(accuracy.mean, 1)}" for a, s, accuracy in done]
    return figure(
        f"{key}-study",
        partial(plots.draw_study, study=study),
        title="Accuracy against training time",
        alt=f"Mean over seeds: {'; '.join(told)}.",
        columns=("arm", "role", "time_s", "time_s_std", "accuracy", "accuracy_std"),
        rows=(
            (a.name, a.role, s.mean, s.std, accuracy.mean, accuracy.std) for a, s, accuracy in done
        ),
        wide=True,
    )


def _columns(
    windows: Sequence[Sequence[EpochRecord]], names: Sequence[int | str], *fields: str
) -> dict[str, Any]:
    """Columns and rows of fields of the epochs: a row an epoch of each run."""
    numbered = all(isinstance(name, int) for name in names)
    return {
        "columns": ("seed" if numbered else "run", "epoch", *fields),
        "rows": [
            (name, e.epoch, *(getattr(e, field) for field in fields))
            for name, epochs in zip(names, windows, strict=True)
            for e in epochs
        ],
    }


def _from_to(
    names: Sequence[str], windows: Sequence[Sequence[EpochRecord]], field: str, form: str
) -> str:
    """First and last value of each run, in words."""
    ends = [
        (name, getattr(epochs[0], field), getattr(epochs[-1], field))
        for name, epochs in zip(names, epochs_by_seed(windows), strict=True)
    ]
    return "; ".join(f"{name}: {form.format(a)} to {form.format(b)}" for name, a, b in ends)


def _span(values: Sequence[float], form: str) -> str:
    low, high = (form.format(end) for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
