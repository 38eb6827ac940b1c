"""Many short runs in one process: do memory, file handles, threads and disk stay flat?

    python -m tests.benchmarks.longrun [--runs 1000] [--json]

Every run is a full one, stored, of another seed. Memory is compared between the first tenth of
the runs, by when everything is imported and warm, and the last.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from stability_probe.config import RunConfig
from stability_probe.run import run
from stability_probe.store import Store
from tests.benchmarks.tell import tell
from tests.benchmarks.watched import state_of_process

CONFIG: dict[str, Any] = {
    "model": "tests.tiny:net",
    "data": "tests.tiny:blobs",
    "device": "cpu",
    "epochs": 4,
    "window_epochs": 2,
    "scheduler": "deba",
    "max_batch_size": 64,
    "channels_last": "off",
    "threads": 1,
}


def many_runs(number: int, root: Path) -> list[dict[str, float]]:
    """The state after every tenth of a tenth of the runs."""
    states = []
    every = max(1, number // 100)
    for seed in range(number):
        result = run(RunConfig(**CONFIG, seed=seed), Store(root))
        assert result.status == "finished"
        if (seed + 1) % every == 0:
            gc.collect()
            size = sum(p.stat().st_size for p in (root / result.run_id).iterdir())
            threads = threading.active_count()
            states.append(
                {
                    "runs": seed + 1,
                    **state_of_process(),
                    "threads": threads,
                    "bytes_of_a_run": size,
                }
            )
    return states


def summary(states: list[dict[str, float]]) -> dict[str, Any]:
    """First and last tenth of the states after the first tenth, and growth for 1,000 runs."""
    warm = states[len(states) // 10 :]
    part = max(1, len(warm) // 10)
    runs = np.array([s["runs"] for s in warm])
    memory = np.array([s["resident_mib"] for s in warm])
    return {
        "runs": int(runs[-1]),
        **{
            name: [
                float(np.median([s[name] for s in some])) for some in (warm[:part], warm[-part:])
            ]
            for name in ("resident_mib", "open_files", "threads", "system_threads")
        },
        "bytes_of_a_run": [
            min(s["bytes_of_a_run"] for s in states),
            max(s["bytes_of_a_run"] for s in states),
        ],
        "mib_per_1000_runs": float(1000 * np.polyfit(runs, memory, 1)[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = summary(many_runs(args.runs, Path(folder)))
    tell(found, as_json=args.json)


if __name__ == "__main__":
    main()
