"""An adaptive batch in Lightning's Trainer: the one file that imports lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stability_probe.errors import MissingError, UsageError
from stability_probe.integrations.adaptive_batch import AdaptiveBatch
from stability_probe.integrations.gradient_monitor import GradientMonitor
from stability_probe.integrations.sampler import AdaptiveBatchSampler
from stability_probe.plain import to_plain

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ImportError as error:
    raise MissingError(
        "Lightning is not installed; use pip install 'stability-probe[lightning]'"
    ) from error


class AdaptiveBatchCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Sets the batch of `sampler` at the end of each training epoch.

    `sampler` must be the ``batch_sampler`` of the training loader; the other arguments are those
    of `AdaptiveBatch`, with the epochs of the Trainer. The Trainer needs
    ``reload_dataloaders_every_n_epochs=1``, since it counts the batches of an epoch once
    otherwise, and in several processes ``use_distributed_sampler=False``. The gradient is
    measured before Lightning clips it. Checkpoints of Lightning hold the schedule: take them at
    the end of an epoch.

    Raises `UsageError` when the fit begins, for a Trainer in which the sizes could not follow.
    """

    def __init__(
        self, sampler: AdaptiveBatchSampler, scheduler: str = "deba", **arguments: Any
    ) -> None:
        self.sampler = sampler
        self.scheduler = scheduler
        self.arguments = arguments
        self.adaptive: AdaptiveBatch | None = None
        """Made when the fit begins; its `record` is of the epoch that ended last."""
        self._batch_size = sampler.global_batch_size
        self._restored: Mapping[str, Any] | None = None
        self._ended = True  # False from the decision to the end of its epoch, with validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._check(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.train_dataloader
        if getattr(loader, "batch_sampler", None) is not self.sampler:
            raise UsageError(
                "the training loader does not follow the sampler of AdaptiveBatchCallback; use "
                "DataLoader(..., batch_sampler=sampler)"
            )
        if len(trainer.optimizers) != 1:
            raise UsageError(
                f"{len(trainer.optimizers)} optimizers train; AdaptiveBatchCallback follows one"
            )
        if any(config.interval == "step" for config in trainer.lr_scheduler_configs):
            raise UsageError(
                "a learning-rate scheduler counts steps, and would be stretched when the batch "
                "grows; use interval='epoch' in configure_optimizers"
            )
        if self.adaptive is not None:  # a second fit goes on with its own optimizer
            self._restored = self.adaptive.state_dict()
            self.adaptive.close()
        self.sampler.set_epoch(0, self._batch_size)
        monitor = GradientMonitor(pl_module, trainer.optimizers[0])
        self.adaptive = AdaptiveBatch(
            monitor,
            self.sampler,
            self.scheduler,
            **{"epochs": trainer.max_epochs, **self.arguments},
        )
        if self._restored is not None:
            self.adaptive.load_state_dict(self._restored)
            self._place(self._restored["record"])

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            return  # still scaled here; the monitor's own hook knows the scale
        self._running.monitor.measure()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Lightning has divided the loss by the number of accumulated batches.
        loss = outputs["loss"] * self.sampler.accumulate
        self._running.monitor.add_loss(loss, self.sampler.num_samples_of(batch_idx))
        if trainer.is_last_batch:
            # Before validation, at whose end checkpoints may be taken.
            self._running.step()
            self._ended = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True
        self._place(to_plain(self._running.record))

    def state_dict(self) -> dict[str, Any]:
        if self.adaptive is None:
            return {}
        within = self.adaptive.monitor.num_updates > 0
        state = {"within_epoch": within, "epoch_ended": self._ended}
        return {**state, **self.adaptive.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not state_dict:
            return
        if state_dict["within_epoch"]:
            raise UsageError(
                "the checkpoint was taken within an epoch, whose statistics it lacks; use one "
                "taken at an epoch's end, such as those of ModelCheckpoint(every_n_epochs=1)"
            )
        self._restored = state_dict
        self._ended = state_dict["epoch_ended"]
        # The Trainer counts the batches before it starts to train.
        self._place(state_dict["record"])

    def _place(self, record: Mapping[str, Any] | None) -> None:
        """Where the sampler stands for Lightning, which first ends the epoch of a checkpoint."""
        if record is None:
            return
        if self._ended:
            self.sampler.set_epoch(record["epoch"], record["next_batch_size"])
        else:
            self.sampler.set_epoch(record["epoch"] - 1, record["batch_size"])

    @property
    def _running(self) -> AdaptiveBatch:
        assert self.adaptive is not None
        return self.adaptive

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        several = trainer.world_size > 1
        reloads = getattr(trainer, "reload_dataloaders_every_n_epochs", 0)
        distributed = trainer._accelerator_connector.use_distributed_sampler
        problems = {
            "use Trainer(reload_dataloaders_every_n_epochs=1): the number of batches of an epoch "
            "is counted once otherwise": reloads != 1,
            "use Trainer(use_distributed_sampler=False): the sampler shares each batch among the "
            "processes itself": several and distributed,
            "use Trainer(max_epochs=...) without max_steps: a larger batch takes fewer steps an "
            "epoch": trainer.max_steps != -1 or trainer.max_epochs in (None, -1),
            "use a val_check_interval that is a fraction: an epoch has fewer batches when the "
            "batch grows": isinstance(trainer.val_check_interval, int),
            f"use AdaptiveBatchSampler(..., accumulate={trainer.accumulate_grad_batches}), as the "
            "Trainer accumulates": trainer.accumulate_grad_batches != self.sampler.accumulate,
            "use automatic optimization: AdaptiveBatchCallback sees no step of a manual one": (
                not pl_module.automatic_optimization
            ),
            "use one device or DistributedDataParallel (strategy='ddp'): no process of another "
            "strategy holds the whole gradient": not isinstance(
                trainer.strategy, (DDPStrategy, SingleDeviceStrategy)
            ),
        }
        for sentence, holds in problems.items():
            if holds:
                raise UsageError(sentence)
