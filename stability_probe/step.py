"""One update: samples, forward, backward, statistics, optimizer step.

This is the only module that calls backward. A batch that exceeds the memory is split here, one of
several processes takes its share.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from stability_probe import gradients
from stability_probe.datasets import Dataset, augment, normalize
from stability_probe.device import free_memory, is_out_of_memory
from stability_probe.errors import RunError
from stability_probe.state import TrainState


def train_step(
    state: TrainState,
    data: Dataset,
    images: Tensor,
    labels: Tensor,
    precision: str,
    sums: Tensor | None = None,
    *,
    accumulate: bool = True,
) -> Tensor:
    """One update on uint8 images [B, C, H, W] and labels [B]; the mean loss, not synced.

    In one process of several, the update is that of all their samples together, the loss that
    of its own share.

    `sums`, float32 of shape [2] on the device, receives (‖g‖², Σg) between backward and step.
    Where memory does not suffice, the batch is split and its gradient accumulated, here and from
    now on; with `accumulate` off the error is raised.
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss = None
    while loss is None:
        loss = whole_gradient(state, data, images, labels, precision, accumulate)
    if sums is not None:
        sums.copy_(gradients.norm_and_total(gradients.gradients(state.model.parameters())))
    state.optimizer.step()
    return loss


def whole_gradient(
    state: TrainState,
    data: Dataset,
    images: Tensor,
    labels: Tensor,
    precision: str,
    accumulate: bool,
) -> Tensor | None:
    """The gradient of the batch into `.grad`; None where memory ran out and a retry may do.

    The failed attempt may have updated BatchNorm's running statistics once more; weights and
    gradient know nothing of it.
    """
    chunks = num_micro_batches(len(labels), state.micro_batch_size)
    size = -(-len(labels) // chunks)
    try:
        if state.world.size > 1:
            return _backward_share(state, data, images, labels, precision)
        if chunks == 1:
            return backward(state.forward, state, data, images, labels, precision)
        total = torch.zeros((), device=state.device)
        for some, theirs in zip(
            torch.tensor_split(images, chunks), torch.tensor_split(labels, chunks), strict=True
        ):
            share = len(theirs) / len(labels)
            total += share * backward(state.forward, state, data, some, theirs, precision, share)
        return total
    except RuntimeError as error:
        if not accumulate or not is_out_of_memory(error, state.device):
            raise
        if state.world.size > 1:
            raise RunError(
                f"out of memory with {len(labels)} samples a process; use a smaller "
                "--max-batch-size, or more processes"
            ) from error
        if size < 4:
            raise RunError(
                f"out of memory even with {size} samples at a time; use a smaller model or "
                "--img-size"
            ) from error
    # Outside the except clause, where the traceback would keep the step's tensors alive.
    state.micro_batch_size = size // 2
    state.optimizer.zero_grad(set_to_none=True)
    free_memory(state.device)
    return None


def _backward_share(
    state: TrainState, data: Dataset, images: Tensor, labels: Tensor, precision: str
) -> Tensor:
    """The gradient of the whole batch into `.grad` of every process.

    DistributedDataParallel takes the mean over processes; the shares of a batch may differ by
    one sample, so each counts by its size.
    """
    world, mine = state.world, state.world.share(labels)
    weight = len(mine) * world.size / len(labels)
    own = world.share(images)
    return backward(state.forward, state, data, own, mine, precision, weight)


def num_micro_batches(batch_size: int, largest: int | None) -> int:
    """Near-equal parts of a batch that exceed `largest` by no sample, and are never single.

    BatchNorm cannot train on one sample, so a part may exceed a `largest` below 3.
    """
    if largest is None or batch_size <= largest:
        return 1
    return min(-(-batch_size // largest), max(1, batch_size // 2))


def backward(
    model: Callable[[Tensor], Tensor],
    state: TrainState,
    data: Dataset,
    images: Tensor,
    labels: Tensor,
    precision: str,
    share: float = 1.0,
) -> Tensor:
    """Add the gradient of `share` times the mean cross-entropy to `.grad`; the mean, detached."""
    inputs = normalize(images, data).contiguous(memory_format=state.memory_format)
    with autocast(images.device, precision):
        loss = F.cross_entropy(model(inputs), labels)
    (loss if share == 1.0 else share * loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast, or nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def load_batch(
    data: Dataset, batch: Tensor, state: TrainState, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """uint8 images and labels of the index batch; augmented when a generator is given.

    An index that is on the device already, as an epoch's are, is not waited for. The whole batch
    is augmented at once, so that its images do not depend on how it is split.
    """
    index = batch.to(state.device)
    images = data.train_images[index]
    if data.augment and generator is not None:
        images = augment(images, generator)
    return images, data.train_labels[index]
