"""A grid of runs, from a TOML file. Finished runs are not repeated.

[base]                # RunConfig fields shared by all runs
epochs = 60

[grid]                # every combination is one run
model = ["resnet10t", "mobilenetv3_small_050"]
data = ["digits", "fashion-mnist"]
seed = [0, 1, 2]

[schedules]           # named sets of fields; the last factor of the grid
fixed = {scheduler = "fixed"}
deba = {scheduler = "deba"}

                      # each is compared with `fixed` (else the first) of the same point
[models.resnet10t]    # fields for one model only
channels_last = "on"
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stability_probe.config import RunConfig, largest_batch_size, step_id, with_memory_format
from stability_probe.errors import MissingError, UsageError
from stability_probe.executors import Executor
from stability_probe.files import sole_maker, write_json
from stability_probe.interrupt import raising
from stability_probe.metrics import samples_per_s
from stability_probe.plain import to_plain
from stability_probe.progress import Progress, Quiet
from stability_probe.records import ThroughputCurve
from stability_probe.store import read_measured, read_summary

MAX_RUNS = 100_000
"""Of one sweep file: more is a slip in a grid, and would fill the memory before it is seen."""
POLL_S = 1.0
"""How often a sweep looks how far its runs are."""


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run of a sweep, and the run of the same grid point that it is compared with."""

    arm: str
    """Its name in [schedules]."""
    config: RunConfig
    baseline: RunConfig
    """Of the arm `fixed`, or of the first one; its throughput curve is that of the point."""


def load_sweep(path: Path) -> list[SweepRun]:
    """The runs of a sweep file. Raises `MissingError` or `UsageError` for a bad file."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    unknown = sorted(set(values) - {"base", "grid", "schedules", "models"})
    if unknown:
        raise UsageError(f"{path}: unknown table {unknown[0]!r}; use base, grid, schedules, models")
    _require_tables(path, values)
    grid = values.get("grid", {})
    for name, points in grid.items():
        if not isinstance(points, list):
            raise UsageError(f"{path}: grid.{name} is {points!r}; use a list, such as [{points!r}]")
    count = math.prod(map(len, grid.values())) * len(values.get("schedules", ["fixed"]))
    if not 0 < count <= MAX_RUNS:
        raise UsageError(f"{path} has {count} runs; use 1 to {MAX_RUNS}")
    try:
        return list(_combinations(values))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _require_tables(path: Path, values: Mapping[str, Any]) -> None:
    """The four tables, and in two of them tables again."""
    tables = {f"[{name}]": table for name, table in values.items()}
    for name in ("schedules", "models"):
        if isinstance(values.get(name), dict):
            tables |= {f"[{name}.{key}]": table for key, table in values[name].items()}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is {table!r}; use a table of names and values")


def _combinations(values: dict[str, Any]) -> Iterator[SweepRun]:
    grid = values.get("grid", {})
    schedules = values.get("schedules", {"fixed": {"scheduler": "fixed"}})
    for point in itertools.product(*grid.values()):
        chosen = {**values.get("base", {}), **dict(zip(grid, point, strict=True))}
        model = chosen.get("model")  # of which `from_dict` will say when it is no name
        for_model = values.get("models", {}).get(model, {}) if isinstance(model, str) else {}
        arms = {
            arm: RunConfig.from_dict({**chosen, **for_model, **schedule})
            for arm, schedule in schedules.items()
        }
        baseline = arms.get("fixed", next(iter(arms.values())))
        for arm, config in arms.items():
            yield SweepRun(arm=arm, config=config, baseline=baseline)


def measure_curves(
    configs: Sequence[RunConfig], root: Path, progress: Progress | None = None
) -> dict[Path, ThroughputCurve]:
    """Throughput curves of a sweep by path, one after the other on a quiet machine.

    Measured once and stored under ROOT/curves; `step_id` says which runs share one. One that was
    measured on a busy machine is measured again.
    """
    progress = progress or Quiet()
    sharing: dict[Path, RunConfig] = {}
    for config in configs:
        sharing.setdefault(curve_path(root, config), config)
    curves = {}
    for path, config in sharing.items():
        if _is_wanted(path):
            with sole_maker(path):
                if _is_wanted(path):
                    progress.start(f"throughput of {config.model}", 1)
                    write_json(path, to_plain(_measure_curve(config, root)))
        curves[path] = read_measured(ThroughputCurve, path)
    return curves


def _is_wanted(path: Path) -> bool:
    return not path.exists() or read_measured(ThroughputCurve, path).busy


def _measure_curve(config: RunConfig, root: Path) -> ThroughputCurve:
    from stability_probe.device import free_memory, resolve_device, use_threads
    from stability_probe.fingerprint import require_unchanged
    from stability_probe.run import load_run_data
    from stability_probe.throughput import (
        choose_memory_format,
        curve_batch_sizes,
        measure_throughput,
    )

    with use_threads(config.threads or 1):  # as the runs will
        data = load_run_data(config)
        require_unchanged(config, data, root)
        choice = choose_memory_format(config, data, root)
        largest = largest_batch_size(config, len(data.train_labels))
        sizes = curve_batch_sizes(config.batch_size, largest)
        resolved = with_memory_format(config, choice.memory_format)
        curve = measure_throughput(resolved, data, sizes, choice)
    # This process lives as long as the runs: what it reserved on a card they would lack.
    free_memory(resolve_device(config.device))
    return curve


def curve_path(root: Path, config: RunConfig) -> Path:
    """Where a sweep keeps the throughput curve that a run shares, one for each number of
    threads."""
    threads = config.threads or 1
    of_threads = f"-t{threads}" if threads > 1 else ""
    return root / "curves" / f"{step_id(config)}{of_threads}.json"


def run_sweep(
    runs: Sequence[SweepRun], root: Path, executor: Executor, progress: Progress | None = None
) -> dict[str, str]:
    """Run all; why those failed that did, by run id.

    Curves are measured first, alone; the runs of `executor` then share the machine. The executor
    is closed at the end.
    """
    progress = progress or Quiet()
    try:
        curves = measure_curves([r.baseline for r in runs], root, progress)
    except BaseException:
        executor.close()
        raise
    if busy := sum(curve.busy for curve in curves.values()):
        progress.note(
            f"a busy machine measured {busy} of {len(curves)} throughput curves, and no prediction "
            "learns from rows with such a curve; type this line again when it is quiet: they are "
            "measured anew, and no finished run is repeated"
        )
    # Runs of one point share the memory format of their baseline, whatever their batch.
    formats = [curves[curve_path(root, r.baseline)].memory_format for r in runs]
    resolved = [with_memory_format(r.config, f) for r, f in zip(runs, formats, strict=True)]
    return run_all(resolved, root, executor, progress)


def run_all(
    configs: Sequence[RunConfig], root: Path, executor: Executor, progress: Progress | None = None
) -> dict[str, str]:
    """As `run_sweep`, for configs whose memory format is decided.

    Interrupted, it begins no further run, asks those under way to store their state, and waits.
    Raises `UsageError` where the user's own code is no longer that of a run done before.
    """
    progress = progress or Quiet()
    # Points of a grid may coincide, where a section of its file overrides a field.
    configs = list({config.run_id(): config for config in configs}.values())
    _require_unchanged([c for c in configs if is_done(c, root)], root)
    progress.start("runs", len(configs))
    failed: dict[str, str] = {}
    with raising():
        try:
            begun = {}
            for config in configs:
                if is_done(config, root):
                    progress.step(f"{config.run_id()} was done before")
                else:
                    begun[executor.submit(config, root)] = config
            for future in _completed(begun, root, progress):
                run_id, reason = begun[future].run_id(), future.result()
                progress.step(f"{run_id} {'done' if reason is None else f'failed: {reason}'}")
                if reason is not None:
                    failed[run_id] = reason
        except BaseException:
            executor.terminate()
            raise
        finally:
            executor.close()
    return failed


def _require_unchanged(configs: Sequence[RunConfig], root: Path) -> None:
    """Once for runs of the same model, data and schedule."""
    from stability_probe.fingerprint import has_fingerprint, require_unchanged
    from stability_probe.run import load_run_data

    own = [config for config in configs if has_fingerprint(config)]
    once = {(c.model, c.data, c.limit, c.img_size, c.scheduler): c for c in own}
    for config in once.values():
        require_unchanged(config, load_run_data(config), root)


def is_done(config: RunConfig, root: Path) -> bool:
    """Whether a run has finished or diverged."""
    return (root / config.run_id() / "result.json").exists()


def _completed(
    begun: Mapping[Future[str | None], RunConfig], root: Path, progress: Progress
) -> Iterator[Future[str | None]]:
    """Futures as they complete; meanwhile, how far the others are, from their journals."""
    left = set(begun)
    while left:
        done, left = wait(left, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            config = begun[future]
            progress.within(config.run_id(), config.last_epoch, config.last_epoch)
            yield future
        for config in (begun[future] for future in left if future.running()):
            journal = root / config.run_id() / "epochs.jsonl"
            if journal.exists():
                epochs = journal.read_bytes().count(b"\n")
                progress.within(config.run_id(), epochs, config.last_epoch)


def num_runs(runs: Sequence[SweepRun]) -> int:
    """How many runs a sweep has: combinations of its grid that are one run count once."""
    return len({run.config.run_id() for run in runs})


def num_done(runs: Sequence[SweepRun], root: Path) -> int:
    """How many of them are finished, or diverged."""
    ids = {c.run_id(): is_done(c, root) for c in _resolved(runs, root)}
    return sum(ids.values())


def diverged(runs: Sequence[SweepRun], root: Path) -> list[str]:
    """The names of those runs of a sweep whose loss became non-finite."""
    done = dict.fromkeys(c.run_id() for c in _resolved(runs, root) if is_done(c, root))
    return [run_id for run_id in done if read_summary(root / run_id).status == "diverged"]


def _resolved(runs: Sequence[SweepRun], root: Path) -> list[RunConfig]:
    """The configs of runs as they were trained; only of those whose curve was measured."""
    known = [(r, curve) for r in runs if (curve := stored_curve(r, root)) is not None]
    return [with_memory_format(r.config, curve.memory_format) for r, curve in known]


def stored_curve(run: SweepRun, root: Path) -> ThroughputCurve | None:
    """The curve of a run's grid point, None where it was not measured yet."""
    path = curve_path(root, run.baseline)
    return read_measured(ThroughputCurve, path) if path.exists() else None


def estimated_s(runs: Sequence[SweepRun], root: Path) -> tuple[float, list[str]]:
    """CPU seconds that the runs still to be made would take at their first batch.

    An upper bound where a schedule grows, since training alone counts and a larger batch is
    faster; models whose throughput was not measured here yet are named and not counted.
    """
    seconds, unknown = 0.0, set()
    for run in {run.config.run_id(): run for run in runs}.values():
        config, curve = run.config, stored_curve(run, root)
        if curve is None:
            unknown.add(config.model)
            continue
        resolved = with_memory_format(config, curve.memory_format)
        if not is_done(resolved, root):
            samples = config.last_epoch * _num_train(config)
            seconds += samples / float(samples_per_s(curve, config.batch_size))
    return seconds, sorted(unknown)


@cache
def _size_of(data: str, data_dir: str | None, limit: int | None, img_size: int | None) -> int:
    from stability_probe.datasets import load_dataset

    dataset = load_dataset(data, data_dir=data_dir, limit=limit, img_size=img_size)
    return len(dataset.train_labels)


def _num_train(config: RunConfig) -> int:
    return _size_of(config.data, config.data_dir, config.limit, config.img_size)
