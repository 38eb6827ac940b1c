"""The one training loop: the probe, fixed runs and adaptive runs all iterate `train`.

This is the only module that calls backward.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stability_probe import gradients, metrics
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, augment, normalize
from stability_probe.device import peak_memory, reset_peak_memory, synchronize
from stability_probe.errors import RunError
from stability_probe.optim import learning_rate
from stability_probe.records import EpochRecord, NoiseScaleRecord
from stability_probe.state import TrainState

MEASURED_STEPS_PER_EPOCH = 32
"""Steps of an epoch whose gradient is measured: enough for the epoch mean (its standard error
is in the record), few enough to cost little in long epochs."""
NOISE_BUDGET = 0.045
"""Share of the samples since its last pass that the noise measurement may see."""
EVAL_BATCH_SIZE = 256


class DivergedError(RunError):
    """The loss of an epoch was not finite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss became non-finite in epoch {epoch}; use a smaller --lr")
        self.epoch = epoch


def train(state: TrainState, dataset: Dataset, config: RunConfig) -> Iterator[EpochRecord]:
    """Train from `state` on, yielding one record an epoch, until `config.last_epoch`.

    The state is advanced in place and may be stored after every record. All randomness of an
    epoch follows from (seed, epoch), so a resumed run repeats an uninterrupted one. Raises
    `DivergedError` when the loss of an epoch is not finite.
    """
    data = dataset.to(state.device)
    while state.epoch < config.last_epoch:
        epoch = state.epoch + 1
        batch_size, previous = state.batch_size, state.previous
        measured = _train_epoch(state, data, config, epoch)
        noise = _noise_of_epoch(state, data, config, epoch, measured)
        begin = time.perf_counter()
        test_loss, test_accuracy = evaluate(state, data, config.precision)
        if not math.isfinite(test_loss):
            raise DivergedError(epoch)
        record = EpochRecord(
            epoch=epoch,
            batch_size=batch_size,
            micro_batch_size=batch_size,
            noise=noise,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            eval_s=time.perf_counter() - begin,
            grad_norm_variation=_variation("grad_norm", measured, previous),
            loss_variation=_variation("loss", measured, previous),
            next_batch_size=batch_size,
            **measured,
        )
        decision = state.scheduler.step(record)
        record = dataclasses.replace(
            record,
            action=decision.action,
            next_batch_size=decision.batch_size,
            reason=decision.reason,
            cooldown_left=decision.cooldown_left,
            evidence=decision.evidence,
        )
        state.epoch, state.batch_size, state.previous = epoch, decision.batch_size, record
        yield record


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
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    precision: str,
    sums: Tensor | None = None,
) -> Tensor:
    """One update on float images [B, C, H, W] and labels [B]; the mean loss, not synced.

    `sums`, float32 of shape [2] on the device, receives (‖g‖², Σg) between backward and step.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = backward(model, images, labels, precision)
    if sums is not None:
        sums.copy_(gradients.norm_and_total(gradients.gradients(model.parameters())))
    optimizer.step()
    return loss


def backward(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    """Add the gradient of the mean cross-entropy to `.grad`; the loss, detached."""
    with autocast(images.device, precision):
        loss = F.cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast, or nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def load_batch(
    data: Dataset, batch: Tensor, state: TrainState, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Images and labels of the index batch; augmented when a generator is given."""
    index = batch.to(state.device)
    images = data.train_images[index]
    if data.augment and generator is not None:
        images = augment(images, generator)
    images = normalize(images, data).contiguous(memory_format=state.memory_format)
    return images, data.train_labels[index]


def epoch_batches(num_samples: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Index batches of one epoch: every sample exactly once, in random order.

    A single sample left over joins the batch before it, since BatchNorm cannot train on one.
    """
    batches = list(torch.split(torch.randperm(num_samples, generator=generator), batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def evaluate(state: TrainState, data: Dataset, precision: str) -> tuple[float, float]:
    """Mean test loss and the fraction of test samples classified correctly."""
    state.model.eval()
    total = torch.zeros(2, device=state.device)
    with torch.inference_mode(), autocast(state.device, precision):
        for start in range(0, len(data.test_labels), EVAL_BATCH_SIZE):
            labels = data.test_labels[start : start + EVAL_BATCH_SIZE]
            images = normalize(data.test_images[start : start + EVAL_BATCH_SIZE], data)
            logits = state.model(images.contiguous(memory_format=state.memory_format)).float()
            total[0] += F.cross_entropy(logits, labels, reduction="sum")
            total[1] += (logits.argmax(dim=1) == labels).sum()
    loss, correct = (total / len(data.test_labels)).tolist()
    return loss, correct


def measure_noise_scale(
    state: TrainState, data: Dataset, config: RunConfig, share: float
) -> NoiseScaleRecord:
    """Noise scale at the present parameters; leaves model, gradients and random state alone.

    `share` of the training samples are seen, but 8 to 64 micro-batches; they have the initial
    batch size, in training mode, without augmentation: the noise asked about is that of drawing
    samples.
    """
    begin = time.perf_counter()
    size = min(config.batch_size, len(data.train_labels) // 2)
    budget = share * len(data.train_labels) / size
    count = min(64, max(8, int(budget)), len(data.train_labels) // size)
    # The window's own pass keeps epoch 0; the passes of a schedule draw anew each time.
    draw = 0 if state.epoch + 1 == config.window_epochs else state.epoch + 1
    order = torch.randperm(
        len(data.train_labels), generator=_generator(config.stream_seed, draw, "noise")
    )
    buffers = [b.clone() for b in state.model.buffers()]
    state.model.train()
    small: list[Tensor] = []
    mean: list[Tensor] = []
    with torch.random.fork_rng(devices=[]):
        for batch in torch.split(order[: count * size], size):
            state.optimizer.zero_grad(set_to_none=True)
            images, labels = load_batch(data, batch, state)
            backward(state.model, images, labels, config.precision)
            grads = gradients.gradients(state.model.parameters())
            small.append(gradients.squared_norm(grads))
            if mean:
                torch._foreach_add_(mean, grads, alpha=1 / count)
            else:
                mean = list(torch._foreach_div(grads, count))
    big = gradients.squared_norm(mean)
    state.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, saved in zip(state.model.buffers(), buffers, strict=True):
            buffer.copy_(saved)
    norms = torch.stack(small).tolist()
    return metrics.noise_scale(norms, big.item(), size, time_s=time.perf_counter() - begin)


def _train_epoch(state: TrainState, data: Dataset, config: RunConfig, epoch: int) -> dict[str, Any]:
    """The timed part of an epoch; statistics stay on the device until its end."""
    lr = learning_rate(config, epoch, state.batch_size)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    torch.manual_seed(_seed(config.stream_seed, epoch, "model"))
    shuffle = _generator(config.stream_seed, epoch, "order")
    noise = _generator(config.stream_seed, epoch, "augment")
    state.model.train()
    reset_peak_memory(state.device)
    synchronize(state.device)
    wall, cpu = time.perf_counter(), time.process_time()
    batches = epoch_batches(len(data.train_labels), state.batch_size, shuffle)
    stride = max(1, len(batches) // MEASURED_STEPS_PER_EPOCH)
    loss_sum = torch.zeros((), device=state.device)
    sums = torch.zeros(-(-len(batches) // stride), 2, device=state.device)
    for step, batch in enumerate(batches):
        images, labels = load_batch(data, batch, state, noise)
        measured = sums[step // stride] if step % stride == 0 else None
        loss = train_step(state.model, state.optimizer, images, labels, config.precision, measured)
        loss_sum += loss * len(batch)
    synchronize(state.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    loss_mean = loss_sum.item() / len(data.train_labels)
    components = gradients.num_components(state.model.parameters())
    statistics = _gradient_statistics(sums.tolist(), components)
    if not math.isfinite(loss_mean) or not math.isfinite(statistics["grad_norm"]):
        raise DivergedError(epoch)
    return {
        "lr": lr,
        "updates": len(batches),
        "samples": len(data.train_labels),
        "loss": loss_mean,
        "time_s": wall,
        "cpu_s": cpu,
        "peak_memory_bytes": peak_memory(state.device),
        **statistics,
    }


def _gradient_statistics(sums: list[list[float]], components: int) -> dict[str, Any]:
    norms = np.sqrt([sq_norm for sq_norm, _ in sums])
    variances = [metrics.component_variance(sq, total, components) for sq, total in sums]
    count = len(norms)
    return {
        "grad_norm": float(norms.mean()),
        "grad_norm_sem": float(norms.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        "grad_norm_last": float(norms[-1]),
        "grad_component_variance": float(np.mean(variances)),
        "grad_component_variance_last": variances[-1],
        "num_measured_steps": count,
    }


def _variation(name: str, measured: dict[str, Any], previous: EpochRecord | None) -> float | None:
    if previous is None:
        return None
    return metrics.relative_change(measured[name], getattr(previous, name))


def _seed(seed: int, epoch: int, purpose: str) -> int:
    """A stable 63-bit seed, so that epochs and purposes share no random stream."""
    digest = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, epoch, purpose))
