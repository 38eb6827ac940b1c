"""CPU seconds of `probe report` for a long run beside its fixed run, and how they grow.

    python -m tests.benchmarks.report [--epochs 1000] [--rounds 3] [--json]

Each is a process of its own, from start to end; medians. A tenth and a third of the epochs show the
growth; a run of two epochs shows what is there before any.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from stability_probe.plain import to_plain
from stability_probe.records import RunResult
from stability_probe.store import RunDirectory
from tests.benchmarks.startup import cpu_s
from tests.predictor_factories import make_run

LIMIT_S = 5.0
"""What a report of a run of 1,000 epochs may take."""


def store_pair(root: Path, epochs: int) -> str:
    """A run that grows its batch and its fixed run, with scatter in every curve; the run's name."""
    rng = np.random.default_rng(0)
    grown = [min(2048, int(16 * 1.05 ** (e // 5))) for e in range(epochs)]
    for scheduler, sizes in (("fixed", [16] * epochs), ("deba", grown)):
        run = make_run(
            batch_sizes=sizes,
            accuracies=rng.uniform(0.5, 0.9, epochs).tolist(),
            cpu_s=[1.0] * epochs,
            norms=rng.uniform(0.5, 2.0, epochs).tolist(),
            scheduler=scheduler,
        )
        _keep(root, run)
    return run.run_id


def _keep(root: Path, run: RunResult) -> None:
    folder = root / run.run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_plain(run.config)))
    RunDirectory(folder).finish(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    counts = sorted({2, max(2, args.epochs // 10), max(2, args.epochs // 3), args.epochs})
    folder = Path(tempfile.mkdtemp())
    try:
        told = {}
        for count in counts:
            root = folder / str(count)
            name = store_pair(root, count)
            page = root / "report.html"
            command = ["report", name, "--runs", str(root), "-o", str(page)]
            taken = cpu_s(command, args.rounds)
            told[count] = {"cpu_s": taken, "bytes": page.stat().st_size}
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(told))
        return
    for count, found in told.items():
        seconds, size = found["cpu_s"], found["bytes"]
        spread = f"[{min(seconds):.2f}, {max(seconds):.2f}]"
        print(f"{count:6} epochs  {np.median(seconds):.2f} s {spread}  {size / 1e3:.0f} kB")
    if np.median(told[args.epochs]["cpu_s"]) > LIMIT_S:
        print(f"more than {LIMIT_S:.0f} s")


if __name__ == "__main__":
    main()
