"""A grid of runs, from a TOML file, by local processes. Finished runs are not repeated.

[base]                # RunConfig fields shared by all runs
epochs = 60

[grid]                # every combination is one run
model = ["resnet10t", "mobilenetv3_small_050"]
data = ["digits", "fashion-mnist"]
seed = [0, 1, 2]

[schedules]           # named sets of fields; the last factor of the grid
fixed = {scheduler = "fixed"}
deba = {scheduler = "deba"}

[models.resnet10t]    # fields for one model only
channels_last = "on"
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stability_probe.config import RunConfig, default_max_batch_size
from stability_probe.errors import MissingError, ProbeError, UsageError
from stability_probe.interrupt import Interrupted, raising
from stability_probe.progress import Progress, Quiet
from stability_probe.records import ThroughputCurve, from_plain, to_plain
from stability_probe.store import Store, read_json, write_text

_CURVE_FIELDS = (
    *("model", "img_size", "batch_size", "max_batch_size", "device", "precision", "optimizer"),
    "channels_last",
)


def load_sweep(path: Path) -> list[RunConfig]:
    """The runs of a sweep file. Raises `MissingError` or `UsageError` for a bad file."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    unknown = sorted(set(values) - {"base", "grid", "schedules", "models"})
    if unknown:
        raise UsageError(f"{path}: unknown table {unknown[0]!r}; use base, grid, schedules, models")
    for name, points in values.get("grid", {}).items():
        if not isinstance(points, list):
            raise UsageError(f"{path}: grid.{name} is {points!r}; use a list, such as [{points!r}]")
    return list(_combinations(values))


def _combinations(values: dict[str, Any]) -> Iterator[RunConfig]:
    grid = values.get("grid", {})
    schedules = values.get("schedules", {"fixed": {"scheduler": "fixed"}})
    for point in itertools.product(*grid.values()):
        chosen = {**values.get("base", {}), **dict(zip(grid, point, strict=True))}
        for_model = values.get("models", {}).get(chosen.get("model"), {})
        for schedule in schedules.values():
            yield RunConfig.from_dict({**chosen, **for_model, **schedule})


def measure_curves(
    configs: Sequence[RunConfig], root: Path, progress: Progress | None = None
) -> dict[Path, ThroughputCurve]:
    """Throughput curves of a sweep by path, one after the other on a quiet machine.

    Measured once and stored under ROOT/curves. Runs that differ in data, seed, rate or schedule
    only share a curve.
    """
    from stability_probe.device import use_threads
    from stability_probe.run import load_run_data
    from stability_probe.throughput import (
        choose_memory_format,
        curve_batch_sizes,
        measure_throughput,
    )

    progress = progress or Quiet()
    (root / "curves").mkdir(parents=True, exist_ok=True)
    curves = {}
    for path, config in {curve_path(root, c): c for c in reversed(configs)}.items():
        if not path.exists():
            progress.start(f"throughput of {config.model}", 1)
            with use_threads(config.threads or 1):  # as the runs will
                data = load_run_data(config)
                choice = choose_memory_format(config, data)
                largest = config.max_batch_size or default_max_batch_size(
                    len(data.train_labels), config.batch_size
                )
                sizes = curve_batch_sizes(config.batch_size, largest)
                curve = measure_throughput(
                    with_memory_format(config, choice.memory_format), data, sizes, choice
                )
            write_text(path, json.dumps(to_plain(curve)))
        curves[path] = from_plain(ThroughputCurve, read_json(path))
    return curves


def curve_path(root: Path, config: RunConfig) -> Path:
    """Where a sweep keeps the throughput curve that a run shares."""
    shared = {name: getattr(config, name) for name in _CURVE_FIELDS}
    return root / "curves" / f"{RunConfig(**shared).run_id()}.json"


def with_memory_format(config: RunConfig, memory_format: str) -> RunConfig:
    """`config` with the memory format decided, so that paired runs share it."""
    flag = "on" if memory_format == "channels_last" else "off"
    return dataclasses.replace(config, channels_last=flag)


def run_sweep(
    configs: Sequence[RunConfig], root: Path, jobs: int, progress: Progress | None = None
) -> list[str]:
    """Run each config in a process of its own; the run ids of those that failed.

    Curves are measured first, alone; `jobs` processes then share the machine.
    """
    progress = progress or Quiet()
    curves = measure_curves(configs, root, progress)
    resolved = [with_memory_format(c, curves[curve_path(root, c)].memory_format) for c in configs]
    return run_all(resolved, root, jobs, progress)


def run_all(
    configs: Sequence[RunConfig], root: Path, jobs: int, progress: Progress | None = None
) -> list[str]:
    """As `run_sweep`, for configs whose memory format is decided.

    Interrupted, it starts no further run, asks those under way to store their state, and waits.
    """
    progress = progress or Quiet()
    progress.start("runs", len(configs))
    failed = []
    children = _Children()
    with raising(), ThreadPoolExecutor(jobs) as pool:
        try:
            codes = pool.map(lambda config: children.run(config, root), configs)
            for config, code in zip(configs, codes, strict=True):
                progress.step(f"{config.run_id()} {'done' if code == 0 else 'failed'}")
                if code != 0:
                    failed.append(config.run_id())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.terminate()
            raise
    return failed


class _Children:
    """The runs under way, each a process of its own: its crash or lack of memory ends no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ending = False

    def run(self, config: RunConfig, root: Path) -> int:
        """Run to the end; the exit code."""
        if (root / config.run_id() / "result.json").exists():
            return 0
        threads = str(config.threads or 1)
        command = [sys.executable, "-m", "stability_probe.sweep"]
        with self._lock:
            if self._ending:
                return 128 + signal.SIGTERM
            process = subprocess.Popen(
                [*command, json.dumps(config.to_dict()), str(root)],
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                # A terminal's Ctrl-C reaches the parent alone, which passes it on once.
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def terminate(self) -> None:
        """Ask every run to store its state and end."""
        with self._lock:
            self._ending = True
            for process in self._running:
                process.terminate()


def _main(config: str, root: str) -> None:
    from stability_probe.run import run

    try:
        run(RunConfig.from_dict(json.loads(config)), Store(Path(root)))
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except ProbeError as error:
        print(f"probe: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main(*sys.argv[1:])
