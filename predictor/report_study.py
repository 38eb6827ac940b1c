"""The sections of a comparison, an ablation and a validation."""

from __future__ import annotations

from collections.abc import Sequence

from predictor import report_figures as figures
from predictor.page import Fact, Gain, Part, Section, Table, Verdict
from predictor.report_parts import (
    gain_of,
    headroom_part,
    headroom_words,
    measured_part,
    repeat_part,
    verdict_of,
)
from predictor.reproduce import is_ablation, study_command, validate_command
from stability_probe.advice import choose, time_saved
from stability_probe.records import ArmOutcome, Difference, Study, Validation
from stability_probe.words import counted, signed

_HEADLINES = {
    "use": "USE {arm}",
    "likely": "MOST SAVED by {arm}",
    "keep": "KEEP the batch at {batch}",
    "unknown": "CANNOT SAY",
    "ablation": "MEASURED",
}
_CHOICE_GROUPS = {"use": 0, "likely": 1, "unknown": 1, "keep": 2}
_COLUMNS = ("arm", "role", "time s", "saved %", "by the curve %", "accuracy %", "points", "updates")


def study_section(key: str, study: Study) -> Section:
    """Several schedules in full runs: what to use, and every arm beside the reference."""
    config = study.config
    kind = "ablation" if is_ablation(study) else "comparison"
    parts = [_arms_part(key, study)]
    if study.contrasts:
        parts.append(_contrasts_part(key, study))
    if study.claims:
        parts.append(_claims_part(study))
    parts += [
        headroom_part(key, study.curve, config["batch_size"]),
        repeat_part((), study.environment, [study_command(study)]),
    ]
    return Section(
        anchor=key,
        kind=kind,
        title=str(config["model"]),
        subtitle=f"{kind} on {config['data']}, {config['epochs']} epochs at batch "
        f"{config['batch_size']}, {config['optimizer']} at {config['lr']:g}, "
        f"{counted(len(study.seeds), 'seed')}, {counted(len(study.arms), 'arm')}",
        verdict=_verdict(study),
        gain=_gain(study),
        parts=tuple(parts),
    )


def validation_section(key: str, v: Validation) -> Section:
    """What `validate --json` printed."""
    config = v.config
    return Section(
        anchor=key,
        kind="validation",
        title=str(config["model"]),
        subtitle=f"validation on {config['data']}, {config['epochs']} epochs at batch "
        f"{config['batch_size']}, {counted(len(v.seeds), 'seed')}",
        verdict=verdict_of(
            v.prediction,
            (
                f"Measured since: time saved {signed(v.time_saved_pct)} %, accuracy change "
                f"{signed(v.accuracy_delta_pp)} points: {v.benefit_class}.",
            ),
        ),
        gain=gain_of(v, ""),
        parts=(
            measured_part(key, v),
            repeat_part(
                (),
                {},
                [validate_command(v)],
                ["What it printed does not tell every setting; the command has those it does."],
            ),
        ),
    )


def _verdict(study: Study) -> Verdict:
    choice = None if is_ablation(study) else choose(study)
    best = choice.arm if choice else None
    words = _HEADLINES[choice.kind if choice else "ablation"].format(
        arm=best.name if best else "", batch=study.config["batch_size"]
    )
    facts = []
    saved = time_saved(study, best) if best else None
    if best and saved and best.accuracy_delta_pp:
        facts += [
            Fact(
                name="time saved",
                value=f"{saved.mean:+.0f} %",
                meaning=_spread(saved, 0),
            ),
            Fact(
                name="accuracy change",
                value=f"{best.accuracy_delta_pp.mean:+.1f} points",
                meaning=_spread(best.accuracy_delta_pp, 1),
            ),
        ]
    if study.noise_time_pct is not None and study.noise_accuracy_pp is not None:
        facts.append(
            Fact(
                name="noise floor",
                value=f"{study.noise_time_pct:.1f} % of the time",
                meaning=f"{study.noise_accuracy_pp:.1f} points of accuracy, from another order of "
                "samples alone",
            )
        )
    tone = "good" if choice and choice.kind == "use" else "plain"
    return Verdict(words=words, tone=tone, reason=study.advice, facts=tuple(facts))


def _spread(difference: Difference, digits: int) -> str:
    noise = "beyond" if difference.larger_than_noise else "within"
    std = "" if difference.std is None else f"± {difference.std:.{digits}f} over seeds, "
    return f"{std}{noise} the noise"


def _arms_part(key: str, study: Study) -> Part:
    clock = "CPU seconds" if study.clock == "cpu_s" else "wall clock"
    table = Table(
        caption=f"Differences are against {study.reference}, paired by seed; * is larger than the "
        "noise",
        columns=_COLUMNS,
        rows=tuple(_cells(arm) for arm in study.arms),
        words=(0, 1),
        data=figures.download(f"{key}-arms.csv", *_arm_values(study)),
    )
    return Part(
        title="All arms",
        text=(
            f"Mean ± standard deviation over {counted(len(study.seeds), 'seed')}, {clock}. By the "
            "curve: what the batch sizes save on the throughput curve of a "
            f"{'busy' if study.curve.busy else 'quiet'} machine.",
            *_machines_words(study),
        ),
        figures=(figures.study_figure(key, study),),
        tables=(table,),
    )


def _machines_words(study: Study) -> tuple[str, ...]:
    """A word of warning where seconds are of several machines."""
    if len(study.machines) < 2:
        return ()
    return (
        f"The runs were made on {len(study.machines)} machines ({'; '.join(study.machines)}). No "
        "time is compared between runs of two of them; where that leaves an arm without, the "
        "advice goes by the curve.",
    )


def _cells(arm: ArmOutcome) -> tuple[str, ...]:
    if arm.time_s is None or arm.accuracy is None:
        return (arm.name, arm.role, arm.status, "", "", "", "", "")
    std = "" if arm.accuracy.std is None else f" ± {100 * arm.accuracy.std:.1f}"
    return (
        arm.name,
        arm.role,
        f"{arm.time_s.mean:.0f}",
        _difference(arm.time_saved_pct, 0),
        _difference(arm.curve_saved_pct, 0),
        f"{100 * arm.accuracy.mean:.1f}{std}",
        _difference(arm.accuracy_delta_pp, 1),
        "" if arm.updates is None else f"{arm.updates:.0f}",
    )


def _difference(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return ""
    std = "" if difference.std is None else f" ± {difference.std:.{digits}f}"
    return f"{difference.mean:+.{digits}f}{std}{'*' if difference.larger_than_noise else ''}"


def _arm_values(study: Study) -> tuple[Sequence[str], list[list[object]]]:
    """Columns and rows of every arm and seed."""
    names = ("time_saved_pct", "curve_saved_pct", "accuracy_delta_pp")
    rows: list[list[object]] = []
    for arm in study.arms:
        for index, seed in enumerate(study.seeds):
            told = [getattr(arm, name) for name in names]
            values = [d.values[index] if d and index < len(d.values) else None for d in told]
            rows.append([arm.name, arm.role, arm.status, seed, *values])
    return ("arm", "role", "status", "seed", *names), rows


def _contrasts_part(key: str, study: Study) -> Part:
    rows = tuple(
        (
            c.name,
            _difference(c.time_saved_pct, 0),
            _difference(c.curve_saved_pct, 0),
            _difference(c.accuracy_delta_pp, 1),
        )
        for c in study.contrasts
    )
    table = Table(
        caption="DEBA against what has everything but its signals",
        columns=("deba against", "saved %", "by the curve %", "points"),
        rows=rows,
        words=(0,),
        data=figures.download(
            f"{key}-contrasts.csv",
            ("deba_against", "time_saved_pct", "curve_saved_pct", "accuracy_delta_pp"),
            (
                (
                    c.name,
                    c.time_saved_pct.mean if c.time_saved_pct else None,
                    c.curve_saved_pct.mean if c.curve_saved_pct else None,
                    c.accuracy_delta_pp.mean,
                )
                for c in study.contrasts
            ),
        ),
    )
    return Part(title="What the signals add", tables=(table,))


def _claims_part(study: Study) -> Part:
    table = Table(
        caption="The paper's claims, on this model",
        columns=("claim", "here", "because"),
        rows=tuple((c.text, c.verdict, c.reason) for c in study.claims),
        words=(0, 1, 2),
    )
    return Part(title="Claims of the paper", tables=(table,))


def _gain(study: Study) -> Gain:
    headroom = headroom_words(study.curve, study.config["batch_size"])
    choice = None if is_ablation(study) else choose(study)
    arm = choice.arm if choice else None
    group = _CHOICE_GROUPS[choice.kind] if choice else 3
    saved = time_saved(study, arm) if arm else None
    if arm is None or saved is None or arm.accuracy_delta_pp is None:
        known = f"measured, {len(study.arms)} arms" if choice else "ablation"
        return Gain(
            group=group,
            time_saved_pct=None,
            time_saved="",
            accuracy="",
            headroom=headroom,
            known=known,
        )
    return Gain(
        group=group,
        time_saved_pct=saved.mean,
        time_saved=f"{_difference(saved, 0)} %",
        accuracy=_difference(arm.accuracy_delta_pp, 1),
        headroom=headroom,
        known=f"measured, {counted(len(study.seeds), 'seed')}",
    )
