"""An adaptive batch in Hugging Face's Trainer: the one file that imports transformers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from stability_probe.errors import MissingError, UsageError
from stability_probe.integrations.adaptive_batch import AdaptiveBatch
from stability_probe.integrations.gradient_monitor import GradientMonitor
from stability_probe.integrations.sampler import AdaptiveBatchSampler
from stability_probe.schedulers.base import BoundedScheduler

try:
    from accelerate.data_loader import prepare_data_loader
    from transformers import TrainerCallback, TrainerControl, TrainerState
    from transformers import TrainingArguments as Arguments
except ImportError as error:
    raise MissingError(
        "transformers and accelerate are not installed; use "
        "pip install 'stability-probe[huggingface]'"
    ) from error

_WHOLE_GRADIENT = ("NO", "MULTI_GPU", "MULTI_CPU")
"""Accelerate's kinds of distribution in which each process holds the whole gradient."""


class AdaptiveBatchCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Sets the batch of a Trainer at the end of each epoch; adds itself to `trainer`.

    The other arguments are those of `AdaptiveBatch`, with the epochs, seed and batch of the
    Trainer's arguments. A Trainer plans its steps and its rate from the first batch size, clips
    before its callbacks see the gradient, and shares batches among processes. So of this
    `trainer` (not of its class) three methods are wrapped: `get_train_dataloader` gives the
    same loader over an `AdaptiveBatchSampler`, `training_step` tells the loss, and
    ``accelerator.clip_grad_norm_`` measures first. At each change ``state.max_steps`` is planned
    anew, and the rate follows the share of the epochs that is done.

    Raises `UsageError` for what a Trainer cannot do with an adaptive batch: training by
    `max_steps`, resuming from a checkpoint, sharded models, its own choice of batches, and a
    rate schedule that is neither a function of the step nor a plateau's.
    """

    def __init__(self, trainer: Any, scheduler: str = "deba", **arguments: Any) -> None:
        _check(trainer)
        self.trainer = trainer
        args = trainer.args
        self.scheduler = scheduler
        self.arguments = {"epochs": math.ceil(args.num_train_epochs), **arguments}
        self.sampler = AdaptiveBatchSampler(
            trainer.train_dataset,
            trainer.get_total_train_batch_size(args),
            seed=args.seed,
            accumulate=args.gradient_accumulation_steps,
        )
        self.adaptive: AdaptiveBatch | None = None
        """Made when training begins; its `record` is of the epoch that ended last."""
        self._batch_size = self.sampler.global_batch_size
        self._batches = 0
        self._steps = 0
        self._planned = 0
        self._make_loader = trainer.get_train_dataloader
        self._train_step = trainer.training_step
        self._clip = trainer.accelerator.clip_grad_norm_
        trainer.get_train_dataloader = self._get_train_dataloader
        trainer.training_step = self._training_step
        trainer.accelerator.clip_grad_norm_ = self._clip_grad_norm
        trainer.add_callback(self)

    def on_train_begin(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        rate = kwargs["lr_scheduler"]
        if state.global_step > 0:
            raise UsageError(
                "a Trainer finds its place in a checkpoint by a fixed number of steps an epoch, "
                "so with an adaptive batch it cannot resume; train in one go, or use Lightning "
                "or a plain loop"
            )
        if not isinstance(rate, (LambdaLR, ReduceLROnPlateau)):
            raise UsageError(
                f"the rate schedule {type(rate).__name__} counts steps in a way that cannot be "
                "corrected when the batch changes; use one of lr_scheduler_type, such as cosine"
            )
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        monitor = GradientMonitor(self.trainer.model, optimizer)
        self.adaptive = AdaptiveBatch(monitor, self.sampler, self.scheduler, **self.arguments)
        self._planned = self.sampler.num_updates
        self._check_bounds()

    def on_epoch_begin(self, *_: Any, **kwargs: Any) -> None:
        self._batches = self._steps = 0

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._steps += 1
        done = self._running.record.epoch if self._running.record else 0
        state.epoch = done + self._steps / self.sampler.num_updates
        rate = kwargs["lr_scheduler"]
        if isinstance(rate, LambdaLR):
            _move_to(rate, state.epoch * self._planned)

    def on_epoch_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        record = self._running.step()
        left = args.num_train_epochs - record.epoch
        if left > 0:
            state.max_steps = state.global_step + math.ceil(left * self.sampler.num_updates)

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        self._running.close()

    @property
    def _running(self) -> AdaptiveBatch:
        assert self.adaptive is not None
        return self.adaptive

    def _get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's own loader, over our batches, which are this process's already.

        A Trainer asks for it once, when training begins, and plans its steps by its length: where
        it trains a second time, also after an error, the batch is the initial one again.
        """
        if self.adaptive is not None:
            self.adaptive.close()
        self.sampler.set_epoch(0, self._batch_size)
        own = self._make_loader()
        loader: DataLoader[Any] = DataLoader(
            own.dataset,
            batch_sampler=self.sampler,
            collate_fn=own.collate_fn,
            num_workers=own.num_workers,
            pin_memory=own.pin_memory,
            worker_init_fn=own.worker_init_fn,
            prefetch_factor=own.prefetch_factor,
            persistent_workers=own.persistent_workers,
            multiprocessing_context=own.multiprocessing_context,
        )
        # One process as far as Accelerate knows: it would share each batch a second time.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader,
            self.trainer.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=self.trainer.accelerator.device_placement,
        )
        return prepared

    def _training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The losses that the Trainer gives for the parts of one update add up to its mean."""
        loss: torch.Tensor = self._train_step(*args, **kwargs)
        samples = self.sampler.num_samples_of(self._batches)
        self._running.monitor.add_loss(loss * self.sampler.accumulate, samples)
        self._batches += 1
        return loss

    def _clip_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Called at every update, whether anything is to be clipped or not."""
        accelerator = self.trainer.accelerator
        accelerator.unscale_gradients()
        self._running.monitor.measure()
        # Clipping unscales too, and a GradScaler refuses to do so twice before a step.
        accelerator.unscale_gradients = lambda *_: None
        try:
            return self._clip(*args, **kwargs)
        finally:
            del accelerator.unscale_gradients

    def _check_bounds(self) -> None:
        """A Trainer ends an epoch after as many steps as the first one has."""
        scheduler = self._running.scheduler
        least = scheduler.bounds.minimum if isinstance(scheduler, BoundedScheduler) else math.inf
        if least < self.sampler.global_batch_size:
            raise UsageError(
                "this schedule may go below the initial batch, and a Trainer makes no more steps "
                "an epoch than in the first; use a larger initial batch, or floor='initial'"
            )


def _move_to(rate: LambdaLR, step: float) -> None:
    """The rates of a step that may lie between two, as `LambdaLR.get_lr` computes them."""
    exact: Any = step  # the schedules of transformers take fractions of a step
    rate.last_epoch = exact
    for group, base, factor in zip(
        rate.optimizer.param_groups, rate.base_lrs, rate.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(exact)
    rate._last_lr = [group["lr"] for group in rate.optimizer.param_groups]


def _check(trainer: Any) -> None:
    args = trainer.args
    problems = {
        "use num_train_epochs, not max_steps: a larger batch takes fewer steps an epoch": (
            args.max_steps > 0
        ),
        "use auto_find_batch_size=False: it would change the batch behind the schedule's back": (
            args.auto_find_batch_size
        ),
        "use train_sampling_strategy='random': the schedule makes the batches itself": (
            getattr(args, "train_sampling_strategy", "random") != "random"
            or getattr(args, "group_by_length", False)  # its name in older releases
        ),
        "use plain DistributedDataParallel: with FSDP or DeepSpeed no process holds the whole "
        "gradient": trainer.accelerator.distributed_type.value not in _WHOLE_GRADIENT,
        "give the Trainer a train_dataset with a length": not hasattr(
            trainer.train_dataset, "__len__"
        ),
    }
    for sentence, holds in problems.items():
        if holds:
            raise UsageError(sentence)
