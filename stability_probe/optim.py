"""Optimizer and learning rate. The rate is a pure function of epoch and batch size."""

from __future__ import annotations

import math

import torch
from torch import nn

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError

_SCALING = {("linear", "sgd"): 1.0, ("sqrt", "adamw"): 0.5}
"""Exponent of the batch ratio: linear for SGD (Goyal et al., arXiv 1706.02677), square root
for the Adam family (Malladi et al., arXiv 2205.10287)."""


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all parameters that want a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)


def rate_rule(optimizer: str) -> str:
    """The rule by which an optimizer's rate follows the batch."""
    return next(rule for rule, kind in _SCALING if kind == optimizer)


def scale_lr(rule: str, optimizer: str, batch_ratio: float) -> float:
    """Factor on the base rate when the batch is `batch_ratio` times the initial one.

    It depends on the present batch only, so a rollback undoes it exactly. Raises `UsageError`
    for an optimizer without a known rule.
    """
    if rule == "none":
        return 1.0
    if (rule, optimizer) not in _SCALING:
        known = ", ".join(f"--lr-rule {r} with {o}" for r, o in _SCALING)
        raise UsageError(f"no {rule} learning-rate rule is known for {optimizer}; use {known}")
    return float(batch_ratio ** _SCALING[rule, optimizer])


def lr_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Decay in epochs (from 1), never in steps: a larger batch must not stretch it.

    fixed: 1; cosine: ½(1 + cos π(e−1)/E); step: ×0.1 after half and after three quarters.
    """
    done = (epoch - 1) / epochs
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule == "step":
        return 0.1 ** sum(done >= milestone for milestone in (0.5, 0.75))
    return 1.0


def learning_rate(config: RunConfig, epoch: int, batch_size: int) -> float:
    """The rate of one epoch at one batch size."""
    ratio = batch_size / config.batch_size
    return (
        config.lr
        * lr_factor(config.lr_schedule, epoch, config.epochs)
        * scale_lr(config.lr_rule, config.optimizer, ratio)
    )
