"""Batch schedules by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from stability_probe.config import RunConfig, default_max_batch_size
from stability_probe.errors import UsageError
from stability_probe.schedulers.base import BatchScheduler, Decision, Limits
from stability_probe.schedulers.deba import Deba
from stability_probe.schedulers.fixed import Fixed

__all__ = ["SCHEDULERS", "BatchScheduler", "Deba", "Decision", "Fixed", "Limits", "make_scheduler"]


def _make_fixed(config: RunConfig, limits: Limits) -> BatchScheduler:
    return Fixed(**config.scheduler_args)


def _make_deba(config: RunConfig, limits: Limits) -> BatchScheduler:
    return Deba(limits, **{"calibration_epochs": config.window_epochs, **config.scheduler_args})


SCHEDULERS: dict[str, tuple[type, Callable[[RunConfig, Limits], BatchScheduler]]] = {
    "fixed": (Fixed, _make_fixed),
    "deba": (Deba, _make_deba),
}


def make_scheduler(config: RunConfig, num_train: int) -> BatchScheduler:
    """The schedule a run asks for, bounded for `num_train` samples.

    Raises `UsageError` for an unknown schedule or argument, naming the nearest.
    """
    if config.scheduler not in SCHEDULERS:
        raise UsageError(_unknown("scheduler", config.scheduler, list(SCHEDULERS)))
    kind, make = SCHEDULERS[config.scheduler]
    allowed = [
        p for p in inspect.signature(kind).parameters if p not in ("limits", "args", "kwargs")
    ]
    for name in config.scheduler_args:
        if name not in allowed:
            raise UsageError(_unknown(f"argument of {config.scheduler}", name, allowed))
    maximum = config.max_batch_size or default_max_batch_size(num_train, config.batch_size)
    limits = Limits(
        minimum=config.batch_size,
        maximum=max(maximum, config.batch_size),
    )
    try:
        return make(config, limits)
    except TypeError as error:
        raise UsageError(f"arguments of {config.scheduler}: {error}") from error


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    return f"unknown {what} {name!r}; use {' or '.join(near) if near else 'none'}"
