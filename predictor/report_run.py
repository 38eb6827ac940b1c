"""The section of one run: what it saved beside the fixed one, epoch by epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from predictor import report_figures as figures
from predictor.corpus import CORPUS_READING
from predictor.examples import is_corpus_reading
from predictor.judge import judge
from predictor.page import Download, Fact, Gain, Part, Section, Verdict
from predictor.report_parts import (
    GROUPS,
    headroom_part,
    headroom_words,
    measured_part,
    repeat_part,
)
from predictor.reproduce import run_command
from predictor.summary import scatter_words
from stability_probe.config import RunConfig
from stability_probe.errors import MissingError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.paired import compare_runs, machine_of, same_machine
from stability_probe.records import Comparison, EpochRecord, RunResult
from stability_probe.run_summary import split_epochs
from stability_probe.store import read_characterization
from stability_probe.stored import Probed, fixed_twin
from stability_probe.words import percent

_TONES = {"benefits": "good", "neutral": "plain", "harms": "bad"}
_WORDS = {
    "benefits": "PAID OFF ONCE",
    "neutral": "GAINED LITTLE ONCE",
    "harms": "COST ACCURACY ONCE",
}
"""Of one pair of runs, with one seed."""


def run_section(key: str, run: RunResult, root: Path) -> Section:
    """What a run did, beside the fixed run of the same model, data and seed in `root`."""
    config = run.config
    fixed = fixed_twin(run, root)
    alike = fixed is not None and run.status == "finished" and same_machine(fixed, run)
    probed = _probed(run, root)
    limits = probed.prediction.limits if probed else DEFAULT_LIMITS
    pair = compare_runs(fixed, run, limits) if fixed and alike and run.epochs else None
    parts: list[Part] = []
    if pair and probed and _spoken_of(run):
        config_run = RunConfig.from_dict(config)
        validation = judge(config_run, [pair.seed], probed.prediction, [pair])
        parts.append(measured_part(key, validation))
    if run.epochs:
        parts.append(_epochs_part(key, run, fixed))
    headroom = ""
    if probed:
        c = probed.characterization
        parts.append(headroom_part(key, c.curve, c.config["batch_size"]))
        headroom = headroom_words(c.curve, c.config["batch_size"])
    parts.append(repeat_part(_cost(run), run.environment, [run_command(run)]))
    size = f"{run.num_params / 1e6:.2f} M parameters, " if run.num_params else ""
    return Section(
        anchor=key,
        kind="run",
        title=str(config["model"]),
        subtitle=f"{size}on {config['data']}, {config['scheduler']} schedule, seed "
        f"{config['seed']}, batch {config['batch_size']}, {config['optimizer']} at "
        f"{config['lr']:g}; run {run.run_id}",
        verdict=_verdict(run, fixed, pair, probed, limits),
        gain=_gain(pair, headroom),
        parts=tuple(parts),
    )


def _probed(run: RunResult, root: Path) -> Probed | None:
    """The latest characterization of what the run trains, where one is stored in `root`."""
    wanted = _without_schedule(RunConfig.from_dict(run.config))
    found = None
    stem = wanted.rsplit("-s0-", 1)[0]
    # By length first, so that the tenth of a name comes behind its second.
    for path in sorted(root.glob("characterizations/*.json"), key=lambda p: (len(p.name), p.name)):
        if not path.name.startswith(stem):
            continue
        try:
            c, p = read_characterization(path)
        except MissingError:  # one that was not asked for by name spoils no report
            continue
        if _without_schedule(RunConfig.from_dict(c.config)) == wanted:
            found = Probed(characterization=c, prediction=p)
    return found


def _without_schedule(config: RunConfig) -> str:
    """What a run and its probe have in common, as a name."""
    return dataclasses.replace(
        config,
        scheduler="fixed",
        scheduler_args={},
        reset_moments=False,
        seed=0,
        order_seed=None,
        max_epochs=None,
        channels_last="auto",
    ).run_id()


def _spoken_of(run: RunResult) -> bool:
    return is_corpus_reading(run.config["scheduler"], run.config.get("scheduler_args", {}))


def _verdict(
    run: RunResult,
    fixed: RunResult | None,
    pair: Comparison | None,
    probed: Probed | None,
    limits: Limits,
) -> Verdict:
    done, wanted = len(run.epochs), RunConfig.from_dict(run.config).last_epoch
    facts = _facts(run, pair)
    notes = _notes(run, probed)
    if run.status == "diverged":
        reason = f"The loss became non-finite in epoch {done + 1} of {wanted}; use a smaller --lr."
        return Verdict(words="DIVERGED", tone="bad", reason=reason, facts=facts, notes=notes)
    if run.status != "finished":
        reason = f"{done} of {wanted} epochs are done; type the command below to go on."
        return Verdict(words="NOT FINISHED", tone="unsure", reason=reason, facts=facts, notes=notes)
    if pair is not None:
        reason = (
            f"Beside the fixed batch of {run.config['batch_size']} with the same seed. One pair of "
            f"runs is one draw: several seeds tell more. Paying off means {limits.words}."
        )
        words, tone = _WORDS[pair.benefit_class], _TONES[pair.benefit_class]
        return Verdict(words=words, tone=tone, reason=reason, facts=facts, notes=notes)
    reason = "It is itself the fixed batch, which others are compared with."
    if run.config["scheduler"] != "fixed":
        reason = "No finished fixed run of the same model, data and seed is stored beside it."
        if fixed is not None:
            reason = (
                f"The fixed run beside it is of another machine ({machine_of(fixed.environment)}; "
                f"this one {machine_of(run.environment)}), so that their times do not compare."
            )
    return Verdict(words="FINISHED", tone="plain", reason=reason, facts=facts, notes=notes)


def _facts(run: RunResult, pair: Comparison | None) -> tuple[Fact, ...]:
    facts = []
    if pair is not None:
        clock = "CPU seconds" if run.device == "cpu" else "seconds"
        facts += [
            Fact(
                name="time saved",
                value=f"{pair.time_saved_pct:+.0f} %",
                meaning=f"of the fixed run's {clock}",
            ),
            Fact(
                name="accuracy change",
                value=f"{pair.accuracy_delta_pp:+.1f} points",
                meaning="; ".join(filter(None, ("after the last epoch", scatter_words([pair])))),
            ),
        ]
    if run.epochs:
        facts.append(
            Fact(
                name="accuracy",
                value=percent(run.final_accuracy, 1),
                meaning=f"after {len(run.epochs)} epochs",
            )
        )
    return tuple(facts)


def _notes(run: RunResult, probed: Probed | None) -> tuple[str, ...]:
    notes = []
    if split := split_epochs(run):
        notes.append(f"From epoch {split[0].epoch} on, memory forced batches to run in parts.")
    if probed and run.config["scheduler"] != "fixed" and not _spoken_of(run):
        notes.append(
            f"The stored prediction ({probed.prediction.time_saved_pct:+.0f} % time saved) speaks "
            f"of DEBA in its reading {CORPUS_READING['reading']}, not of this schedule, and is not "
            "held against it."
        )
    return tuple(notes)


def _epochs_part(key: str, run: RunResult, fixed: RunResult | None) -> Part:
    return Part(
        title="Batch and accuracy over the epochs",
        text=(f"The fixed run beside it is {fixed.run_id}.",) if fixed else (),
        figures=figures.run_figures(key, run, fixed),
        downloads=(_records(key, run),),
    )


def _records(key: str, run: RunResult) -> Download:
    """Every number of every epoch."""
    names = [f.name for f in dataclasses.fields(EpochRecord) if f.name not in ("noise", "evidence")]
    return figures.download(
        f"{key}-epochs.csv", names, ([getattr(e, name) for name in names] for e in run.epochs)
    )


def _cost(run: RunResult) -> list[Fact]:
    evaluation = sum(e.eval_s for e in run.epochs)
    facts = [
        Fact(
            name="training",
            value=f"{run.time_s:.1f} s",
            meaning=f"{run.cpu_s:.1f} CPU seconds, {run.updates} updates",
        ),
        Fact(name="evaluation", value=f"{evaluation:.1f} s", meaning="off the training clock"),
    ]
    if run.peak_memory_bytes is not None:
        facts.append(Fact(name="peak memory", value=f"{run.peak_memory_bytes / 2**20:.0f} MiB"))
    return facts


def _gain(pair: Comparison | None, headroom: str) -> Gain:
    if pair is None:
        return Gain(
            group=3,
            time_saved_pct=None,
            time_saved="",
            accuracy="",
            headroom=headroom,
            known="nothing to compare",
        )
    return Gain(
        group=GROUPS[pair.benefit_class],
        time_saved_pct=pair.time_saved_pct,
        time_saved=f"{pair.time_saved_pct:+.0f} %",
        accuracy=f"{pair.accuracy_delta_pp:+.1f}",
        headroom=headroom,
        known="measured, 1 pair",
    )
