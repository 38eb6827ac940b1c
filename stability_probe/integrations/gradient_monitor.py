"""Gradient statistics of a training loop that is not ours, by hooks on its optimizer."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from stability_probe.distributed import World
from stability_probe.errors import RunError, UsageError
from stability_probe.gradients import (
    gradients,
    measured_stride,
    norm_and_total,
    num_components,
)
from stability_probe.metrics import gradient_statistics

_CLIPPED = (
    "{count} of {total} measured gradient norms are all {norm:.4g}: the gradient is clipped before "
    "it is measured; call monitor.measure() before clipping"
)


class GradientMonitor:
    """Norm and component variance of the whole gradient, and the training loss, of each epoch.

    Measures by itself when `optimizer` steps, which is right unless the gradient is changed
    before: where you clip, call `measure` before clipping (and after ``scaler.unscale_``). Under
    `torch.amp.GradScaler` the gradient is taken unscaled, and steps that the scaler skips do not
    count. With accumulation the whole gradient is seen, once an update. A stride of the steps is
    measured, and nothing is synchronised before the end of an epoch.

    Raises `UsageError` for sharded parameters, whose gradient no process holds whole.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        kinds = {type(part).__name__ for part in [*model.modules(), *model.parameters()]}
        if kinds & {"DTensor", "FullyShardedDataParallel"} or any(
            type(p.data).__name__ == "DTensor" for p in model.parameters()
        ):
            raise UsageError(
                "GradientMonitor needs whole gradients, and these parameters are sharded; "
                "use DistributedDataParallel"
            )
        self.model = model
        self.optimizer = optimizer
        self._epochs_done = 0
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self.start_epoch(1)

    @property
    def num_updates(self) -> int:
        """Steps seen in the present epoch."""
        return self._updates

    def start_epoch(self, num_updates: int) -> None:
        """Forget what was seen; measure on a stride fit for `num_updates` steps."""
        self._stride = measured_stride(num_updates)
        self._updates = 0
        self._samples = 0
        self._components = 0
        self._loss_sum: Tensor | float = 0.0
        self._measured: list[Tensor] = []
        self._pending: Tensor | None = None
        self._explicit = False
        self._lr: Tensor | float = math.nan
        self._began = self._ended = (time.perf_counter(), time.process_time())

    def add_loss(self, loss: Tensor | float, num_samples: int) -> None:
        """Count the mean loss of `num_samples` samples of this process; not synchronised."""
        value = loss.detach().float() if isinstance(loss, Tensor) else loss
        self._loss_sum = self._loss_sum + value * num_samples
        self._samples += num_samples

    def measure(self) -> None:
        """Measure the gradient as it is now: whole, unscaled, not yet clipped.

        Call it between backward and clipping at every update; most calls do nothing.
        """
        self._explicit = True
        self._measure()

    def finish_epoch(self, world: World) -> dict[str, Any]:
        """Fields of an `EpochRecord` since `start_epoch`; the loss is that of all processes.

        Raises `UsageError` when steps or losses were not seen, `RunError` when they are not
        finite.
        """
        self._check_seen()
        loss_sum = torch.as_tensor(self._loss_sum, device=self._measured[0].device).clone()
        samples = torch.tensor(self._samples, device=loss_sum.device)
        world.add_up(loss_sum)
        world.add_up(samples)
        # The third number says that a fused optimizer skipped the step: its gradient overflowed.
        rows = [row[:2] for row in torch.stack(self._measured).tolist() if row[2] == 0]
        loss = loss_sum.item() / int(samples.item())
        if not rows or not all(map(math.isfinite, [loss, *itertools.chain(*rows)])):
            raise RunError("the loss or gradient of this epoch is not finite; use a smaller rate")
        statistics = gradient_statistics(rows, self._components)
        self._check_clipping([math.sqrt(square) for square, _ in rows])
        self._epochs_done += 1
        return {
            "lr": float(self._lr),
            "updates": self._updates,
            "samples": int(samples.item()),
            "loss": loss,
            "time_s": self._ended[0] - self._began[0],
            "cpu_s": self._ended[1] - self._began[1],
            **statistics,
        }

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _measure(self) -> None:
        if self._updates % self._stride:
            return
        grads = gradients(self.model.parameters())
        if grads:
            self._components = num_components(self.model.parameters())
            self._pending = norm_and_total(grads)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._lr = optimizer.param_groups[0]["lr"]
        # A closure computes the gradient within the step: it must call `measure` itself.
        closure = any(given is not None for given in [*args[1:], kwargs.get("closure")])
        if self._pending is None and not self._explicit and not closure:
            self._measure()
            scale = getattr(optimizer, "grad_scale", None)
            if self._pending is not None and scale is not None:
                # A fused optimizer unscales within its step.
                self._pending = self._pending / torch.stack([scale * scale, scale]).flatten()

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._pending is not None:
            skipped = getattr(optimizer, "found_inf", None)
            flag = self._pending.new_zeros(1) if skipped is None else skipped.reshape(1)
            self._measured.append(torch.cat([self._pending, flag.to(self._pending)]))
        elif self._updates % self._stride == 0 and not self._explicit:
            raise UsageError(
                "no gradient was there to measure; call monitor.measure() between backward and "
                "step, at every update"
            )
        self._pending = None
        self._updates += 1
        self._ended = (time.perf_counter(), time.process_time())

    def _check_seen(self) -> None:
        if not self._measured:
            raise UsageError(
                "no optimizer step was seen in this epoch; give GradientMonitor the optimizer "
                "that steps"
            )
        if not self._samples:
            raise UsageError(
                "no loss was seen in this epoch; call monitor.add_loss(loss, num_samples) "
                "with every batch"
            )

    def _check_clipping(self, norms: list[float]) -> None:
        """Clipping by norm leaves its mark: many norms are one number, to the rounding."""
        largest = max(norms)
        count = sum(largest - norm <= 1e-4 * largest for norm in norms)
        if self._explicit or largest == 0 or count < 3:
            return
        told = _CLIPPED.format(count=count, total=len(norms), norm=largest)
        if self._epochs_done == 0:
            raise UsageError(told)
        # A run that is hours old goes on.
        warnings.warn(told, stacklevel=4)
