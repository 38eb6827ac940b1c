"""What the first step at a batch size costs more than the second: the price of a change.

    python -m tests.benchmarks.batch_change [--changes 12] [--small] [--json]

One thread, images of CIFAR's shape, batches growing by 8 from 32, so that every size is new to the
libraries below. An epoch boundary without a change pays none of it, with a change all of it.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from stability_probe.config import RunConfig
from stability_probe.state import make_state
from stability_probe.step import load_batch, train_step
from tests.benchmarks.signals import PAPER
from tests.benchmarks.training_loop import random_images

FIRST_BATCH = 32
ORDINARY_STEPS = 3


def extra_ms(model: str, channels_last: str, changes: int) -> list[float]:
    """CPU milliseconds of the first step at a new size, less the median of the next ones."""
    config = RunConfig(model=model, threads=1, device="cpu", channels_last=channels_last)
    data = random_images(FIRST_BATCH + 8 * changes)
    state = make_state(config, data)
    state.model.train()

    def step_ms(size: int) -> float:
        generator = torch.Generator().manual_seed(0)
        begin = time.process_time()
        images, labels = load_batch(data, torch.arange(size), state, generator)
        train_step(state, data, images, labels, "float32")
        return 1000 * (time.process_time() - begin)

    for _ in range(2):
        step_ms(FIRST_BATCH)
    extra = []
    for change in range(1, changes + 1):
        size = FIRST_BATCH + 8 * change
        first = step_ms(size)
        extra.append(first - float(np.median([step_ms(size) for _ in range(ORDINARY_STEPS)])))
    return extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="tiny nets, to try the script")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = ("test_resnet", "test_vit") if args.small else PAPER
    told = {
        f"{model}, channels_last {flag}": extra_ms(model, flag, args.changes)
        for model in models
        for flag in ("off", "on")
    }
    if args.json:
        print(json.dumps(told))
        return
    for name, extra in told.items():
        low, median, high = np.percentile(extra, [25, 50, 75])
        print(f"{name:45} {median:+7.1f} ms [{low:+.1f}, {high:+.1f}], largest {max(extra):+.1f}")


if __name__ == "__main__":
    main()
