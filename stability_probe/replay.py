"""Stored runs as arguments of a schedule, and schedules put to stored runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.optim import learning_rate
from stability_probe.records import DecisionRecord, RunResult
from stability_probe.schedulers import make_scheduler
from stability_probe.store import Store


def with_stored_sequence(config: RunConfig, store: Store) -> RunConfig:
    """`config` with the argument ``run=RUN_ID`` of a schedule replaced by that run's batch sizes.

    The run then describes itself: its identity follows from the sequence, not from where the
    sequence was kept. Raises `UsageError` for a run that is not stored or has no epoch.
    """
    if config.scheduler not in ("replay", "random") or "run" not in config.scheduler_args:
        return config
    arguments = dict(config.scheduler_args)
    name = arguments.pop("run")
    if "batch_sizes" in arguments:
        raise UsageError(f"{config.scheduler} takes run or batch_sizes, not both")
    source = store.load(str(name))
    if not source.epochs:
        raise UsageError(f"{name} has no finished epoch yet")
    arguments["batch_sizes"] = list(source.batch_sizes)
    return dataclasses.replace(config, scheduler_args=arguments)


def explain(result: RunResult) -> list[DecisionRecord]:
    """Every decision of a run, as it was taken and recorded."""
    config = RunConfig.from_dict(result.config)
    return [
        DecisionRecord(
            epoch=e.epoch,
            batch_size=e.batch_size,
            action=e.action,
            next_batch_size=e.next_batch_size,
            cooldown_left=e.cooldown_left,
            lr=e.lr,
            next_lr=_rate_after(config, e.epoch, e.next_batch_size),
            reason=e.reason,
            evidence=e.evidence,
        )
        for e in result.epochs
    ]


def replay_policy(
    result: RunResult, scheduler: str, scheduler_args: dict[str, Any], store: Store | None = None
) -> list[DecisionRecord]:
    """What another schedule would have decided on a run's records, without training.

    Open loop: the batch follows the policy, but the signals stay those of the batches that
    really ran, so after its first change this is a rehearsal and no measurement. An argument
    ``run=RUN_ID`` names a run of `store`. Raises `UsageError` for a schedule that needs what the
    run did not measure.
    """
    if not result.epochs:
        raise UsageError(f"{result.run_id} has no finished epoch yet")
    config = dataclasses.replace(
        RunConfig.from_dict(result.config), scheduler=scheduler, scheduler_args=scheduler_args
    )
    if store is not None:
        config = with_stored_sequence(config, store)
    policy = make_scheduler(config, result.num_train or result.epochs[0].samples)
    _check_noise(result, policy.noise_every, scheduler)
    decisions = []
    batch_size = config.batch_size
    for measured in result.epochs:
        decision = policy.step(dataclasses.replace(measured, batch_size=batch_size))
        decisions.append(
            DecisionRecord(
                epoch=measured.epoch,
                batch_size=batch_size,
                action=decision.action,
                next_batch_size=decision.batch_size,
                cooldown_left=decision.cooldown_left,
                lr=learning_rate(config, measured.epoch, batch_size),
                next_lr=_rate_after(config, measured.epoch, decision.batch_size),
                reason=decision.reason,
                evidence=decision.evidence,
            )
        )
        batch_size = decision.batch_size
    return decisions


def _check_noise(result: RunResult, every: int, scheduler: str) -> None:
    wanted = range(every, len(result.epochs) + 1, every) if every else ()
    missing: Sequence[int] = [e for e in wanted if result.epochs[e - 1].noise is None]
    if missing:
        raise UsageError(
            f"{scheduler} needs the noise scale of epoch {missing[0]}, which {result.run_id} did "
            "not measure; use a run of noise_scale or norm_test with the same every"
        )


def _rate_after(config: RunConfig, epoch: int, batch_size: int) -> float:
    """The rate of the next epoch; after the last one, that of one epoch more."""
    return learning_rate(config, epoch + 1, batch_size)
