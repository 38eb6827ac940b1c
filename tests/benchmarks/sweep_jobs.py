"""Runs per second of a sweep with two jobs of one thread, over those with one job.

    python -m tests.benchmarks.sweep_jobs [--rounds 3] [--runs 6] [--epochs 6] [--json]

The same runs, from nothing, in folders of their own; wall clock, taking turns. Two free
cores are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.interleaved import ratio, take_turns

SWEEP = """
[base]
model = "test_resnet"
data = "digits"
epochs = {epochs}
window_epochs = 2
channels_last = "off"
threads = 1

[grid]
seed = {seeds}

[schedules]
fixed = {{scheduler = "fixed"}}
"""


def sweep_s(text: str, jobs: int) -> float:
    """Wall seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.toml"
        file.write_text(text)
        command = [sys.executable, "-m", "cli", "sweep", str(file), "-q", "--jobs", str(jobs)]
        begin = time.perf_counter()
        subprocess.run(
            [*command, "-o", str(Path(folder) / "runs")],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    text = SWEEP.format(seeds=list(range(args.runs)), epochs=args.epochs)
    taken = take_turns(
        {"one": lambda: sweep_s(text, 1), "two": lambda: sweep_s(text, 2)}, args.rounds, 0
    )
    found = ratio(taken["one"], taken["two"])
    if args.json:
        print(json.dumps({"wall_s": taken, "throughput": asdict(found)}))
        return
    print(f"two jobs over one: {found} of the throughput, {args.runs} runs of test_resnet")


if __name__ == "__main__":
    main()
