"""What training changes: model, optimizer and schedule, and how far they have come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stability_probe.buffers import buffers_kept
from stability_probe.compiled import compile_model
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset
from stability_probe.device import resolve_device
from stability_probe.distributed import World
from stability_probe.errors import UsageError
from stability_probe.models import check_model, is_own_model, make_model, normalization
from stability_probe.optim import learning_rate, make_optimizer
from stability_probe.randomness import randomness_kept, seed_everything
from stability_probe.records import EpochRecord
from stability_probe.schedulers import BatchScheduler, make_scheduler


@dataclass
class PartialEpoch:
    """An epoch that was left between two steps, with all that its rest depends on."""

    step: int
    """Steps that are done."""
    loss_sum: Tensor
    """Of the samples so far, a scalar."""
    sums: Tensor
    """(‖g‖², Σg) of the measured steps, [measured steps, 2]; zero where still to come."""
    rng: Tensor
    """State of torch's CPU generator."""
    device_rng: Tensor | None
    """State of the CUDA device's generator."""
    augment_rng: Tensor
    time_s: float
    cpu_s: float
    rng_beside_torch: dict[str, Any] | None = None
    """As of `states_beside_torch`; None in a state stored before it was kept."""


@dataclass
class TrainState:
    """Everything that training changes; consistent whenever `train` has yielded or stopped."""

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    """The model as it is called in training: itself, compiled, or wrapped for several processes."""
    world: World
    optimizer: torch.optim.Optimizer
    scheduler: BatchScheduler
    device: torch.device
    memory_format: torch.memory_format
    epoch: int
    """Finished epochs."""
    batch_size: int
    """Of the next epoch."""
    previous: EpochRecord | None
    micro_batch_size: int | None = None
    """Largest micro-batch after memory ran out; None while every batch has fitted."""
    compiled_sizes: set[tuple[int, int | None]] = field(default_factory=set)
    """Batches that the compiled model has met in this process, with `micro_batch_size` then."""
    partial: PartialEpoch | None = None
    """The epoch under way, where training stopped within one."""
    environments: tuple[Mapping[str, str], ...] = ()
    """Of every machine that it was trained on, in turn: a run may go on elsewhere."""


def make_state(config: RunConfig, dataset: Dataset, world: World | None = None) -> TrainState:
    """Model, optimizer and schedule before the first epoch, in one process of `world`.

    `config.channels_last` must be resolved to on or off. Raises `UsageError` when model, batch
    and data do not fit together.
    """
    world = world or World()
    device = resolve_device(config.device)
    seed_everything(config.seed)
    image = dataset.train_images[0]
    shape = {
        "num_classes": dataset.num_classes,
        "img_size": image.shape[-1],
        "in_chans": image.shape[0],
    }
    model = make_model(config.model, **shape)
    check_model(model, config.model, **shape, height=image.shape[-2])
    _check_batch(config, model, len(dataset.train_labels), world)
    memory_format = torch.channels_last if config.channels_last == "on" else torch.contiguous_format
    model = model.to(device).to(memory_format=memory_format)
    learning_rate(config, 1, config.batch_size)
    return TrainState(
        model=model,
        forward=(
            compile_model(model)
            if config.compile
            else world.wrap(model, may_skip=is_own_model(config.model))
        ),
        world=world,
        optimizer=make_optimizer(model, config),
        scheduler=make_scheduler(config, len(dataset.train_labels)),
        device=device,
        memory_format=memory_format,
        epoch=0,
        batch_size=config.batch_size,
        previous=None,
    )


@contextmanager
def left_alone(state: TrainState) -> Iterator[None]:
    """Training mode for passes that leave buffers, gradients and the random state of the CPU as
    they were; that of a card is seeded anew each epoch."""
    state.model.train()
    try:
        with randomness_kept(), buffers_kept(state.model):
            yield
    finally:
        state.optimizer.zero_grad(set_to_none=True)


def _check_batch(config: RunConfig, model: nn.Module, num_train: int, world: World) -> None:
    if config.batch_size > num_train:
        raise UsageError(
            f"batch {config.batch_size} is larger than the {num_train} training samples of "
            f"{config.data}; use -b {num_train} or less"
        )
    if world.size > 1 and config.batch_size < 2 * world.size:
        raise UsageError(
            f"batch {config.batch_size} leaves {world.size} processes fewer than 2 samples each; "
            f"use -b {2 * world.size} or more, or fewer processes"
        )
    if world.size > 1 and config.compile:
        raise UsageError("several processes train eagerly; leave --compile out")
    if normalization(model) not in ("batch", "mixed"):
        return
    if config.batch_size == 1:
        raise UsageError(
            f"{config.model} has BatchNorm, which cannot train on a batch of 1; use -b 2 or more"
        )
    if num_train < 4:  # the noise scale needs two batches
        raise UsageError(
            f"{config.model} has BatchNorm, which needs two batches of 2, and there are only "
            f"{num_train} training samples; use a --limit of 4 or more, or other --data"
        )
