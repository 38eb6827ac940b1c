"""A batch schedule for a training loop that is not ours, stepped once an epoch."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.integrations.gradient_monitor import GradientMonitor
from stability_probe.integrations.sampler import AdaptiveBatchSampler
from stability_probe.integrations.scaled_rate import ScaledRate, rate_factor
from stability_probe.metrics import variations
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import EpochRecord
from stability_probe.schedulers import BatchScheduler, make_scheduler
from stability_probe.schedulers.base import decided


class AdaptiveBatch:
    """Sets the batch of `sampler` from what `monitor` saw; stepped like a scheduler of the rate.

    The schedules, their bounds, grid and cooldown are those of ``probe run``: the same records
    give the same batches. Of several processes the first decides.

    scheduler: a name of `stability_probe.schedulers.SCHEDULERS`, or ``package.module:callable``;
        `scheduler_args` are its arguments.
    epochs: of the whole training.
    max_batch_size: largest batch; by default 2048, but never fewer than five updates an epoch.
    window_epochs: first epochs, at the initial batch, that thresholds come from; by default 4.
    lr_rule: how the rate follows the batch: none, linear (SGD) or sqrt (Adam family). The factor
        is applied within each step, on top of your own schedule; ``group["lr"]`` stays yours.

    Raises `UsageError` for what cannot work, such as a schedule that needs the noise scale: only
    probe's own loop can measure that.
    """

    def __init__(
        self,
        monitor: GradientMonitor,
        sampler: AdaptiveBatchSampler,
        scheduler: str = "deba",
        *,
        epochs: int,
        max_batch_size: int | None = None,
        window_epochs: int | None = None,
        lr_rule: str = "none",
        **scheduler_args: Any,
    ) -> None:
        self.monitor = monitor
        self.sampler = sampler
        self.record: EpochRecord | None = None
        """Of the epoch that ended last, with the decision on it."""
        self.config = RunConfig(
            model=type(monitor.model).__name__,
            batch_size=sampler.global_batch_size,
            max_batch_size=max_batch_size,
            epochs=epochs,
            window_epochs=min(RunConfig.window_epochs, epochs)
            if window_epochs is None
            else window_epochs,
            seed=sampler.seed,
            lr_rule=lr_rule,
            scheduler=scheduler,
            scheduler_args=scheduler_args,
        )
        self.scheduler: BatchScheduler = make_scheduler(self.config, sampler.num_samples)
        if self.scheduler.noise_every or scheduler_args.get("window_mode") == "rescale":
            raise UsageError(
                f"{scheduler} as asked needs the noise scale, which only probe's own loop "
                "measures; use deba, timed, adabatch or replay"
            )
        rate_factor(lr_rule, monitor.optimizer, 1.0)
        self.rate = ScaledRate(monitor.optimizer)
        monitor.start_epoch(sampler.num_updates)

    def step(self, test_loss: float = math.nan, test_accuracy: float = math.nan) -> EpochRecord:
        """Decide at the end of an epoch, on every process; the next ``iter`` of the loader obeys.

        Returns the record of the epoch, with the next batch and the reason for it. `test_loss`
        and `test_accuracy` are recorded, and left to your own schedule to use.
        """
        world = self.sampler.world
        measured = self.monitor.finish_epoch(world)
        self._check_samples(measured["samples"])
        measured["lr"] *= self.rate.factor
        batch_size, accumulate = self.sampler.global_batch_size, self.sampler.accumulate
        record = EpochRecord(
            epoch=self.record.epoch + 1 if self.record else 1,
            batch_size=batch_size,
            micro_batch_size=math.ceil(batch_size / (world.size * accumulate)),
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            **variations(measured, self.record),
            **measured,
        )
        record = world.lead(partial(decided, self.scheduler, record))
        # A bound of the schedule knows nothing of processes; one change in many is cut here.
        least = min(batch_size, self.sampler.smallest_batch)
        size = max(record.next_batch_size, least)
        self.record = dataclasses.replace(record, next_batch_size=size)
        self._follow(record.epoch, size)
        return self.record

    def _check_samples(self, seen: int) -> None:
        expected = self.sampler.num_samples
        if seen != expected:
            warnings.warn(
                f"{seen} of {expected} samples were seen in this epoch; train on every batch of "
                "the sampler once, call monitor.add_loss with each, and let nothing else share "
                "the batches among processes",
                stacklevel=3,
            )

    def _follow(self, epoch: int, batch_size: int) -> None:
        """Go on after `epoch` epochs with a batch, and the rate that belongs to it."""
        ratio = batch_size / self.config.batch_size
        self.rate.factor = rate_factor(self.config.lr_rule, self.monitor.optimizer, ratio)
        self.sampler.set_epoch(epoch, batch_size)
        self.monitor.start_epoch(self.sampler.num_updates)

    def close(self) -> None:
        """Take every hook off the optimizer."""
        self.monitor.close()
        self.rate.close()

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint at the end of an epoch, after `step`.

        Only the first of several processes knows the state of its schedule: save there.
        """
        return {
            "config": self.config.to_dict(),
            "scheduler": self.scheduler.state_dict(),
            "record": None if self.record is None else to_plain(self.record),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, on every process.

        Raises `UsageError` for the state of another schedule.
        """
        kept, present = state["config"], self.config.to_dict()
        for name in ("scheduler", "scheduler_args", "batch_size", "lr_rule"):
            if kept[name] != present[name]:
                raise UsageError(
                    f"the checkpoint is of {name} {kept[name]!r}, this schedule of "
                    f"{present[name]!r}; make it as it was"
                )
        self.scheduler.load_state_dict(state["scheduler"])
        self.record = None if state["record"] is None else from_plain(EpochRecord, state["record"])
        if self.record is not None:
            self._follow(self.record.epoch, self.record.next_batch_size)
