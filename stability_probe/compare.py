"""A batch schedule against everything a user would pick instead, paired by seed.

Beside the schedules run the controls without which their gain means nothing: larger fixed
batches, decaying rates (a growing batch anneals as they do), the same run with another order of
samples (the noise floor), and for DEBA its batch sequence without its signals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stability_probe.advice import REPLAYED, advise
from stability_probe.config import RunConfig, checked_seeds
from stability_probe.datasets import Dataset
from stability_probe.errors import UsageError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.optim import rate_rule, scale_lr
from stability_probe.progress import Progress, Quiet
from stability_probe.records import Study, ThroughputCurve
from stability_probe.run import load_run_data
from stability_probe.schedulers import make_scheduler
from stability_probe.schedulers.base import GRID
from stability_probe.study import (
    Arm,
    Results,
    check_jobs,
    concluded,
    in_other_order,
    make_arm,
    make_study,
    resolve_for_study,
    run_arms,
)

RIVALS = ("deba", "timed", "adabatch", "noise_scale", "norm_test")
"""Schedules that are compared where none are named."""
MULTIPLES = (2, 4, 8)
"""Of the initial batch: the larger fixed batches."""
FIXED = "fixed"
AGAIN = "fixed reordered"
SCATTERED = "deba at random"
AVERAGE = "deba's average"
AVERAGE_SCALED = "deba's average, lr scaled"
LARGEST_SCALED = "deba's largest, lr scaled"
CONTRASTS = (
    ("its batch sequence, replayed", "deba", REPLAYED),
    ("the same changes at random epochs", "deba", SCATTERED),
    ("growth at fixed times", "deba", "timed"),
    ("a fixed batch of its average", "deba", AVERAGE),
    ("that with the rate scaled", "deba", AVERAGE_SCALED),
    ("its largest, rate scaled", "deba", LARGEST_SCALED),
    ("a fixed batch with a cosine rate", "deba", "cosine"),
    ("a fixed batch with a step rate", "deba", "step"),
)
"""(what DEBA is set against, arm, against)."""


def compare(
    config: RunConfig,
    *,
    seeds: Iterable[int],
    root: Path | str,
    schedulers: Sequence[str] = RIVALS,
    jobs: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Study:
    """Run every arm for every seed, then set them side by side; stored runs are not repeated.

    Raises `UsageError` for an unknown schedule or a seed given twice, `RunError` when the fixed run
    did not finish.
    """
    seeds, root = checked_seeds(seeds), Path(root)
    check_jobs(config, jobs)
    progress = progress or Quiet()
    dataset = load_run_data(config)
    check_schedulers(config, schedulers, dataset)
    config, curve = resolve_for_study(config, root, jobs, progress)
    arms = independent_arms(config, seeds, schedulers, len(dataset.train_labels))
    results = dict(run_arms(arms, root, jobs, progress))
    controls = deba_controls(arms, results)
    results.update(run_arms(controls, root, jobs, progress))
    return compare_study([*arms, *controls], results, curve, limits)


def compare_study(
    arms: Sequence[Arm],
    results: Results,
    curve: ThroughputCurve,
    limits: Limits = DEFAULT_LIMITS,
) -> Study:
    """The finished arms side by side, with the advice that follows."""
    # Over all seeds a replay has DEBA's own batches: of its time there is nothing to ask.
    study = make_study(
        arms, results, curve=curve, reference=FIXED, contrasts=CONTRASTS, untimed=(REPLAYED,)
    )
    study = dataclasses.replace(study, limits=limits)
    return concluded(study, advise(study))


def check_schedulers(config: RunConfig, schedulers: Sequence[str], dataset: Dataset) -> None:
    """Raises `UsageError` for a schedule that cannot be made, before anything is trained."""
    for name in schedulers:
        if name in ("fixed", "replay", "random"):
            raise UsageError(f"{name} is always compared; use {', '.join(RIVALS)} or your own")
        make_scheduler(dataclasses.replace(config, scheduler=name), len(dataset.train_labels))


def independent_arms(
    config: RunConfig, seeds: Sequence[int], schedulers: Sequence[str], num_train: int
) -> list[Arm]:
    """All arms that need no other arm's result. A batch larger than the data, or than the largest
    that is allowed, is left out."""
    arms = [
        make_arm(FIXED, "reference", config, seeds),
        in_other_order(AGAIN, config, seeds),
    ]
    for name in schedulers:
        arms.append(make_arm(name, "schedule", config, seeds, scheduler=name))
    for k in MULTIPLES:
        size = k * config.batch_size
        if size > min(num_train, config.max_batch_size or size):
            continue
        for told, rule in (("", "none"), (", lr x{:g}", rate_rule(config.optimizer))):
            factor = scale_lr(rule, config.optimizer, k)
            name = f"fixed x{k}{told.format(factor)}"
            changes = {"batch_size": size, "lr": config.lr * factor}
            arms.append(make_arm(name, "fixed", config, seeds, **changes))
    for schedule in ("cosine", "step"):
        if schedule != config.lr_schedule:
            arms.append(make_arm(schedule, "decay", config, seeds, lr_schedule=schedule))
    return arms


def deba_controls(arms: Sequence[Arm], results: Results) -> list[Arm]:
    """DEBA's batch sequence without its signals, and fixed batches of its average and its largest
    size; nothing where DEBA did not finish.

    A seed replays the sequence of the next one: with its own it would repeat the run bit for
    bit. So a single seed has no replay. A fixed batch keeps the rate as DEBA does (`lr_rule`), or
    has it scaled by the rule of the optimizer, which is what a user of a larger batch would do.
    """
    by_name = {arm.name: arm for arm in arms}
    runs = by_name["deba"].results(results) if "deba" in by_name else None
    if runs is None or any(r.status != "finished" for r in runs):
        return []
    fixed = by_name[FIXED].configs
    sequences = [list(r.batch_sizes) for r in runs]
    shifted = sequences[1:] + sequences[:1]
    controls = []
    if len(runs) > 1:
        controls.append(_sequence_arm(REPLAYED, "replay", fixed, shifted))
    controls.append(_sequence_arm(SCATTERED, "random", fixed, sequences))
    rule = rate_rule(fixed[0].optimizer)
    averages = [_average(r.batch_sizes) for r in runs]
    if fixed[0].lr_rule != rule:
        controls.append(_constant_arm(AVERAGE, fixed, averages, fixed[0].lr_rule))
    controls.append(_constant_arm(AVERAGE_SCALED, fixed, averages, rule))
    largest = [max(r.batch_sizes) for r in runs]
    return [*controls, _constant_arm(LARGEST_SCALED, fixed, largest, rule)]


def _sequence_arm(
    name: str, scheduler: str, fixed: Sequence[RunConfig], sequences: Sequence[list[int]]
) -> Arm:
    configs = tuple(
        RunConfig.from_dict(
            {
                **config.to_dict(),
                "scheduler": scheduler,
                "scheduler_args": {"batch_sizes": sequence},
            }
        )
        for config, sequence in zip(fixed, sequences, strict=True)
    )
    return Arm(name=name, role="control", configs=configs)


def _constant_arm(name: str, fixed: Sequence[RunConfig], sizes: Sequence[int], rule: str) -> Arm:
    """One fixed batch size a seed, with the rate that `rule` gives it."""
    return Arm(
        name=name,
        role="control",
        configs=tuple(_at(c, s, rule) for c, s in zip(fixed, sizes, strict=True)),
    )


def _at(config: RunConfig, size: int, rule: str) -> RunConfig:
    factor = scale_lr(rule, config.optimizer, size / config.batch_size)
    changes = {"batch_size": size, "lr": config.lr * factor}
    return RunConfig.from_dict({**config.to_dict(), **changes})


def _average(sizes: Sequence[int]) -> int:
    """On the grid, and within what was taken: a run that kept a batch of 20 has that average."""
    rounded = math.floor(float(np.mean(sizes)) / GRID + 0.5) * GRID
    return min(max(rounded, min(sizes)), max(sizes))
