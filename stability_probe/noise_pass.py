"""The pass that measures the noise scale: gradients at fixed parameters, and no update."""

from __future__ import annotations

import time

import torch

from stability_probe import gradients, metrics
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset
from stability_probe.device import free_memory, is_out_of_memory
from stability_probe.order import generator_for
from stability_probe.records import NoiseScaleRecord
from stability_probe.state import TrainState, left_alone
from stability_probe.step import backward, load_batch

NOISE_BUDGET = 0.045
"""Share of the samples since its last pass that the measurement may see."""


def measure_noise_scale(
    state: TrainState, data: Dataset, config: RunConfig, share: float
) -> NoiseScaleRecord:
    """Noise scale at the present parameters; leaves model, gradients and random state alone.

    `share` of the training samples are seen, but 8 to 64 micro-batches; they have the initial
    batch size (less where memory forced it, or several processes share a batch), in training mode,
    without augmentation: the noise asked about is that of drawing samples.
    """
    begin = time.perf_counter()
    # Each of several processes makes the whole pass, in the shares of a batch that it trains on.
    share_of_batch = -(-config.batch_size // state.world.size)
    largest = state.micro_batch_size or share_of_batch
    size = min(share_of_batch, largest, len(data.train_labels) // 2)
    while (found := _try_noise_pass(state, data, config, share, size)) is None:
        size //= 2
        free_memory(state.device)
    norms, big = found
    return metrics.noise_scale(norms, big, size, time_s=time.perf_counter() - begin)


def _try_noise_pass(
    state: TrainState, data: Dataset, config: RunConfig, share: float, size: int
) -> tuple[list[float], float] | None:
    """Squared norms of the gradients of micro-batches of `size`, and that of their mean; None
    where memory ran out, as it may sooner than in training: the mean gradient is kept beside."""
    budget = share * len(data.train_labels) / size
    count = min(64, max(8, int(budget)), len(data.train_labels) // size)
    # The window's own pass keeps epoch 0; the passes of a schedule draw anew each time.
    draw = 0 if state.epoch + 1 == config.window_epochs else state.epoch + 1
    order = torch.randperm(
        len(data.train_labels), generator=generator_for(config.stream_seed, draw, "noise")
    )
    state.optimizer.zero_grad(set_to_none=True)
    try:
        with left_alone(state), gradients.taken(state.model.parameters()) as micro_batches:
            for batch in torch.split(order[: count * size].to(state.device), size):
                images, labels = load_batch(data, batch, state)
                backward(state.model, state, data, images, labels, config.precision)
                micro_batches.next()
            norms = torch.stack(micro_batches.squared_norms).tolist()
            return norms, micro_batches.mean_squared_norm().item()
    except RuntimeError as error:
        if size < 4 or not is_out_of_memory(error, state.device):
            raise
    return None
