"""The section of a characterization: verdict, headroom, stability, grounds, cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from predictor import report_figures as figures
from predictor.corpus import CORPUS_READING
from predictor.grounds import Grounds, make_grounds
from predictor.judge import judge
from predictor.page import Fact, Part, Section
from predictor.report_grounds import grounds_part, neighbours_part
from predictor.report_parts import (
    Pair,
    gain_of,
    headroom_part,
    headroom_words,
    measured_part,
    predicted_gain,
    repeat_part,
    verdict_of,
)
from predictor.reproduce import characterize_command, validate_after
from predictor.summary import full_run_s
from stability_probe.config import RunConfig
from stability_probe.paired import compare_runs, machine_of
from stability_probe.probe_summary import noise_words, over_seeds
from stability_probe.records import Characterization, Prediction, Validation
from stability_probe.stored import Probed, finished_run
from stability_probe.words import counted, signed, with_std


def probe_section(key: str, probed: Probed, root: Path) -> Section:
    """What the probe told, and what came of it where full runs are stored in `root`."""
    c, p = probed.characterization, probed.prediction
    config = c.config
    grounds = make_grounds(c, p.limits)
    stored = stored_pairs(c, root)
    pairs = _of_its_machine(stored, c)
    validation = judged(c, p, pairs) if pairs else None
    gained = headroom_words(c.curve, config["batch_size"])
    parts = [measured_part(key, validation, pairs)] if validation else []
    parts += [
        headroom_part(key, c.curve, config["batch_size"]),
        window_part(key, c),
        grounds_part(key, grounds),
        neighbours_part(key, grounds),
        repeat_part(
            _cost(c),
            c.environment,
            [characterize_command(c, p.limits), validate_after(c, p.limits)],
            ["The first line measures this again; the second puts the prediction to the test."],
        ),
    ]
    return Section(
        anchor=key,
        kind="probe",
        title=str(config["model"]),
        subtitle=f"{c.num_params / 1e6:.2f} M parameters, on {config['data']}, {c.num_train} "
        f"samples; first {config['window_epochs']} of {config['epochs']} epochs at batch "
        f"{config['batch_size']}, {counted(len(c.seeds), 'seed')}, {config['optimizer']} at "
        f"{config['lr']:g}",
        verdict=verdict_of(
            p, (*_changed_since(p, grounds), *_measured_note(c, stored, validation))
        ),
        gain=gain_of(validation, gained) if validation else predicted_gain(p, gained),
        parts=tuple(parts),
    )


def stored_pairs(c: Characterization, root: Path) -> list[Pair]:
    """Full runs in `root` of what the probe spoke of: fixed, and DEBA as the corpus reads it."""
    pairs = []
    for seed in c.seeds:
        fixed = dataclasses.replace(RunConfig.from_dict(c.config), seed=seed)
        args = dict(CORPUS_READING)
        adaptive = dataclasses.replace(fixed, scheduler="deba", scheduler_args=args)
        found = [finished_run(run, root, c.curve.memory_format) for run in (fixed, adaptive)]
        if found[0] and found[1]:
            pairs.append((found[0], found[1]))
    return pairs


def _of_its_machine(pairs: Sequence[Pair], c: Characterization) -> list[Pair]:
    here = machine_of(c.environment)
    return [pair for pair in pairs if all(machine_of(r.environment) == here for r in pair)]


def judged(c: Characterization, p: Prediction, pairs: Sequence[Pair]) -> Validation:
    """A prediction beside the outcome of these pairs."""
    outcomes = [compare_runs(fixed, adaptive, p.limits) for fixed, adaptive in pairs]
    return judge(RunConfig.from_dict(c.config), [o.seed for o in outcomes], p, outcomes)


def window_part(key: str, c: Characterization) -> Part:
    """How steady the gradients were, seed by seed."""
    noise, meaning = noise_words(c)
    score, norm, loss = (
        with_std(over_seeds(c, name))
        for name in ("stability_score", "grad_norm_variation", "loss_variation")
    )
    return Part(
        title="Stability over the window",
        facts=(
            Fact(name="stability", value=score, meaning="1 is perfectly steady"),
            Fact(name="norm variation", value=norm, meaning="change between epochs"),
            Fact(name="loss variation", value=loss, meaning="change between epochs"),
            Fact(name="noise scale", value=noise, meaning=meaning),
        ),
        figures=figures.window_figures(key, c),
    )


def _cost(c: Characterization) -> list[Fact]:
    """What the probe took, beside what it may save."""
    run_s = full_run_s(c)
    share = f"{100 * c.probe_s / run_s:.1f} % of the full run's {run_s:.0f} s" if run_s else ""
    curve = f"{c.curve.time_s:.1f} s" if c.curve.time_s else "not recorded"
    return [
        Fact(name="cost of the window", value=f"{c.probe_s:.1f} s", meaning=share),
        Fact(name="cost of the throughput curve", value=curve),
    ]


def _changed_since(p: Prediction, grounds: Grounds) -> tuple[str, ...]:
    """A word of warning where the verdict was told by other rows than those taken apart here."""
    told = (p.time_saved_pct, p.probability_of_benefit)
    now = (grounds.time_saved_pct, grounds.probability_of_benefit)
    if all(math.isclose(a, b, abs_tol=5e-3) for a, b in zip(told, now, strict=True)):
        return ()
    return (
        "The verdict is the one that was stored. Told again from today's rows it would be "
        f"{now[0]:+.0f} % of the time, with a probability of a benefit of {now[1]:.2f}; the parts "
        "below are of today's rows (see probe predict).",
    )


def _measured_note(
    c: Characterization, stored: Sequence[Pair], v: Validation | None
) -> tuple[str, ...]:
    if v is None and stored:
        there = dict.fromkeys(machine_of(r.environment) for pair in stored for r in pair)
        return (
            f"Full runs of it are stored here, but of another machine ({'; '.join(there)}) than "
            f"it speaks of ({machine_of(c.environment)}).",
        )
    if v is None:
        return ("No full runs of it are stored here; probe validate makes them.",)
    return (
        f"Measured since, {counted(len(v.comparisons), 'pair')} of full runs: time saved "
        f"{signed(v.time_saved_pct)} %, accuracy change {signed(v.accuracy_delta_pp)} points.",
    )
