"""A factor on the learning rate that no learning-rate scheduler can undo."""

from __future__ import annotations

from typing import Any

import torch

from stability_probe.optim import scale_lr

_ADAM_FAMILY = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
)


class ScaledRate:
    """Multiplies the rates of `optimizer` by `factor` for the time of each step.

    A scheduler of the rate writes ``group["lr"]``, from its own copy of the base rate or from
    the last value; both stay as it left them, so the rate of a step is exactly schedule x factor
    whatever the scheduler, and a rollback undoes the factor exactly.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.factor = 1.0
        self._scheduled: list[Any] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._apply),
            optimizer.register_step_post_hook(self._restore),
        ]

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _apply(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # Where the step before raised, its rates are still in place of the scheduled ones.
        self._restore(optimizer, args, kwargs)
        if self.factor != 1.0:
            self._scheduled = [group["lr"] for group in optimizer.param_groups]
            for group, rate in zip(optimizer.param_groups, self._scheduled, strict=True):
                group["lr"] = rate * self.factor

    def _restore(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._scheduled, strict=False):
            group["lr"] = rate
        self._scheduled = []


def rate_factor(rule: str, optimizer: torch.optim.Optimizer, batch_ratio: float) -> float:
    """`scale_lr` for an optimizer. Raises `UsageError` where no rule is known for its class."""
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.SGD):
        kind = "sgd"
    elif isinstance(optimizer, _ADAM_FAMILY):
        kind = "adamw"
    return scale_lr(rule, kind, batch_ratio)
