"""Training speed against batch size on the device at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stability_probe.compiled import compiling
from stability_probe.config import RunConfig, largest_batch_size, step_id
from stability_probe.datasets import Dataset
from stability_probe.device import (
    device_name,
    free_memory,
    is_out_of_memory,
    largest_that_fits,
    peak_memory,
    synchronize,
)
from stability_probe.files import sole_maker, write_json
from stability_probe.plain import to_plain
from stability_probe.progress import Progress, Quiet
from stability_probe.records import ThroughputCurve, ThroughputPoint
from stability_probe.state import TrainState, make_state
from stability_probe.step import load_batch, train_step
from stability_probe.store import read_measured

ROUNDS = 3
"""Memory formats are timed this many times, taking turns, so that a drift hits both alike."""
MIN_ROUNDS, MAX_ROUNDS = 2, 5
"""So often is a size timed, all sizes taking turns: seldom where its timings agree, else often."""
SETTLED_SPREAD = 0.05
"""Timings agree when the largest exceeds the smallest by no more than this, of their median."""
MIN_TIMING_S = 0.15
"""One timing repeats steps for at least this long."""
BUSY_SPREAD = 0.25
"""Repeated timings that differ by more than this say that the machine is busy."""
MIN_GAIN = 1.03
"""channels_last must be this much faster to be chosen."""


@dataclass(frozen=True, kw_only=True)
class MemoryFormatChoice:
    """The memory format a run uses and why."""

    memory_format: str
    reason: str


def curve_batch_sizes(batch_size: int, max_batch_size: int) -> list[int]:
    """Doublings from the initial batch, ending at the largest."""
    sizes = [batch_size]
    while sizes[-1] * 2 < max_batch_size:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] >= max_batch_size else [*sizes, max_batch_size]


def measure_throughput(
    config: RunConfig,
    dataset: Dataset,
    batch_sizes: Sequence[int],
    choice: MemoryFormatChoice,
    progress: Progress | None = None,
) -> ThroughputCurve:
    """Samples/s of whole training steps, batches loaded as in training, at each batch size.

    Out of memory, met or foreseen, ends the curve before that size; at least the first size is
    measured, and its failure is raised.
    """
    progress = progress or Quiet()
    begin = time.perf_counter()
    state = make_state(config, dataset)
    data = dataset.to(state.device)
    timings: dict[int, list[float]] = {}
    stopped_by = None
    for size in batch_sizes:
        stopped_by = _foresee_out_of_memory(state.device, list(timings), size)
        if stopped_by is None and not _fits(state, data, config, size, first=not timings):
            stopped_by = f"out of memory at batch {size}"
        if stopped_by is not None:
            break
        timings[size] = []
    for round_number in range(1, MAX_ROUNDS + 1):
        for size, seconds in timings.items():
            if _settled(seconds):
                continue
            seconds.append(_time_step(state, data, config, size))
            if _settled(seconds) or round_number == MAX_ROUNDS:
                progress.step(f"batch {size}: {_point(size, seconds).samples_per_s:.0f} samples/s")
    points = tuple(_point(size, seconds) for size, seconds in timings.items())
    return ThroughputCurve(
        points=points,
        memory_format=choice.memory_format,
        memory_format_reason=choice.reason,
        busy=float(np.median([p.spread for p in points])) > BUSY_SPREAD,
        stopped_by=stopped_by,
        time_s=time.perf_counter() - begin,
        device_name=device_name(state.device),
    )


def choose_memory_format(
    config: RunConfig, dataset: Dataset, root: Path | None = None
) -> MemoryFormatChoice:
    """What `channels_last` says, or for auto the faster of the two at two batch sizes.

    They are timed side by side at the initial batch and, where it fits into the memory and a
    schedule may reach it, at four times that. With the `root` of a store the choice is kept there:
    timed anew, two formats of nearly one speed would take turns, and runs begun with one would not
    be found with the other. Raises `MissingError` when what was kept is damaged.
    """
    if config.channels_last != "auto":
        name = "channels_last" if config.channels_last == "on" else "contiguous"
        return MemoryFormatChoice(memory_format=name, reason="as asked")
    if root is None:
        return _faster_format(config, dataset)
    path = root / "memory_formats" / f"{step_id(config)}.json"
    if not path.exists():
        with sole_maker(path):
            if not path.exists():
                write_json(path, to_plain(_faster_format(config, dataset)))
    return read_measured(MemoryFormatChoice, path)


def _faster_format(config: RunConfig, dataset: Dataset) -> MemoryFormatChoice:
    states = {flag: make_state(_with_format(config, flag), dataset) for flag in ("on", "off")}
    if not any(isinstance(m, nn.Conv2d) for m in states["on"].model.modules()):
        return MemoryFormatChoice(memory_format="contiguous", reason="the model has no convolution")
    data = dataset.to(states["on"].device)
    sizes = _sizes_that_fit(list(states.values()), data, config)
    if not sizes:
        reason = "not enough memory to try channels_last beside it"
        return MemoryFormatChoice(memory_format="contiguous", reason=reason)
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for size in sizes:
            for flag, state in states.items():
                timing = _time_step(state, data, config, size)
                seconds.setdefault((flag, size), []).append(timing)
    gains = [min(seconds["off", s]) / min(seconds["on", s]) for s in sizes]
    gain = float(np.exp(np.mean(np.log(gains))))
    told = ", ".join(f"{g:.2f}x at {s}" for g, s in zip(gains, sizes, strict=True))
    name = "channels_last" if gain >= MIN_GAIN else "contiguous"
    return MemoryFormatChoice(memory_format=name, reason=f"channels_last {told}")


def _sizes_that_fit(states: Sequence[TrainState], data: Dataset, config: RunConfig) -> list[int]:
    """Of the initial batch and four times that, those a warm-up step of each state has fitted.

    A run needs less: it has one model alone, and may never reach the larger batch.
    """
    fitting: list[int] = []
    largest = largest_batch_size(config, len(data.train_labels))
    for size in dict.fromkeys((config.batch_size, min(4 * config.batch_size, largest))):
        device = states[0].device
        if _foresee_out_of_memory(device, fitting, size) is not None:
            break
        if not all(_fits(state, data, config, size, first=False) for state in states):
            break
        fitting.append(size)
    return fitting


def _with_format(config: RunConfig, flag: str) -> RunConfig:
    return RunConfig.from_dict({**config.to_dict(), "channels_last": flag})


def _settled(seconds: list[float]) -> bool:
    return len(seconds) >= MIN_ROUNDS and _spread(seconds) <= SETTLED_SPREAD


def _spread(seconds: list[float]) -> float:
    return float((max(seconds) - min(seconds)) / np.median(seconds))


def _point(size: int, seconds: list[float]) -> ThroughputPoint:
    return ThroughputPoint(
        batch_size=size,
        samples_per_s=size / float(np.median(seconds)),
        spread=_spread(seconds),
    )


def _time_step(state: TrainState, data: Dataset, config: RunConfig, size: int) -> float:
    """Seconds one step takes, averaged over as many as fill the shortest timing.

    All but the first run without a wait between them, as in training: the next step is launched
    while the device still computes. One step goes before them off the clock: sizes take turns, and
    the first step after a change may be slow (of DenseNet-121 on a CPU it is; likely since oneDNN
    keeps so many compiled operations and no more), as in training it is once an epoch at most.
    """
    _steps(state, data, config, size, 1)
    first = _steps(state, data, config, size, 1)
    more = math.ceil(MIN_TIMING_S / max(first, 1e-6)) - 1
    if more < 1:
        return first
    return (first + _steps(state, data, config, size, more)) / (1 + more)


def _steps(state: TrainState, data: Dataset, config: RunConfig, size: int, count: int) -> float:
    """Seconds that `count` training steps on the first samples take."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(size, device=state.device) % len(data.train_labels)
    state.model.train()
    synchronize(state.device)
    begin = time.perf_counter()
    for _ in range(count):
        images, labels = load_batch(data, index, state, generator)
        train_step(state, data, images, labels, config.precision, accumulate=False)
    synchronize(state.device)
    return time.perf_counter() - begin


def _warm_up(state: TrainState, data: Dataset, config: RunConfig, size: int) -> None:
    """One step at this size, so that nothing is set up or compiled on the clock."""
    with compiling(config.model) if config.compile else nullcontext():
        _steps(state, data, config, size, 1)


def _fits(state: TrainState, data: Dataset, config: RunConfig, size: int, *, first: bool) -> bool:
    """Whether one warm-up step at this size has enough memory."""
    try:
        _warm_up(state, data, config, size)
    except RuntimeError as error:
        if first or not is_out_of_memory(error, state.device):
            raise
    else:
        return True
    # Outside the except clause, where the traceback would keep the step's tensors alive.
    state.optimizer.zero_grad(set_to_none=True)
    free_memory(state.device)
    return False


def _foresee_out_of_memory(device: torch.device, done: list[int], size: int) -> str | None:
    """Why a batch must not even be tried."""
    largest = largest_that_fits(device, peak_memory(device), done[-1], size) if done else size
    if largest == size:
        return None
    return f"batch {size} might not fit into the memory that is free (some {largest} would)"
