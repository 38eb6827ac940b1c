"""The one training loop: the probe, fixed runs and adaptive runs all iterate `train`.

This is the only module that calls backward.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stability_probe import gradients, metrics
from stability_probe.compiled import compiling
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, augment, normalize
from stability_probe.device import (
    free_memory,
    is_out_of_memory,
    largest_that_fits,
    peak_memory,
    reset_peak_memory,
    synchronize,
)
from stability_probe.errors import RunError
from stability_probe.gradients import measured_stride
from stability_probe.optim import learning_rate
from stability_probe.order import batch_lengths, epoch_batches, generator_for, seed_for
from stability_probe.records import EpochRecord, NoiseScaleRecord
from stability_probe.schedulers.base import decided
from stability_probe.state import PartialEpoch, TrainState

NOISE_BUDGET = 0.045
"""Share of the samples since its last pass that the noise measurement may see."""
EVAL_BATCHES = 4
"""Evaluation takes as many training batches at once, but 64 to 256 samples: without a backward pass
nothing is kept for it, so that this needs hardly more memory than training."""


class DivergedError(RunError):
    """The loss of an epoch was not finite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss became non-finite in epoch {epoch}; use a smaller --lr")
        self.epoch = epoch


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
            micro_batch_size=-(
                -batch_size // num_micro_batches(batch_size, state.micro_batch_size)
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
        loss = _whole_gradient(state, data, images, labels, precision, accumulate)
    if sums is not None:
        sums.copy_(gradients.norm_and_total(gradients.gradients(state.model.parameters())))
    state.optimizer.step()
    return loss


def _whole_gradient(
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
        if not accumulate or not is_out_of_memory(error):
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
    loss, correct = (total / len(data.test_labels)).tolist()
    return loss, correct


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
        if len(labels) == 1 or not is_out_of_memory(error):
            raise
    return None


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
        with _left_alone(state), gradients.taken(state.model.parameters()) as micro_batches:
            for batch in torch.split(order[: count * size].to(state.device), size):
                images, labels = load_batch(data, batch, state)
                backward(state.model, state, data, images, labels, config.precision)
                micro_batches.next()
            norms = torch.stack(micro_batches.squared_norms).tolist()
            return norms, micro_batches.mean_squared_norm().item()
    except RuntimeError as error:
        if size < 4 or not is_out_of_memory(error):
            raise
    return None


@contextmanager
def _left_alone(state: TrainState) -> Iterator[None]:
    """Training mode for passes that leave buffers, gradients and random state as they were."""
    buffers = [b.clone() for b in state.model.buffers()]
    state.model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, saved in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(saved)


def _compile_for_epoch(state: TrainState, data: Dataset, config: RunConfig) -> float:
    """Meet every size of the next epoch once, so that none compiles on its clock; seconds taken.

    A size that exceeds the memory is split here, as it would be in training.
    """
    begin = time.perf_counter()
    sizes = sorted(set(batch_lengths(len(data.train_labels), state.batch_size)))
    if all((size, state.micro_batch_size) in state.compiled_sizes for size in sizes):
        return 0.0
    with compiling(config.model), _left_alone(state):
        for size in sizes:
            images, labels = load_batch(data, torch.arange(size), state)
            while _whole_gradient(state, data, images, labels, config.precision, True) is None:
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
    torch.manual_seed(seed_for(config.stream_seed, epoch, f"model{rank}"))
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
    augment_noise.set_state(partial.augment_rng)
    return partial.step
