"""What the gradient signals cost, and how far the mean of the measured steps is from that of all.

    python -m tests.benchmarks.signals [--rounds 5] [--steps 2] [--measured N] [--small] [--json]

One thread, batch 64, images of CIFAR's shape. A step with signals and one without take turns; the
cost of an epoch follows from how many of its steps the loop measures. The error is that of the
epoch-mean norm from every n-th step against the mean of all steps, over epochs of
a small net that are as long as CIFAR's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import numpy as np
import torch

from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, load_dataset
from stability_probe.gradients import MEASURED_STEPS_PER_EPOCH
from stability_probe.order import epoch_batches
from stability_probe.state import TrainState, make_state
from stability_probe.step import load_batch, train_step
from tests.benchmarks.interleaved import Ratio, cpu_seconds, ratio

PAPER = (
    "mobilenetv3_large_100",
    "densenet121",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "vit_base_patch16_224",
)
BATCH_SIZE = 64
CIFAR_STEPS = -(-50_000 // BATCH_SIZE)
ERROR_MODEL = "test_vit"


def step_ratio(model: str, data: Dataset, steps: int, rounds: int) -> Ratio:
    """CPU seconds of training steps with signals over the same without."""
    config = RunConfig(
        model=model, batch_size=BATCH_SIZE, threads=1, device="cpu", channels_last="off"
    )
    state = make_state(config, data)
    sums = torch.zeros(2)
    batch = load_batch(data, torch.arange(BATCH_SIZE), state)
    state.model.train()

    def steps_with(measured: torch.Tensor | None) -> None:
        for _ in range(steps):
            train_step(state, data, *batch, "float32", measured)

    taken = cpu_seconds(
        {"with": lambda: steps_with(sums), "without": lambda: steps_with(None)}, rounds
    )
    return ratio(taken["with"], taken["without"])


def stride_of(measured: int) -> int:
    """Steps of an epoch of CIFAR from one measured step to the next."""
    return max(1, CIFAR_STEPS // measured)


def mean_errors(model: str, data: Dataset, stride: int, epochs: int = 4) -> list[float]:
    """Relative error of the epoch-mean norm from the measured steps alone.

    An epoch is as many passes over `data` as make it as long as CIFAR's; one value for each of
    them and each step that the measured ones may start at.
    """
    config = RunConfig(
        model=model, batch_size=BATCH_SIZE, threads=1, device="cpu", channels_last="off"
    )
    state: TrainState = make_state(config, data)
    state.model.train()
    errors = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        batches: list[torch.Tensor] = []
        while len(batches) < CIFAR_STEPS:
            batches += epoch_batches(len(data.train_labels), BATCH_SIZE, generator)
        sums = torch.zeros(CIFAR_STEPS, 2)
        for step, batch in enumerate(batches[:CIFAR_STEPS]):
            images, labels = load_batch(data, batch, state)
            train_step(state, data, images, labels, "float32", sums[step])
        norms = sums[:, 0].sqrt().numpy()
        errors += [float(abs(norms[o::stride].mean() / norms.mean() - 1)) for o in range(stride)]
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--measured", type=int, default=MEASURED_STEPS_PER_EPOCH)
    parser.add_argument("--small", action="store_true", help="tiny nets, to try the script")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("crops")
    models = ("test_resnet", "test_vit") if args.small else PAPER
    stride = stride_of(args.measured)
    share = -(-CIFAR_STEPS // stride) / CIFAR_STEPS
    rows = {}
    for model in models:
        side = {"img_size": 32}
        cost = step_ratio(model, load_dataset("digits", limit=128, **side), args.steps, args.rounds)
        rows[model] = {"step": asdict(cost), "epoch_pct": 100 * (cost.median - 1) * share}
    errors = mean_errors(ERROR_MODEL, data, stride)
    if args.json:
        print(json.dumps({"models": rows, "measured_share": share, "mean_errors": errors}))
        return
    print(
        f"measured: {100 * share:.1f} % of the {CIFAR_STEPS} steps of CIFAR at batch {BATCH_SIZE}"
    )
    print(f"{'model':24} {'step with / without':24} {'of an epoch':>12}")
    for model, row in rows.items():
        print(f"{model:24} {Ratio(**row['step'])!s:24} {row['epoch_pct']:+11.2f} %")
    print(
        f"error of the epoch-mean norm ({ERROR_MODEL}): median {100 * np.median(errors):.2f} %, "
        f"largest {100 * max(errors):.2f} % of {len(errors)}"
    )


if __name__ == "__main__":
    main()
