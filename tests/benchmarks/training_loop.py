"""The project's training loop beside the tightest plain one, and beside timm's benchmark.

    python -m tests.benchmarks.training_loop [--rounds 7] [--batch-sizes 32,128,512]
        [--models a,b] [--small] [--json]

One thread, images of CIFAR's shape, CPU seconds of epochs of a few steps, arms taking turns:

- `ours`: `stability_probe.loop.train`, uint8 images gathered by index, augmented and normalized at
  every step, its gradient measured as often as in an epoch of CIFAR; evaluation off the clock.
- `plain`: `plain_steps` below, on float32 batches made before the clock starts; same weights,
  optimizer, precision and memory format.
- `timm`: the step of timm's benchmark.py (`--bench train`) with its defaults: one random batch,
  contiguous, `create_optimizer_v2(opt="sgd", lr=1e-4)`; but our weight decay, which has its price.
- `noise`: `plain` once more in the same round, over `plain`: what a ratio of equals looks like on
  this machine. A difference that its quartiles contain is none.
- `loading`: what `ours` spends on making its batches, alone.

The memory format is the one that the project chooses by measurement for that model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from unittest.mock import patch

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F

from stability_probe import gradients, loop, order, step
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, load_dataset, normalize
from stability_probe.state import TrainState, make_state
from stability_probe.throughput import choose_memory_format
from tests.benchmarks.interleaved import Ratio, ratio, take_turns
from tests.benchmarks.signals import PAPER

CIFAR = 50_000
LEAST_S = 1.0
"""An arm's turn holds as many steps as take about so long."""


def plain_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]
) -> float:
    """CPU seconds of one update a batch: the whole of a training loop and nothing else."""
    begin = time.process_time()
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return time.process_time() - begin


def timm_steps(model: nn.Module, optimizer: torch.optim.Optimizer, size: int, steps: int) -> float:
    """CPU seconds of the step of timm's TrainBenchmarkRunner: random images, random labels."""
    images, loss = torch.randn(size, 3, 32, 32), nn.CrossEntropyLoss()
    begin = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(images)
        target = torch.empty(size, dtype=torch.long).random_(10)
        loss(output, target).backward()
        optimizer.step()
    return time.process_time() - begin


def our_epochs(state: TrainState, data: Dataset, config: RunConfig) -> Iterator[float]:
    """CPU seconds of one epoch after another, by the loop's own clock."""
    for record in loop.train(state, data, config):
        yield record.cpu_s


def loading(state: TrainState, data: Dataset, size: int) -> float:
    """CPU seconds of drawing, augmenting and normalizing the batches of an epoch."""
    generator = torch.Generator().manual_seed(0)
    begin = time.process_time()
    for batch in order.epoch_batches(len(data.train_labels), size, generator):
        images, _ = step.load_batch(data, batch, state, generator)
        normalize(images, data).contiguous(memory_format=state.memory_format)
    return time.process_time() - begin


def cifar_stride(size: int) -> int:
    """Every how many steps of an epoch of CIFAR the loop measures the gradient."""
    return gradients.measured_stride(-(-CIFAR // size))


def random_images(count: int, augment: bool = True) -> Dataset:
    """As many random images of CIFAR's shape: fine for time, never for accuracy."""
    few = load_dataset("crops", limit=10)
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, 32, 32)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return dataclasses.replace(
        few,
        train_images=images,
        train_labels=labels,
        test_images=images[:2],
        test_labels=labels[:2],
        num_classes=10,
        augment=augment,
    )


def compare(model: str, size: int, channels_last: str, rounds: int) -> dict[str, Ratio]:
    """Ratios of images/s: of `ours` to `plain` and to `timm`, of `plain` to itself; of `loading` to
    `ours`, seconds."""
    config = RunConfig(
        model=model,
        batch_size=size,
        threads=1,
        device="cpu",
        channels_last=channels_last,
        epochs=10_000,
        window_epochs=10_000,
    )
    probe = make_state(config, random_images(size))
    example = [step.load_batch(random_images(size), torch.arange(size), probe)]
    ready = [(normalize(i, random_images(size)), n) for i, n in example]
    plain_steps(probe.model, probe.optimizer, ready)
    stride = cifar_stride(size)
    # Whole strides, so that the share of measured steps is that of CIFAR.
    strides = max(1, round(LEAST_S / plain_steps(probe.model, probe.optimizer, ready) / stride))
    steps = strides * stride
    data = random_images(size * steps)

    mine, bare = make_state(config, data), make_state(config, data)
    batches = [
        (normalize(images, data).contiguous(memory_format=bare.memory_format), labels)
        for images, labels in (
            step.load_batch(data, batch, bare)
            for batch in torch.arange(len(data.train_labels)).split(size)
        )
    ]
    bare.model.train()
    theirs = make_state(dataclasses.replace(config, channels_last="off"), data).model.train()
    optimizer = create_optimizer_v2(theirs, opt="sgd", lr=1e-4, weight_decay=config.weight_decay)
    epochs = our_epochs(mine, data, config)
    with patch.object(gradients, "MEASURED_STEPS_PER_EPOCH", strides):
        taken = take_turns(
            {
                "ours": lambda: next(epochs),
                "plain": lambda: plain_steps(bare.model, bare.optimizer, batches),
                "timm": lambda: timm_steps(theirs, optimizer, size, steps),
                "loading": lambda: loading(mine, data, size),
                "again": lambda: plain_steps(bare.model, bare.optimizer, batches),
            },
            rounds,
        )
    return {
        "plain": ratio(taken["plain"], taken["ours"]),
        "timm": ratio(taken["timm"], taken["ours"]),
        "noise": ratio(taken["plain"], taken["again"]),
        "loading": ratio(taken["loading"], taken["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-sizes", default="32,128,512")
    parser.add_argument("--models", default=",".join(PAPER))
    parser.add_argument("--small", action="store_true", help="tiny nets, to try the script")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = ["test_resnet", "test_vit"] if args.small else args.models.split(",")
    rows = {}
    for model in models:
        config = RunConfig(model=model, batch_size=32, threads=1, device="cpu")
        choice = choose_memory_format(config, random_images(256))
        flag = "on" if choice.memory_format == "channels_last" else "off"
        for size in map(int, args.batch_sizes.split(",")):
            found = compare(model, size, flag, args.rounds)
            rows[f"{model} {size}"] = {
                "memory_format": choice.memory_format,
                **{name: asdict(value) for name, value in found.items()},
            }
            if not args.json:
                print(
                    f"{model:24} {size:4} {choice.memory_format:14} plain {found['plain']}"
                    f"  timm {found['timm']}  noise {found['noise']}  loading {found['loading']}",
                    flush=True,
                )
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
