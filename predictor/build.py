"""Rows of the corpus from stored runs: those of a sweep, or a user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from predictor.corpus import CorpusRow, make_row
from stability_probe.config import RunConfig, largest_batch_size, with_memory_format
from stability_probe.datasets import load_dataset
from stability_probe.device import describe_environment, device_name, resolve_device
from stability_probe.errors import UsageError
from stability_probe.files import write_json
from stability_probe.models import make_model, model_size
from stability_probe.paired import require_machine, same_machine
from stability_probe.plain import to_plain
from stability_probe.records import ModelSize, RunResult, ThroughputCurve
from stability_probe.store import Store, read_result
from stability_probe.stored import fixed_twin
from stability_probe.sweep import (
    SweepRun,
    curve_path,
    measure_curves,
    stored_curve,
)


def build_rows(runs: Sequence[SweepRun], root: Path) -> tuple[list[CorpusRow], list[str]]:
    """One row for each run of the sweep beside the baseline of its grid point, and what is left
    out: the ids of runs whose baseline, or curve, is of another machine.

    Runs that are not finished yet are passed over; runs that diverged stay in.
    """
    rows, apart = [], []
    for run in runs:
        curve = stored_curve(run, root)
        if curve is None or run.config == run.baseline:
            continue
        configs = [with_memory_format(c, curve.memory_format) for c in (run.baseline, run.config)]
        fixed, adaptive = (read_result(root / c.run_id()) for c in configs)
        if fixed is None or adaptive is None or not fixed.epochs or not adaptive.epochs:
            continue
        if same_machine(fixed, adaptive) and _made_on(fixed, curve.device_name):
            rows.append(_make_row(run.arm, run.config, fixed, adaptive, curve))
        else:
            apart.append(adaptive.run_id)
    return rows, apart


def _made_on(run: RunResult, device: str) -> bool:
    """Whether a run is of the device that a curve names; one of an earlier version names none."""
    return device in ("", run.environment.get("device_name", ""))


def without_known(runs: Sequence[SweepRun], rows: Iterable[CorpusRow]) -> list[SweepRun]:
    """The runs that comparisons still need which the rows do not hold, in whatever memory format
    their machine chose."""
    known = {row.pair_id for row in rows}
    compared = [run for run in runs if run.config != run.baseline]
    missing = [run for run in compared if not known & _pair_ids(run)]
    beside = {run.baseline.run_id() for run in compared}
    needed = {config.run_id() for run in missing for config in (run.baseline, run.config)}
    return [r for r in runs if r.config.run_id() in needed or r.baseline.run_id() not in beside]


def keep_known_curves(
    runs: Sequence[SweepRun], rows: Iterable[CorpusRow], root: Path
) -> list[Path]:
    """Keep the rows' throughput curves as if they had been measured here; the files written.

    So a sweep that goes on elsewhere, on the same kind of device, measures each model once, and a
    memory format is chosen once. Of quiet machines only, for runs of one thread (rows do not tell
    how many), and never in the place of a quiet curve.
    """
    quiet = {row.pair_id: row for row in rows if not row.curve_busy}
    written: dict[Path, ThroughputCurve] = {}
    for run in runs:
        path, before = curve_path(root, run.baseline), stored_curve(run, root)
        if run.baseline.threads not in (None, 1) or (before and not before.busy):
            continue
        for pair_id in sorted(_pair_ids(run) & quiet.keys()):
            row = quiet[pair_id]
            if (row.device_name, row.torch) == _device_here(run.baseline.device):
                lent = dataclasses.replace(row.curve, device_name=row.device_name)
                written.setdefault(path, lent)
    for path, curve in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, to_plain(curve))
    return list(written)


@cache
def _device_here(device: str) -> tuple[str, str]:
    """What a row made here would name as its device and its torch."""
    here = describe_environment(resolve_device(device))
    return here["device_name"], here["torch"]


def _pair_ids(run: SweepRun) -> set[tuple[str, str]]:
    pairs = (
        [with_memory_format(c, name).run_id() for c in (run.baseline, run.config)]
        for name in ("contiguous", "channels_last")
    )
    return {(fixed, adaptive) for fixed, adaptive in pairs}


def own_rows(run_ids: Sequence[str], root: Path) -> list[CorpusRow]:
    """Rows of a user's own runs, each beside the fixed run that is the same in all else.

    The throughput curve is measured once and kept with the runs; one of a busy machine is measured
    again the next time. Raises `UsageError` for a run that is not finished, has no fixed run of the
    same machine beside it, or whose machine is not the one the curve is of.
    """
    rows = []
    for run_id in run_ids:
        config = RunConfig.from_dict(Store(root).load(run_id).config)
        if config.scheduler == "fixed":
            raise UsageError(f"{run_id} is itself a fixed run; name the adaptive ones")
        adaptive = read_result(root / config.run_id())
        baseline = dataclasses.replace(config, scheduler="fixed", scheduler_args={})
        fixed = fixed_twin(adaptive, root) if adaptive else None
        for needed, result in ((config, adaptive), (baseline, fixed)):
            if result is None or not result.epochs:
                raise UsageError(
                    f"{run_id} needs {needed.run_id()}, which is not finished in {root}; use "
                    f"probe run {needed.model} --scheduler {needed.scheduler} and the same flags"
                )
        assert fixed is not None
        assert adaptive is not None
        require_machine(adaptive, fixed.environment)
        curve = _curve_beside(fixed, RunConfig.from_dict(fixed.config), root)
        rows.append(_make_row(config.scheduler, config, fixed, adaptive, curve))
    return list({row.pair_id: row for row in rows}.values())  # one may be named twice


def _curve_beside(fixed: RunResult, baseline: RunConfig, root: Path) -> ThroughputCurve:
    """The throughput curve of the machine that a run was made on."""
    config = with_memory_format(baseline, fixed.memory_format)
    if threads := fixed.environment.get("threads"):
        config = dataclasses.replace(config, threads=int(threads))
    path = curve_path(root, config)
    if not path.exists():
        _require_made_on(fixed, device_name(resolve_device(config.device)))
    curve = measure_curves([config], root)[path]
    _require_made_on(fixed, curve.device_name)
    return curve


def _require_made_on(run: RunResult, device: str) -> None:
    if not _made_on(run, device):
        raise UsageError(
            f"{run.run_id} was made on {run.environment.get('device_name')}, and the throughput "
            f"curve would be that of {device}; use probe corpus add on the machine of the run"
        )


def _make_row(
    arm: str, config: RunConfig, fixed: RunResult, adaptive: RunResult, curve: ThroughputCurve
) -> CorpusRow:
    return make_row(
        fixed,
        adaptive,
        curve,
        arm=arm,
        size=_size(config.model, config.data, config.data_dir, config.img_size),
        max_batch_size=largest_batch_size(config, fixed.num_train),
    )


@cache
def _size(model: str, data: str, data_dir: str | None, img_size: int | None) -> ModelSize:
    # A few images tell their shape and the number of classes as well as all of them.
    dataset = load_dataset(data, data_dir=data_dir, img_size=img_size, limit=1000)
    height, width = dataset.train_images.shape[-2:]
    made = make_model(model, num_classes=dataset.num_classes, img_size=width)
    return model_size(made, img_size=width, height=height)
