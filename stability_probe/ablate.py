"""What each part of DEBA is worth: one part changed at a time, paired by seed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stability_probe.config import RunConfig, checked_seeds
from stability_probe.errors import RunError
from stability_probe.limits import DEFAULT_LIMITS
from stability_probe.paired import EQUIVALENCE_LEVEL, mean_interval
from stability_probe.progress import Progress, Quiet
from stability_probe.records import ArmOutcome, Claim, RunResult, Study, ThroughputCurve
from stability_probe.run import load_run_data
from stability_probe.schedulers import default_arguments, make_scheduler
from stability_probe.schedulers.deba import Deba, thresholds_of
from stability_probe.study import (
    Arm,
    Results,
    check_jobs,
    concluded,
    in_other_order,
    make_arm,
    make_study,
    not_finished,
    resolve_for_study,
    run_arms,
)

REFERENCE = "deba"
FIXED = "fixed"
WHOLE_PROFILE = "whole profile"

_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("window 5", {"window": 5}),
    ("window 30", {"window": 30}),
    ("full history", {"window": None}),
    ("cooldown 0", {"cooldown": 0}),
    ("cooldown 1", {"cooldown": 1}),
    ("cooldown 3", {"cooldown": 3}),
    ("cooldown 10", {"cooldown": 10}),
    ("window restarts", {"window_mode": "restart"}),
    ("window rescales", {"window_mode": "rescale"}),
    ("calibrated on 3", {"calibration_epochs": 3}),
    ("calibrated on 5", {"calibration_epochs": 5}),
    ("calibrated on 10", {"calibration_epochs": 10}),
)
"""(name, arguments of deba that differ). The reference has window 15, cooldown 5, carry."""

CLAIMS: tuple[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], bool]], ...] = (
    (
        "a sliding window, not the full history, is essential",
        ("full history",),
        lambda arguments: arguments["window"] is not None,
    ),
    (
        "a cooldown of 5 or more epochs is essential",
        ("cooldown 0", "cooldown 1", "cooldown 3"),
        lambda arguments: arguments["cooldown"] >= 5,
    ),
)
"""(the paper's claim, arms that lack what it calls essential, whether arguments have it)."""


def ablate(
    config: RunConfig,
    *,
    seeds: Iterable[int],
    root: Path | str,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Study:
    """Run DEBA with one part changed at a time; stored runs are not repeated.

    `config.scheduler_args` are arguments of DEBA that all arms share. Raises `UsageError` for one
    that DEBA does not take, `RunError` when the fixed run or DEBA itself did not finish.
    """
    seeds, root = checked_seeds(seeds), Path(root)
    check_jobs(config, jobs)
    progress = progress or Quiet()
    config = dataclasses.replace(config, scheduler="deba")
    num_train = len(load_run_data(config).train_labels)
    for arm in independent_arms(config, seeds[:1]):  # before anything is trained
        make_scheduler(arm.configs[0], num_train)
    plain = dataclasses.replace(config, scheduler="fixed", scheduler_args={})
    plain, curve = resolve_for_study(plain, root, jobs, progress)
    config = dataclasses.replace(config, channels_last=plain.channels_last, threads=plain.threads)
    arms = differing(independent_arms(config, seeds))
    results = dict(run_arms(arms, root, jobs, progress))
    profile = profile_arm(arms, results)
    results.update(run_arms([profile], root, jobs, progress))
    return ablation_study([*arms, profile], results, curve)


def ablation_study(arms: Sequence[Arm], results: Results, curve: ThroughputCurve) -> Study:
    """The finished arms side by side, with the paper's claims judged."""
    study = make_study(arms, results, curve=curve, reference=REFERENCE)
    arguments = _arguments(arms[0].configs[0])
    lacking = "the reference lacks it, by your own arguments"
    claims = [
        judge(study, text, names)
        if has(arguments)
        else Claim(text=text, verdict="not decided", reason=lacking)
        for text, names, has in CLAIMS
    ]
    told = "; ".join(f"{c.text}: {c.verdict}" for c in claims)
    return concluded(study, f"{told[0].upper()}{told[1:]}.", claims)


def independent_arms(config: RunConfig, seeds: Sequence[int]) -> list[Arm]:
    """DEBA as in `config`, the fixed run, and every variant that needs no other arm's result."""
    fixed = dataclasses.replace(config, scheduler="fixed", scheduler_args={})
    shared = dict(config.scheduler_args)

    arms = [
        make_arm(REFERENCE, "reference", config, seeds),
        in_other_order("deba reordered", config, seeds),
        make_arm(FIXED, "fixed", fixed, seeds),
    ]
    for name, changes in _VARIANTS:
        arms.append(make_arm(name, "schedule", config, seeds, scheduler_args={**shared, **changes}))
    if config.optimizer == "sgd" and config.lr_rule == "none":
        arms.append(make_arm("linear rate rule", "schedule", config, seeds, lr_rule="linear"))
    return arms


def differing(arms: Sequence[Arm]) -> list[Arm]:
    """Without variants that are the reference by another name, as a cooldown of 3 is where all arms
    have one: they would repeat its runs, and count as comparisons."""
    reference = _spelled_out(arms[0].configs[0])
    return [arms[0], *(arm for arm in arms[1:] if _spelled_out(arm.configs[0]) != reference)]


def _spelled_out(config: RunConfig) -> RunConfig:
    """With every argument of DEBA, given or not."""
    return dataclasses.replace(config, scheduler_args=_arguments(config))


def _arguments(config: RunConfig) -> dict[str, Any]:
    if config.scheduler != REFERENCE:
        return dict(config.scheduler_args)
    own = {name: p.default for name, p in inspect.signature(Deba).parameters.items()}
    given = {**default_arguments(config), **config.scheduler_args}
    return {**own, "cooldown": Deba.cooldown, **given, "reading": None}


def profile_arm(arms: Sequence[Arm], results: Results) -> Arm:
    """DEBA with thresholds from the whole fixed run of its seed, as the paper calibrates them."""
    by_name = {arm.name: arm for arm in arms}
    runs = by_name[FIXED].results(results)
    if runs is None or any(r.status != "finished" for r in runs):
        raise RunError(not_finished(FIXED))
    configs = tuple(
        _with_profile(config, run)
        for config, run in zip(by_name[REFERENCE].configs, runs, strict=True)
    )
    return Arm(name=WHOLE_PROFILE, role="schedule", configs=configs)


def _with_profile(config: RunConfig, fixed: RunResult) -> RunConfig:
    spelled = _arguments(config)
    rule = {n: v for n, v in spelled.items() if n not in ("reading", "cooldown")}
    arguments = {**config.scheduler_args, "thresholds": thresholds_of(fixed.epochs, **rule)}
    return dataclasses.replace(config, scheduler_args=arguments)


def judge(study: Study, text: str, without: Sequence[str]) -> Claim:
    """Whether the arms that lack a part are worse than the reference, which has it.

    Time is that of the throughput curve. *held*: some lose time or accuracy beyond the noise and
    by more than the margin of a benefit, and none gains so. *not held*: the intervals of all, for
    time and accuracy, stay on the near side of the margin (two one-sided tests). *not decided*
    otherwise.
    """
    arms = [arm for arm in study.arms if arm.name in without]
    if study.curve.busy:
        reason = "the throughput curve was measured on a busy machine"
        return Claim(text=text, verdict="not decided", reason=reason)
    if any(arm.status != "finished" for arm in arms):
        lost = ", ".join(arm.name for arm in arms if arm.status != "finished")
        return Claim(text=text, verdict="not decided", reason=f"{lost} did not finish")
    told = "; ".join(_words(arm) for arm in arms)
    worse = [arm for arm in arms if _beyond(arm, -1)]
    better = [arm for arm in arms if _beyond(arm, +1)]
    if worse and not better:
        verdict = "held"
    elif all(_not_worse(arm) for arm in arms):
        verdict = "not held"
    else:
        verdict = "not decided"
    return Claim(text=text, verdict=verdict, reason=told)


def _sides(arm: ArmOutcome) -> list[tuple[Any, float]]:
    """(difference, margin) in time, by the curve so that neighbours decide no claim, and accuracy.

    A margin is what makes a benefit or a harm of a whole schedule.
    """
    return [
        (arm.curve_saved_pct, DEFAULT_LIMITS.min_time_saved_pct),
        (arm.accuracy_delta_pp, DEFAULT_LIMITS.max_accuracy_loss_pp),
    ]


def _beyond(arm: ArmOutcome, sign: int) -> bool:
    return any(d.larger_than_noise and sign * d.mean > margin for d, margin in _sides(arm))


def _not_worse(arm: ArmOutcome) -> bool:
    return all(
        mean_interval(d.values, EQUIVALENCE_LEVEL, d.resolution)[0] > -margin
        for d, margin in _sides(arm)
    )


def _words(arm: ArmOutcome) -> str:
    parts = []
    for (difference, _), unit in zip(_sides(arm), ("% time", "points"), strict=True):
        low, high = mean_interval(difference.values, EQUIVALENCE_LEVEL, difference.resolution)
        parts.append(f"{difference.mean:+.1f} {unit} ({low:+.1f} to {high:+.1f})")
    return f"{arm.name}: {', '.join(parts)}"
