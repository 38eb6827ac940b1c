"""Batch schedules by name."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from stability_probe.config import RunConfig, largest_batch_size
from stability_probe.errors import UsageError, near
from stability_probe.schedulers.adabatch import AdaBatch
from stability_probe.schedulers.base import (
    GRID,
    BatchScheduler,
    BoundedScheduler,
    Bounds,
    Decision,
    Proposal,
    Rule,
)
from stability_probe.schedulers.deba import READINGS, Deba
from stability_probe.schedulers.fixed import Fixed
from stability_probe.schedulers.noise_scale import NoiseScale
from stability_probe.schedulers.norm_test import NormTest
from stability_probe.schedulers.replay import Random, Replay
from stability_probe.schedulers.timed import Timed
from stability_probe.user_code import (
    import_callable,
    is_own,
    one_line,
    working_directory_importable,
)

__all__ = [
    "SCHEDULERS",
    "BatchScheduler",
    "BoundedScheduler",
    "Bounds",
    "Decision",
    "Proposal",
    "Rule",
    "make_scheduler",
]

MIN_BATCH_SIZE = 16
"""Where a schedule may fall below the initial batch, it stops here (paper: 16)."""

SCHEDULERS: dict[str, Callable[..., Rule]] = {
    "fixed": Fixed,
    "deba": Deba,
    "timed": Timed,
    "adabatch": AdaBatch,
    "noise_scale": NoiseScale,
    "norm_test": NormTest,
    "replay": Replay,
    "random": Random,
}


def make_scheduler(config: RunConfig, num_train: int) -> BatchScheduler:
    """The schedule a run asks for, bounded for `num_train` samples.

    Every schedule takes the argument `cooldown`, the least number of epochs between changes;
    `deba` also takes `reading`, a name of `READINGS` that its other arguments override.
    Raises `UsageError` for an unknown schedule or argument, naming the nearest.
    """
    arguments = {**default_arguments(config), **config.scheduler_args}
    if config.scheduler == "deba":
        arguments.pop("reading", None)  # a name for what `default_arguments` has spelled out
    cooldown = arguments.pop("cooldown", None)
    rule = _make_rule(config.scheduler, arguments)
    if cooldown is None:
        cooldown = getattr(rule, "cooldown", 0)
    if type(cooldown) is not int or cooldown < 0:
        raise UsageError(f"cooldown is {cooldown!r}; use a whole number of epochs from 0")
    sizes = rule.batch_sizes if isinstance(rule, Replay) else ()
    if sizes and cooldown:
        raise UsageError(f"{config.scheduler} follows its sequence; leave cooldown out")
    if sizes and sizes[0] != config.batch_size:
        raise UsageError(f"the sequence starts at batch {sizes[0]}; use -b {sizes[0]}")
    below = getattr(rule, "floor", "initial") == "minimum"
    bounds = Bounds(
        minimum=min(MIN_BATCH_SIZE, config.batch_size) if below else config.batch_size,
        maximum=max(largest_batch_size(config, num_train), config.batch_size),
    )
    _check_sequence(sizes, bounds)
    return BoundedScheduler(rule, bounds, cooldown)


def _check_sequence(sizes: Sequence[int], bounds: Bounds) -> None:
    """A sequence is followed as it is, or not at all."""
    for before, size in itertools.pairwise(sizes):
        if size != before and bounds.snapped(before, size) != size:
            raise UsageError(
                f"the sequence has a batch of {size}, and this run may take multiples of {GRID} "
                f"from {bounds.minimum} to {bounds.maximum}; use another --max-batch-size, or "
                "the sequence of a run with the same bounds"
            )


def default_arguments(config: RunConfig) -> dict[str, Any]:
    """Arguments that follow from the run where they are not given."""
    if config.scheduler == "deba":
        reading = config.scheduler_args["reading"]
        if not isinstance(reading, str) or reading not in READINGS:
            raise UsageError(_unknown("reading of deba", str(reading), list(READINGS)))
        if config.window_epochs < 2 and "calibration_epochs" not in config.scheduler_args:
            raise UsageError(
                "deba takes its thresholds from a window of 2 epochs at least; use --window 2 or "
                "more, and as many --epochs"
            )
        return {"calibration_epochs": config.window_epochs, **READINGS[reading]}
    if config.scheduler == "adabatch":
        return {"every": max(1, config.epochs // 5)}
    if config.scheduler == "random":
        return {"seed": config.seed}
    return {}


def _make_rule(name: str, arguments: dict[str, Any]) -> Rule:
    if is_own(name):
        return _make_users_rule(name, arguments)
    if name not in SCHEDULERS:
        raise UsageError(_unknown("scheduler", name, list(SCHEDULERS)))
    make = SCHEDULERS[name]
    allowed = list(inspect.signature(make).parameters)
    for argument in arguments:
        if argument not in allowed:
            more = ["cooldown", *(["reading"] if name == "deba" else [])]
            raise UsageError(_unknown(f"argument of {name}", argument, [*allowed, *more]))
    try:
        return make(**arguments)
    except TypeError as error:
        raise UsageError(f"arguments of {name}: {one_line(error)}") from error


def _make_users_rule(name: str, arguments: dict[str, Any]) -> Rule:
    """The object that the user's callable returns for these arguments."""
    try:
        with working_directory_importable():
            made: Any = import_callable(name)(**arguments)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # the user's code
        raise UsageError(f"{name} failed ({one_line(error)})") from error
    for method in ("propose", "state_dict", "load_state_dict"):
        if not callable(getattr(made, method, None)):
            raise UsageError(f"what {name} returns has no {method}(); see schedulers/base.py, Rule")
    every = getattr(made, "noise_every", 0)
    if not isinstance(every, int) or every < 0:
        raise UsageError(f"noise_every of {name} is {every!r}; use a whole number of epochs from 0")
    rule: Rule = made
    return rule


def _unknown(what: str, name: str, known: list[str]) -> str:
    return f"unknown {what} {name!r}; use {near(name, known)}"
