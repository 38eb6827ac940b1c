"""A whole `probe characterize` beside a plain script that trains as many steps.

    python -m tests.benchmarks.characterize [MODEL] [--rounds 3] [--json]

Each is a process of its own with one thread, taking turns; CPU seconds from start to end, libraries
and data included. What the throughput curve and the choice of the memory format took is told
apart, since the plain script has no such thing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import wraps
from typing import Any

from tests.benchmarks.interleaved import Ratio, ratio, take_turns

MODEL = "mobilenetv3_small_100"


def plain(model_name: str) -> dict[str, float]:
    """The script that anyone would write: the window's steps, and its evaluations."""
    import timm
    import torch
    from torch.nn import functional as F

    from stability_probe.config import RunConfig
    from stability_probe.datasets import load_dataset, normalize

    config = RunConfig(model=model_name)
    data = load_dataset(config.data)
    images, test = normalize(data.train_images, data), normalize(data.test_images, data)
    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=data.num_classes)
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for _ in range(config.window_epochs):
        model.train()
        for batch in torch.randperm(len(images)).split(config.batch_size):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images[batch]), data.train_labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            print((model(test).argmax(1) == data.test_labels).float().mean(), file=sys.stderr)
    return {"total": time.process_time()}


def probe(model_name: str) -> dict[str, float]:
    """The command as it is typed, with a clock around the two measurements."""
    from cli import probe as command
    from stability_probe import probe as library

    taken: dict[str, float] = {}

    def clocked(name: str) -> None:
        function: Any = getattr(library, name)

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken[name] = time.process_time() - begin

        setattr(library, name, measured)

    clocked("measure_throughput")
    clocked("choose_memory_format")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["characterize", model_name, "-o", folder, "--json", "-q", "--threads", "1"]
        with open(os.devnull, "w") as nowhere:
            stdout, sys.stdout = sys.stdout, nowhere
            try:
                command(arguments, standalone_mode=False)
            finally:
                sys.stdout = stdout
    return {"total": time.process_time(), **taken}


def run(which: str, model_name: str) -> dict[str, float]:
    """CPU seconds of one process."""
    command = [sys.executable, "-m", "tests.benchmarks.characterize", model_name, "--only", which]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "probe"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only:
        print(json.dumps({"plain": plain, "probe": probe}[args.only](args.model)))
        return
    parts: list[dict[str, float]] = []

    def whole() -> float:
        parts.append(run("probe", args.model))
        apart = parts[-1]["measure_throughput"] + parts[-1]["choose_memory_format"]
        return parts[-1]["total"] - apart

    taken = take_turns(
        {"probe": whole, "plain": lambda: run("plain", args.model)["total"]}, args.rounds, 1
    )
    found: Ratio = ratio(taken["probe"], taken["plain"])
    if args.json:
        print(json.dumps({"model": args.model, **taken, "parts": parts, "ratio": found.median}))
        return
    print(f"{args.model}: characterize / plain {found}, curve and memory format apart")
    for name in ("measure_throughput", "choose_memory_format", "total"):
        print(f"  {name} {sorted(p[name] for p in parts)[len(parts) // 2]:.1f} CPU s")
    print(f"  plain {sorted(taken['plain'])[len(taken['plain']) // 2]:.1f} CPU s")


if __name__ == "__main__":
    main()
