"""A long sweep, watched: do memory, file handles, threads and disk stay flat?

    python -m tests.benchmarks.watched -o runs [--every 30] -- probe sweep FILE.toml -o runs

Starts the command, and looks at it and at the processes it starts until it ends; the samples go to
stderr as JSON lines, the summary to stdout. Of the command itself the first tenth of the samples
is left out, by when everything is imported. Linux only: reads /proc.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.tell import tell

PROC = Path("/proc")


def state_of_process(pid: int | str = "self") -> dict[str, float]:
    """Resident MiB, open files and threads of one process; raises `OSError` when it is gone."""
    status = (PROC / str(pid) / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    if "VmRSS" not in fields:  # ended and not waited for
        raise ProcessLookupError(pid)
    return {
        "resident_mib": int(fields["VmRSS"].split()[0]) / 1024,
        "open_files": len(list((PROC / str(pid) / "fd").iterdir())),
        "system_threads": int(fields["Threads"]),
    }


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and those that they did."""
    found = []
    for task in (PROC / str(pid) / "task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def sample(pid: int, store: Path) -> dict[str, Any]:
    """The command, the processes under it, its store and the folder for temporary files."""
    jobs = []
    for child in descendants(pid):
        try:
            jobs.append(state_of_process(child))
        except OSError:  # it has just ended
            continue
    own = state_of_process(pid)
    runs = sorted(store.glob("*/result.json"))
    stored = [p.stat().st_size for run in runs for p in run.parent.iterdir() if p.is_file()]
    return {
        **own,
        "jobs": len(jobs),
        "job_resident_mib": max((j["resident_mib"] for j in jobs), default=0.0),
        "job_open_files": max((j["open_files"] for j in jobs), default=0.0),
        "job_threads": max((j["system_threads"] for j in jobs), default=0.0),
        "finished": len(runs),
        "mib_of_finished": sum(stored) / 2**20,
        "temporary_mib": shutil.disk_usage(tempfile.gettempdir()).used / 2**20,
    }


def watch(command: Sequence[str], store: Path, every_s: float) -> list[dict[str, Any]]:
    """Samples until the command ends; its exit code is in the last."""
    samples: list[dict[str, Any]] = []
    begin = time.monotonic()
    with subprocess.Popen(command) as process:
        while True:
            try:
                code = process.wait(timeout=every_s)
                return [*samples, {"exit_code": code}]
            except subprocess.TimeoutExpired:
                minutes = (time.monotonic() - begin) / 60
            try:
                samples.append({"minutes": minutes, **sample(process.pid, store)})
            except OSError:  # it has just ended
                continue
            print(json.dumps(samples[-1]), file=sys.stderr, flush=True)


def summary(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """First and last tenth of the samples by their medians, and the growth an hour."""
    *states, end = samples
    if not states:
        raise SystemExit(f"ended with {end['exit_code']} unseen; use a shorter --every")
    warm = states[len(states) // 10 :]
    part = max(1, len(warm) // 10)
    minutes = np.array([s["minutes"] for s in warm])
    names = [n for n in warm[0] if n not in ("minutes", "finished", "mib_of_finished")]
    return {
        "minutes": round(float(minutes[-1]), 1),
        "samples": len(states),
        "finished": [states[0]["finished"], states[-1]["finished"]],
        **{
            name: [
                round(float(np.median([s[name] for s in some])), 1)
                for some in (warm[:part], warm[-part:])
            ]
            for name in names
        },
        "mib_a_finished_run": [
            round(s["mib_of_finished"] / max(1, s["finished"]), 2) for s in (warm[0], warm[-1])
        ],
        "mib_an_hour": round(
            float(60 * np.polyfit(minutes, [s["resident_mib"] for s in warm], 1)[0]), 2
        ),
        "exit_code": end["exit_code"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--store", type=Path, required=True, help="where its runs go")
    parser.add_argument("--every", type=float, default=30, help="seconds between two samples")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    found = summary(watch(args.command, args.store, args.every))
    tell(found, as_json=args.json)


if __name__ == "__main__":
    main()
