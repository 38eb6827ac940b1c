"""Peak memory of the probe's window beside a plain training loop at the same batch.

    python -m tests.benchmarks.memory [MODEL] [--json]

Each runs in a process of its own; the peak is the resident set's, libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

BATCH_SIZE = 16
STEPS = 30


def plain(model_name: str) -> None:
    """The loop that anyone would write."""
    import torch
    from torch.nn import functional as F

    from stability_probe.datasets import load_dataset, normalize
    from stability_probe.models import make_model

    data = load_dataset("digits")
    model = make_model(model_name, num_classes=data.num_classes, img_size=32)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    order = torch.randperm(len(data.train_labels))
    for step in range(STEPS):
        batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        optimizer.zero_grad(set_to_none=True)
        images = normalize(data.train_images[batch], data)
        F.cross_entropy(model(images), data.train_labels[batch]).backward()
        optimizer.step()


def probe(model_name: str) -> None:
    """The same number of steps in two epochs of the probe's loop, signals and noise included."""
    from stability_probe.config import RunConfig
    from stability_probe.datasets import load_dataset
    from stability_probe.loop import train
    from stability_probe.state import make_state

    limit = STEPS * BATCH_SIZE // 2
    config = RunConfig(
        model=model_name, limit=limit, window_epochs=2, max_epochs=2, channels_last="off"
    )
    data = load_dataset("digits", limit=limit)
    for _ in train(make_state(config, data), data, config):
        pass


LOOPS = {"plain": plain, "probe": probe}


def measure(which: str, model_name: str) -> float:
    """Peak resident set in MiB of one kind of run."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", model_name, "--only", which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="resnet50")
    parser.add_argument("--only", choices=LOOPS, help="run this loop here and print its peak")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only:
        LOOPS[args.only](args.model)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peaks = {which: measure(which, args.model) for which in LOOPS}
    result = {"model": args.model, "peak_mib": peaks, "ratio": peaks["probe"] / peaks["plain"]}
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"{args.model}: plain {peaks['plain']:.0f} MiB, probe {peaks['probe']:.0f} MiB, "
            f"ratio {result['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
