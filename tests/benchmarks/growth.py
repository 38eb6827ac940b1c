"""How the cost of a probe grows with parameters, batch, epochs of the window and seeds.

    python -m tests.benchmarks.growth [--rounds 3] [--only seeds] [--small] [--json]

One thread, 512 images of 32×32 and 504 to test on, CPU seconds in one process. One factor changes
at a time, from vit_tiny at batch 64 with a window of two epochs and one seed; all points of a
factor take turns, each beside a plain loop of as many steps and evaluations. `probe` is
`characterize` whole (windows, evaluation, noise scale, metrics) but for the throughput curve, which
does not depend on epochs or seeds. The exponent is the slope of log seconds over log factor: 1 is
linear.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from stability_probe import probe
from stability_probe.config import RunConfig
from stability_probe.datasets import load_dataset, normalize
from stability_probe.models import num_params
from stability_probe.state import make_state
from tests.benchmarks.interleaved import cpu_seconds, ratio
from tests.benchmarks.training_loop import plain_steps
from tests.factories import make_curve

BASE = RunConfig(
    model="vit_tiny_patch16_224",
    data="crops",
    limit=512,
    img_size=32,
    batch_size=64,
    max_batch_size=512,
    window_epochs=2,
    epochs=100,
    device="cpu",
    threads=1,
    channels_last="off",
)
SMALL = dataclasses.replace(BASE, model="test_vit", limit=64, batch_size=16)
CURVE = make_curve([64], [1.0])
Point = tuple[float, RunConfig, int]
"""How much of the factor, the config, and how many seeds."""


def factors(base: RunConfig, models: tuple[str, ...]) -> dict[str, list[Point]]:
    """The points of each factor, in rising order."""

    def changed(name: str, values: tuple[int, ...]) -> list[Point]:
        return [(v, dataclasses.replace(base, **{name: v}), 1) for v in values]

    sizes = [dataclasses.replace(base, model=name) for name in models]
    return {
        "parameters": [(_params(config), config, 1) for config in sizes],
        "batch": changed("batch_size", (16, 64, 256) if base is BASE else (8, 16)),
        "epochs": changed("window_epochs", (2, 4, 8)),
        "seeds": [(n, base, n) for n in (1, 2, 4)],
    }


def _params(config: RunConfig) -> float:
    return float(num_params(make_state(config, _data(config)).model))


def _data(config: RunConfig) -> Any:
    return load_dataset(config.data, limit=config.limit, img_size=config.img_size)


def probed(config: RunConfig, seeds: int) -> None:
    """A characterization without its curve."""
    with patch.object(probe, "measure_throughput", lambda *_: CURVE):
        probe.characterize(config, seeds=range(seeds))


def trained(config: RunConfig, seeds: int) -> None:
    """As many plain steps and evaluations on batches that are made already."""
    data = _data(config)
    images, test = normalize(data.train_images, data), normalize(data.test_images, data)
    batches = list(
        zip(
            images.split(config.batch_size), data.train_labels.split(config.batch_size), strict=True
        )
    )
    for seed in range(seeds):
        state = make_state(dataclasses.replace(config, seed=seed), data)
        for _ in range(config.window_epochs):
            state.model.train()
            plain_steps(state.model, state.optimizer, batches)
            state.model.eval()
            with torch.inference_mode():
                for images in test.split(4 * config.batch_size):
                    state.model(images)


def growth(points: list[Point], rounds: int) -> dict[str, Any]:
    """CPU seconds at each point, over a plain loop's, and the exponent over all."""
    arms: dict[str, Any] = {}
    for index, (_, config, seeds) in enumerate(points):
        arms[f"probe {index}"] = lambda c=config, n=seeds: probed(c, n)
        arms[f"plain {index}"] = lambda c=config, n=seeds: trained(c, n)
    taken = cpu_seconds(arms, rounds)
    rows = []
    for index, (value, config, _) in enumerate(points):
        mine, plain = taken[f"probe {index}"], taken[f"plain {index}"]
        rows.append(
            {
                "value": value,
                "model": config.model,
                "cpu_s": float(np.median(mine)),
                "over_plain": asdict(ratio(mine, plain)),
            }
        )
    seconds, values = ([row[name] for row in rows] for name in ("cpu_s", "value"))
    return {"points": rows, "exponent": float(np.polyfit(np.log(values), np.log(seconds), 1)[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="parameters, batch, epochs or seeds")
    parser.add_argument("--small", action="store_true", help="tiny nets, to try the script")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")
    base, models = (SMALL, ("test_vit", "test_vit2")) if args.small else (BASE, models)
    found = {}
    for name, points in factors(base, models).items():
        if args.only not in (None, name):
            continue
        found[name] = growth(points, args.rounds)
        if not args.json:
            print(f"{name}: exponent {found[name]['exponent']:.2f}", flush=True)
            for row in found[name]["points"]:
                over = "{median:.3f} [{low:.3f}, {high:.3f}]".format(**row["over_plain"])
                print(f"  {row['value']:12,.0f} {row['cpu_s']:8.1f} CPU s, over plain {over}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
