"""CPU seconds of commands that measure nothing: help, lists, a prediction, a mistake.

    python -m tests.benchmarks.startup [--rounds 5] [--runs 10000] [--json]

Each is a process of its own, from start to end; medians. The lists are of as many stored runs as
asked for and of a tenth of that, so that the growth shows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stability_probe.plain import from_plain, to_plain
from stability_probe.records import RunResult
from stability_probe.store import RunDirectory
from tests.predictor_factories import make_characterization, make_prediction, make_run

ROOT = Path(__file__).parents[2]


def cpu_s(arguments: list[str], rounds: int, code: int = 0) -> list[float]:
    """CPU seconds of `probe` with these arguments, one a round, the first one left out.

    Raises `RuntimeError` when it exits with another code: a failure may be quick.
    """
    taken = []
    for _ in range(rounds + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        if done.returncode != code:
            raise RuntimeError(f"probe {arguments} exited {done.returncode}: {done.stderr!r}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return taken[1:]


def store_runs(root: Path, count: int) -> None:
    """As many finished runs, each of 60 epochs, in folders of their own."""
    root.mkdir(parents=True)
    run = make_run(batch_sizes=(16,) * 60, accuracies=(0.5,) * 60, cpu_s=(1.0,) * 60)
    plain = to_plain(run)
    for seed in range(count):
        name = f"{run.run_id}-{seed}"
        (root / name).mkdir()
        config = {**plain["config"], "seed": seed}
        (root / name / "config.json").write_text(json.dumps(config))
        text = json.dumps({**plain, "run_id": name, "config": config})
        RunDirectory(root / name).finish(from_plain(RunResult, json.loads(text)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        stored = folder / "c.json"
        told = {"characterization": make_characterization(), "prediction": make_prediction()}
        stored.write_text(json.dumps(to_plain(told)))
        few, many = folder / "few", folder / "many"
        store_runs(few, args.runs // 10)
        store_runs(many, args.runs)
        commands = {
            "--help": ["--help"],
            "runs, none stored": ["runs", "-o", str(folder / "none")],
            f"runs, {args.runs // 10} stored": ["runs", "-o", str(few)],
            f"runs, {args.runs} stored": ["runs", "-o", str(many)],
            "predict": ["predict", str(stored)],
            "a usage error": ["run", "resnet18", "--epochs", "many"],
        }
        told = {
            name: cpu_s(command, args.rounds, 2 if "error" in name else 0)
            for name, command in commands.items()
        }
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(told))
        return
    for name, seconds in told.items():
        print(f"{name:24} {np.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}]")


if __name__ == "__main__":
    main()
