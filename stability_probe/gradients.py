"""Gradient statistics between backward and step: on the device, without a sync."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MEASURED_STEPS_PER_EPOCH = 128
"""Steps of an epoch whose gradient is measured at least, where it has so many: they bring the epoch
mean within about 2 % (its standard error is in the record) and cost up to 0.5 % of an epoch of
CIFAR; see tests/benchmarks/signals.py."""


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist; frozen and unused parameters have none.

    A complex one is seen as its real and imaginary parts, two components each.
    """
    found = (p.grad for p in parameters if p.grad is not None)
    return [torch.view_as_real(g) if g.is_complex() else g for g in found]


def squared_norm(grads: list[Tensor]) -> Tensor:
    """‖g‖² of the whole gradient, a float32 scalar on the gradients' device."""
    # In float16 a norm would overflow at 65504, in bfloat16 be right to 1 in 256.
    narrow = any(g.dtype in (torch.float16, torch.bfloat16) for g in grads)
    norms = torch._foreach_norm(grads, 2, dtype=torch.float32 if narrow else None)
    return torch.stack([n.float() for n in norms]).square().sum()


def norm_and_total(grads: list[Tensor]) -> Tensor:
    """(‖g‖², Σg) of the whole gradient, float32 of shape [2] on the gradients' device.

    These two numbers give the norm and the component variance, so the gradient is never
    copied into one flat vector.
    """
    totals = torch.stack([g.sum(dtype=torch.float32) for g in grads]).sum()
    return torch.stack([squared_norm(grads), totals])


def num_components(parameters: Iterable[nn.Parameter]) -> int:
    """Components of the whole gradient."""
    return sum(g.numel() for g in gradients(parameters))


def measured_stride(num_steps: int) -> int:
    """Every how many steps of an epoch of `num_steps` the gradient is measured."""
    return max(1, num_steps // MEASURED_STEPS_PER_EPOCH)
