"""What the noise scale of a characterization costs, and how far one pass is from the truth.

    python -m tests.benchmarks.noise_scale [--models a,b] [--draws 10] [--json]

One thread. Cost: CPU seconds of the pass at the end of the probe's window over those of training
the window. Error: passes that draw other samples at the same parameters, beside the ratio of the
mean numerator to the mean denominator over as many passes of 64 micro-batches each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

import numpy as np
import torch

from stability_probe.config import RunConfig
from stability_probe.datasets import load_dataset
from stability_probe.loop import train
from stability_probe.noise_pass import NOISE_BUDGET, measure_noise_scale
from stability_probe.state import make_state

MODELS = "mobilenetv3_small_100,resnet18,test_vit"


def measure(model: str, draws: int) -> dict[str, float]:
    """Cost as a share of the window, and relative errors of single passes."""
    config = RunConfig(model=model, threads=1, device="cpu", channels_last="off")
    data = load_dataset(config.data)
    state = make_state(config, data)
    window = dataclasses.replace(config, max_epochs=config.window_epochs)
    records = list(train(state, data, window))
    share = NOISE_BUDGET * config.window_epochs
    passes, cpu = [], []
    for draw in range(draws):
        # Passes of different seeds draw different samples; parameters stay.
        begin = time.process_time()
        other = dataclasses.replace(config, order_seed=1000 + draw)
        passes.append(measure_noise_scale(state, data, other, share))
        cpu.append(time.process_time() - begin)
    large = [
        measure_noise_scale(state, data, dataclasses.replace(config, order_seed=2000 + draw), 1.0)
        for draw in range(draws)
    ]
    truth = np.mean([p.trace_sigma for p in large]) / np.mean([p.grad_sq_norm for p in large])
    told: dict[str, float] = {
        "share_of_window": float(np.median(cpu)) / sum(r.cpu_s for r in records),
        "samples": float(passes[0].num_samples),
        "noise_scale": float(truth),
        "undefined": float(np.mean([p.noise_scale is None for p in passes])),
    }
    known = [p.noise_scale for p in passes if p.noise_scale is not None]
    if known:
        errors = np.abs(np.array(known) / truth - 1)
        told["median_error"], told["largest_error"] = float(np.median(errors)), float(errors.max())
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    told = {model: measure(model, args.draws) for model in args.models.split(",")}
    if args.json:
        print(json.dumps(told))
        return
    for model, values in told.items():
        print(f"{model}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()))


if __name__ == "__main__":
    main()
