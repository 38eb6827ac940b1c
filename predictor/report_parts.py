"""Parts that sections of several kinds share: verdict, headroom, outcome, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predictor import report_figures as figures
from predictor.page import Fact, Gain, Part, Table, Verdict
from predictor.summary import VERDICTS, outcome_words, scatter_words, told_intervals
from stability_probe import metrics
from stability_probe.records import Prediction, RunResult, ThroughputCurve, Validation
from stability_probe.series import speed_ups
from stability_probe.words import counted, interval_words, signed

TONES = {"adapt": "good", "keep_fixed": "plain", "abstain": "unsure"}
GROUPS = {"adapt": 0, "abstain": 1, "keep_fixed": 2, "benefits": 0, "neutral": 1, "harms": 2}

Pair = tuple[RunResult, RunResult]
"""The fixed run and the adaptive one of the same seed."""


def verdict_of(p: Prediction, notes: Sequence[str] = ()) -> Verdict:
    """A prediction in words and numbers."""
    time_saved, accuracy = told_intervals(p)
    return Verdict(
        words=VERDICTS[p.verdict][0],
        tone=TONES[p.verdict],
        reason=sentence(p.reason),
        facts=(
            Fact(
                name="time saved",
                value=f"{p.time_saved_pct:+.0f} %",
                meaning=time_saved,
            ),
            Fact(
                name="accuracy change",
                value=f"{p.accuracy_delta_pp:+.1f} points",
                meaning=accuracy,
            ),
            Fact(
                name="probability of a benefit",
                value=f"{p.probability_of_benefit:.2f}",
                meaning=p.limits.words,
            ),
        ),
        advice=" ".join(
            f"{word}: {told}."
            for word, told in (("Seen before", p.measured_before), ("Plainer", p.alternative))
            if told
        ),
        notes=(f"Rests on {p.basis}.", *notes),
    )


def measured_part(key: str, v: Validation, pairs: Sequence[Pair] = ()) -> Part:
    """Predicted beside measured; of the first pair, batch and accuracy over the epochs too."""
    table = Table(
        caption="Full runs, adaptive against fixed, paired by seed",
        columns=("seed", "time saved %", "accuracy change, points", "updates saved %", "outcome"),
        rows=tuple(
            (
                f"seed {o.seed}",
                f"{o.time_saved_pct:+.1f}",
                f"{o.accuracy_delta_pp:+.1f}",
                f"{o.updates_saved_pct:.0f}",
                o.benefit_class,
            )
            for o in v.comparisons
        ),
        words=(0, 4),
    )
    drawn = [figures.validation_figure(key, v)]
    for fixed, adaptive in pairs[:1]:
        name = f"{key}-s{fixed.config['seed']}"
        drawn += figures.run_figures(name, adaptive, fixed)[:2]
    text = sentence(outcome_words(v))
    if luck := scatter_words(v.comparisons):
        text += f" {sentence(luck)}"
    if pairs:
        seed = pairs[0][0].config["seed"]
        text += f" The curves over the epochs are those of seed {seed}."
    return Part(
        title="Predicted beside measured",
        text=(text,),
        figures=tuple(drawn),
        tables=(table,),
    )


def headroom_part(key: str, curve: ThroughputCurve, batch_size: int) -> Part:
    """What a bigger batch gains on this device."""
    most = metrics.saved_pct(1.0, metrics.headroom(curve, batch_size))
    text = [f"No batch schedule can save more than {most:.0f} % of the time on this device."]
    if curve.busy:
        text.append("The machine was busy: repeated timings disagree, so do not trust this curve.")
    if curve.stopped_by:
        text.append(f"The curve ends early: {curve.stopped_by}.")
    return Part(
        title="Headroom: what a bigger batch gains here",
        text=tuple(text),
        facts=(
            Fact(name="headroom", value=headroom_words(curve, batch_size)),
            Fact(
                name="memory format",
                value=curve.memory_format,
                meaning=curve.memory_format_reason,
            ),
        ),
        figures=(figures.throughput_figure(key, curve, batch_size),),
        tables=(_curve_table(curve, batch_size),),
    )


def _curve_table(curve: ThroughputCurve, batch_size: int) -> Table:
    return Table(
        caption="Samples per second in training; spread is that of repeated timings",
        columns=("batch", "samples/s", "speed-up", "a fixed one saves", "spread"),
        rows=tuple(
            (
                str(p.batch_size),
                f"{p.samples_per_s:.0f}",
                f"{ratio:.2f}×",
                f"{metrics.saved_pct(1.0, ratio):.0f} %" if ratio > 0 else "",
                f"{100 * p.spread:.0f} %",
            )
            for p, ratio in zip(curve.points, speed_ups(curve, batch_size), strict=True)
        ),
    )


def headroom_words(curve: ThroughputCurve, batch_size: int) -> str:
    """How much faster, and at which batch."""
    best = metrics.best_batch_size(curve, batch_size)
    return f"{metrics.headroom(curve, batch_size):.2f}× at batch {best}"


def repeat_part(
    cost: Sequence[Fact],
    environment: Mapping[str, str],
    commands: Sequence[str],
    text: Sequence[str] = (),
) -> Part:
    """What it took, where it was measured, and how to do it again."""
    where = [
        Fact(name=name.replace("_", " "), value=str(value))
        for name, value in environment.items()
        if value
    ]
    unknown = () if where else ("The environment was not recorded.",)
    return Part(
        title="Cost, environment, command",
        text=(*text, *unknown),
        facts=(*cost, *where),
        commands=tuple(commands),
    )


def predicted_gain(p: Prediction, headroom: str) -> Gain:
    """For the ranking, before any full run."""
    return Gain(
        group=GROUPS[p.verdict],
        time_saved_pct=p.time_saved_pct,
        time_saved=f"{p.time_saved_pct:+.0f} % ({interval_words(p.time_saved_interval_pct)})",
        accuracy=f"{p.accuracy_delta_pp:+.1f} ({interval_words(p.accuracy_delta_interval_pp, 1)})",
        headroom=headroom,
        known="predicted",
    )


def gain_of(v: Validation, headroom: str) -> Gain:
    """For the ranking, where full runs were made."""
    paid_off = [c.benefit_class for c in v.comparisons].count("benefits")
    return Gain(
        group=GROUPS[v.benefit_class],
        time_saved_pct=v.time_saved_pct.mean,
        time_saved=f"{signed(v.time_saved_pct)} %",
        accuracy=signed(v.accuracy_delta_pp),
        headroom=headroom,
        known=f"measured: {paid_off} of {counted(len(v.comparisons), 'pair')} paid off",
    )


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
