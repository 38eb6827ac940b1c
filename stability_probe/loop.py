"""The one training loop: the probe, fixed runs and adaptive runs all iterate `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stability_probe import gradients, metrics
from stability_probe.compiled import compiling
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, normalize
from stability_probe.device import (
    free_memory,
    is_out_of_memory,
    largest_that_fits,
    peak_memory,
    reset_peak_memory,
    synchronize,
)
from stability_probe.errors import DivergedError
from stability_probe.gradients import measured_stride
from stability_probe.noise_pass import NOISE_BUDGET, measure_noise_scale
from stability_probe.optim import learning_rate
from stability_probe.order import batch_lengths, epoch_batches, generator_for, seed_for
from stability_probe.randomness import (
    seed_everything,
    set_states_beside_torch,
    states_beside_torch,
)
from stability_probe.records import EpochRecord, NoiseScaleRecord
from stability_probe.schedulers.base import decided
from stability_probe.state import PartialEpoch, TrainState, left_alone
from stability_probe.step import (
    autocast,
    load_batch,
    num_micro_batches,
    train_step,
    whole_gradient,
)

EVAL_BATCHES = 4
"""Evaluation takes as many training batches at once, but 64 to 256 samples: without a backward pass
nothing is kept for it, so that this needs hardly more memory than training."""


class StoppedError(Exception):
    """Training stopped between two steps because it was asked to; the state can be stored."""


def never() -> bool:
    return False


def train(
    state: TrainState, dataset: Dataset, config: RunConfig, stop: Callable[[], bool] = never
) -> Iterator[EpochRecord]:
    """Train from `state` on, yielding one record an epoch, until `config.last_epoch`.

    The state is advanced in place and may be stored after every record. All randomness of an
    epoch follows from (seed, epoch), so a resumed run repeats an uninterrupted one. `stop` is
    asked before every step. Raises `DivergedError` when the loss of an epoch is not finite,
    `StoppedError` when `stop` says so, `RunError` when memory does not suffice for two samples.
    """
    data = dataset.to(state.device)
    while state.epoch < config.last_epoch:
        epoch = state.epoch + 1
        batch_size, previous = state.batch_size, state.previous
        measured = _train_epoch(state, data, config, epoch, stop)
        noise = _noise_of_epoch(state, data, config, epoch, measured)
        state.world.agree_on_buffers(state.model)
        begin = time.perf_counter()
        test_loss, test_accuracy = evaluate(state, data, config)
        if not math.isfinite(test_loss):
            raise DivergedError(epoch)
        record = EpochRecord(
            epoch=epoch,
            batch_size=batch_size,
            micro_batch_size=math.ceil(
                batch_size
                / (state.world.size * num_micro_batches(batch_size, state.micro_batch_size))
            ),
            noise=noise,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            eval_s=time.perf_counter() - begin,
            **metrics.variations(measured, previous),
            next_batch_size=batch_size,
            **measured,
        )
        # The leader decides, on its own clocks: every process goes on with its record.
        record = state.world.lead(partial(decided, state.scheduler, record))
        if config.reset_moments and record.next_batch_size != batch_size:
            state.optimizer.state.clear()
        _stay_within_memory(state, record)
        state.epoch, state.batch_size, state.previous = epoch, record.next_batch_size, record
        yield record


def _stay_within_memory(state: TrainState, record: EpochRecord) -> None:
    """Where the next batch is foreseen not to fit, split it from its first step on."""
    if state.micro_batch_size is not None or state.world.size > 1:
        return
    wanted = record.next_batch_size
    largest = largest_that_fits(state.device, record.peak_memory_bytes, record.batch_size, wanted)
    if largest < wanted:
        state.micro_batch_size = largest


def _noise_of_epoch(
    state: TrainState, data: Dataset, config: RunConfig, epoch: int, measured: dict[str, Any]
) -> NoiseScaleRecord | None:
    """The noise scale where the probe or the schedule wants it.

    What a schedule cannot do without is part of its cost: such a pass is added to the epoch's
    time. The probe's own, at the end of the window, is off the clock for every schedule alike.
    """
    every = state.scheduler.noise_every
    for_schedule = every > 0 and epoch % every == 0
    if not for_schedule and epoch != config.window_epochs:
        return None
    share = NOISE_BUDGET * (every if for_schedule else config.window_epochs)
    cpu = time.process_time()
    noise = measure_noise_scale(state, data, config, share)
    if not math.isfinite(noise.trace_sigma) or not math.isfinite(noise.grad_sq_norm):
        raise DivergedError(epoch)
    if for_schedule:
        measured["time_s"] += noise.time_s
        measured["cpu_s"] += time.process_time() - cpu
    return noise


def evaluate(state: TrainState, data: Dataset, config: RunConfig) -> tuple[float, float]:
    """Mean test loss and the fraction of test samples classified correctly.

    Every process takes its share of the samples. A batch that exceeds the memory is halved: in
    evaluation no sample depends on another.
    """
    state.model.eval()
    total = torch.zeros(2, device=state.device)
    test_images, test_labels = map(state.world.share, (data.test_images, data.test_labels))
    start, size = 0, min(256, max(64, EVAL_BATCHES * config.batch_size))
    # Not inference_mode: what a model keeps from such a pass could not be trained with.
    with torch.no_grad(), autocast(state.device, config.precision):
        while start < len(test_labels):
            some = slice(start, start + size)
            sums = _try_evaluate(state, data, test_images[some], test_labels[some])
            if sums is None:
                free_memory(state.device)
                size //= 2
            else:
                total += sums
                start += size
    state.world.add_up(total)
    loss, _ = (total / len(data.test_labels)).tolist()
    return loss, total[1].item() / len(data.test_labels)


def _try_evaluate(
    state: TrainState, data: Dataset, images: Tensor, labels: Tensor
) -> Tensor | None:
    """Summed loss and number of hits, [2]; None where the memory does not suffice."""
    try:
        images = normalize(images, data).contiguous(memory_format=state.memory_format)
        logits = state.model(images).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.argmax(dim=1) == labels).sum()])
    except RuntimeError as error:
        if len(labels) == 1 or not is_out_of_memory(error, state.device):
            raise
    return None


def _compile_for_epoch(state: TrainState, data: Dataset, config: RunConfig) -> float:
    """Meet every size of the next epoch once, so that none compiles on its clock; seconds taken.

    A size that exceeds the memory is split here, as it would be in training.
    """
    begin = time.perf_counter()
    sizes = sorted(set(batch_lengths(len(data.train_labels), state.batch_size)))
    if all((size, state.micro_batch_size) in state.compiled_sizes for size in sizes):
        return 0.0
    with compiling(config.model), left_alone(state):
        for size in sizes:
            images, labels = load_batch(data, torch.arange(size), state)
            while whole_gradient(state, data, images, labels, config.precision, True) is None:
                pass
            state.compiled_sizes.add((size, state.micro_batch_size))
    return time.perf_counter() - begin


def _train_epoch(
    state: TrainState, data: Dataset, config: RunConfig, epoch: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """The timed part of an epoch; statistics stay on the device until its end."""
    compile_s = _compile_for_epoch(state, data, config) if config.compile else 0.0
    lr = learning_rate(config, epoch, state.batch_size)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    rank = f" {state.world.rank}" if state.world.rank else ""
    seed_everything(seed_for(config.stream_seed, epoch, f"model{rank}"))
    shuffle = generator_for(config.stream_seed, epoch, "order")
    noise = generator_for(config.stream_seed, epoch, "augment")
    state.model.train()
    reset_peak_memory(state.device)
    synchronize(state.device)
    wall, cpu = time.perf_counter(), time.process_time()
    smallest = 2 * state.world.size
    batches = epoch_batches(
        len(data.train_labels), state.batch_size, shuffle, smallest, state.device
    )
    stride = measured_stride(len(batches))
    loss_sum = torch.zeros((), device=state.device)
    sums = torch.zeros(-(-len(batches) // stride), 2, device=state.device)
    done = 0
    if state.partial is not None:
        done = _take_up(state.partial, loss_sum, sums, noise)
        wall, cpu = wall - state.partial.time_s, cpu - state.partial.cpu_s
        state.partial = None
    for step in range(done, len(batches)):
        if stop():
            synchronize(state.device)
            state.partial = _leave(state.device, step, loss_sum, sums, noise, wall, cpu)
            raise StoppedError
        images, labels = load_batch(data, batches[step], state, noise)
        measured = sums[step // stride] if step % stride == 0 else None
        loss = train_step(state, data, images, labels, config.precision, measured)
        loss_sum += loss * len(state.world.share(labels))
    state.world.add_up(loss_sum)
    synchronize(state.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    loss_mean = loss_sum.item() / len(data.train_labels)
    components = gradients.num_components(state.model.parameters())
    statistics = metrics.gradient_statistics(sums.tolist(), components)
    if not math.isfinite(loss_mean) or not math.isfinite(statistics["grad_norm"]):
        raise DivergedError(epoch)
    return {
        "lr": lr,
        "updates": len(batches),
        "samples": len(data.train_labels),
        "loss": loss_mean,
        "time_s": wall,
        "cpu_s": cpu,
        "compile_s": compile_s,
        "peak_memory_bytes": peak_memory(state.device),
        **statistics,
    }


def _leave(
    device: torch.device,
    step: int,
    loss_sum: Tensor,
    sums: Tensor,
    augment_noise: torch.Generator,
    wall: float,
    cpu: float,
) -> PartialEpoch:
    """An epoch left before `step`, whose clocks started at `wall` and `cpu`."""
    return PartialEpoch(
        step=step,
        loss_sum=loss_sum.cpu(),
        sums=sums.cpu(),
        rng=torch.get_rng_state(),
        device_rng=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        augment_rng=augment_noise.get_state(),
        time_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
        rng_beside_torch=states_beside_torch(),
    )


def _take_up(
    partial: PartialEpoch, loss_sum: Tensor, sums: Tensor, augment_noise: torch.Generator
) -> int:
    """Put everything as `_leave` found it; the step to go on with."""
    loss_sum.copy_(partial.loss_sum)
    sums.copy_(partial.sums)
    torch.set_rng_state(partial.rng)
    if partial.device_rng is not None:
        torch.cuda.set_rng_state(partial.device_rng, loss_sum.device)
    if partial.rng_beside_torch is not None:
        set_states_beside_torch(partial.rng_beside_torch)
    augment_noise.set_state(partial.augment_rng)
    return partial.step
