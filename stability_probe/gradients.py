"""Gradient statistics between backward and step: on the device, without a sync."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MEASURED_STEPS_PER_EPOCH = 128
"""Steps of an epoch whose gradient is measured at least, where it has so many: they bring the epoch
mean within about 2 % (its standard error is in the record) and cost up to 0.5 % of an epoch of
CIFAR; see tests/benchmarks/signals.py."""


_NARROW = (torch.float16, torch.bfloat16)
"""Norms and sums of these are float32: in float16 they would overflow at 65504, in bfloat16 be
right to 1 in 256."""


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist; frozen and unused parameters have none.

    A complex one is seen as its real and imaginary parts, two components each.
    """
    found = (p.grad for p in parameters if p.grad is not None)
    return [torch.view_as_real(g) if g.is_complex() else g for g in found]


def squared_norm(grads: list[Tensor]) -> Tensor:
    """‖g‖² of the whole gradient, a float32 scalar on the gradients' device."""
    return _sum_of_squares(_norms(grads))


def _norms(grads: list[Tensor]) -> Sequence[Tensor]:
    """Of each tensor, without a sync."""
    narrow = any(g.dtype in _NARROW for g in grads)
    return torch._foreach_norm(grads, 2, dtype=torch.float32 if narrow else None)


def _sum_of_squares(norms: Sequence[Tensor]) -> Tensor:
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


class MicroBatches:
    """Squared norms of micro-batch gradients, and their mean, from `taken`."""

    def __init__(self) -> None:
        self.squared_norms: list[Tensor] = []
        """‖g‖² of each micro-batch, float32 scalars on the device."""
        self._sum: dict[nn.Parameter, Tensor] = {}
        self._norms: list[Tensor] = []

    def next(self) -> None:
        """The backward pass of a micro-batch is done."""
        self.squared_norms.append(_sum_of_squares(self._norms))
        self._norms.clear()

    def mean_squared_norm(self) -> Tensor:
        """‖mean g‖² over the micro-batches, a float32 scalar on the device."""
        return squared_norm(list(self._sum.values())) / len(self.squared_norms) ** 2

    def _take(self, parameter: nn.Parameter) -> None:
        (grad,) = gradients([parameter])
        parameter.grad = None
        self._norms += _norms([grad])
        if parameter in self._sum:
            self._sum[parameter] += grad
        else:
            self._sum[parameter] = grad.float() if grad.dtype in _NARROW else grad


@contextmanager
def taken(parameters: Iterable[nn.Parameter]) -> Iterator[MicroBatches]:
    """Backward passes whose gradients are added up while they run, and let go.

    No more than one gradient of the whole model is held at a time, as in training.
    """
    micro_batches = MicroBatches()
    trained = [p for p in parameters if p.requires_grad]
    handles = [
        p.register_post_accumulate_grad_hook(micro_batches._take)  # type: ignore[no-untyped-call]
        for p in trained
    ]
    try:
        yield micro_batches
    finally:
        for handle in handles:
            handle.remove()


def measured_stride(num_steps: int) -> int:
    """Every how many steps of an epoch of `num_steps` the gradient is measured."""
    return max(1, num_steps // MEASURED_STEPS_PER_EPOCH)
