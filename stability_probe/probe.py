"""The probe: a short window of the real run, and the device's throughput curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from stability_probe.config import (
    RunConfig,
    checked_seeds,
    largest_batch_size,
    with_memory_format,
)
from stability_probe.datasets import Dataset
from stability_probe.device import describe_environment, resolve_device, use_threads
from stability_probe.errors import DivergedError, UsageError
from stability_probe.fingerprint import require_unchanged
from stability_probe.loop import train
from stability_probe.metrics import profile, stability_metrics
from stability_probe.models import model_size
from stability_probe.paired import require_machine
from stability_probe.progress import Progress, Quiet
from stability_probe.records import Characterization, EpochRecord, ThroughputCurve
from stability_probe.run import load_run_data, run
from stability_probe.state import make_state
from stability_probe.store import Store, as_store
from stability_probe.throughput import (
    choose_memory_format,
    curve_batch_sizes,
    measure_throughput,
)


def characterize(
    config: RunConfig | str,
    *,
    seeds: Iterable[int] | None = None,
    store: Store | Path | str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Characterization:
    """Measure what `config` describes: gradient stability and what bigger batches gain.

    `config` may be the name of a model alone; `settings` are fields of `RunConfig`. `seeds` are by
    default its one. Whatever its schedule, it is the fixed batch that is trained.

    Trains the first `window_epochs` of the fixed-batch run once a seed, exactly as the full run
    would, and times training steps at batch sizes up to the largest the schedule may reach. With
    a `store` the windows are kept there as runs, and an interrupted one goes on where it stopped.
    Raises `UsageError` for settings that cannot work, `DivergedError` when training fails.
    """
    progress = progress or Quiet()
    known = {"model": config} if isinstance(config, str) else config.to_dict()
    config = RunConfig.from_dict({**known, **settings})
    if config.window_epochs < 2:
        raise UsageError("a window of 1 epoch shows no variation; use --window 2 or more")
    seeds = (config.seed,) if seeds is None else checked_seeds(seeds)
    store = None if store is None else as_store(store)
    config = dataclasses.replace(
        config, scheduler="fixed", scheduler_args={}, seed=seeds[0], max_epochs=None
    )
    with use_threads(config.threads):
        dataset = load_run_data(config)
        if store is not None:
            require_unchanged(config, dataset, store.root)
        choice = choose_memory_format(config, dataset, store.root if store else None)
        resolved = with_memory_format(config, choice.memory_format)
        windows = tuple(_window(resolved, seed, dataset, store, progress) for seed in seeds)
        largest = largest_batch_size(config, len(dataset.train_labels))
        sizes = curve_batch_sizes(config.batch_size, largest)
        progress.start("throughput", len(sizes))
        curve = measure_throughput(resolved, dataset, sizes, choice, progress)
        return _characterization(resolved, seeds, dataset, windows, curve, largest)


def _window(
    config: RunConfig, seed: int, dataset: Dataset, store: Store | None, progress: Progress
) -> tuple[EpochRecord, ...]:
    config = dataclasses.replace(config, seed=seed, max_epochs=config.window_epochs)
    if store is not None:
        result = run(config, store, progress, dataset)
        if result.status == "diverged":
            raise DivergedError(len(result.epochs) + 1)
        # Its seconds are told as this machine's, beside the curve that is measured here.
        require_machine(result, describe_environment(resolve_device(config.device)))
        return result.epochs
    progress.start(f"{config.model} window seed {seed}", config.window_epochs)
    records = []
    for record in train(make_state(config, dataset), dataset, config):
        records.append(record)
        progress.epoch(record)
    return tuple(records)


def _characterization(
    config: RunConfig,
    seeds: tuple[int, ...],
    dataset: Dataset,
    windows: tuple[tuple[EpochRecord, ...], ...],
    curve: ThroughputCurve,
    max_batch_size: int,
) -> Characterization:
    state = make_state(config, dataset)
    device: torch.device = state.device
    channels, height, width = dataset.train_images.shape[1:]
    size = model_size(state.model, img_size=width, in_chans=channels, height=height)
    return Characterization(
        config=config.to_dict(),
        seeds=seeds,
        device=str(device),
        num_params=size.num_params,
        num_train=len(dataset.train_labels),
        num_test=len(dataset.test_labels),
        max_batch_size=max_batch_size,
        normalization=size.normalization,
        metrics=tuple(stability_metrics(profile(window)) for window in windows),
        windows=windows,
        curve=curve,
        probe_s=sum(_epoch_s(e) for window in windows for e in window),
        environment=describe_environment(device),
        size=size,
    )


def _epoch_s(record: EpochRecord) -> float:
    """Everything an epoch of the window cost."""
    noise_s = record.noise.time_s if record.noise else 0.0
    return record.time_s + record.eval_s + record.compile_s + noise_s
