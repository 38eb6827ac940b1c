"""Several arms of full runs on one model, paired by seed: run them, then set them side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np

from stability_probe import metrics, paired
from stability_probe.config import RunConfig, with_memory_format
from stability_probe.device import default_threads, resolve_device
from stability_probe.errors import RunError, UsageError
from stability_probe.executors import LocalProcesses
from stability_probe.progress import Progress
from stability_probe.records import (
    ArmOutcome,
    Claim,
    Contrast,
    Difference,
    RunResult,
    Study,
    ThroughputCurve,
)
from stability_probe.store import read_result
from stability_probe.stored import as_stored
from stability_probe.sweep import curve_path, measure_curves, run_all

_Key = TypeVar("_Key")

Results = Mapping[str, RunResult]
"""By run id."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, over all seeds."""

    name: str
    role: str
    """As in `ArmOutcome`."""
    configs: tuple[RunConfig, ...]
    """One a seed."""

    def results(self, results: Results) -> list[RunResult] | None:
        """Its runs where all are there, else None."""
        ids = [c.run_id() for c in self.configs]
        return [results[i] for i in ids] if all(i in results for i in ids) else None


def make_arm(name: str, role: str, base: RunConfig, seeds: Sequence[int], **changes: object) -> Arm:
    """An arm that differs from `base` in some settings, the same for every seed."""
    configs = tuple(
        RunConfig.from_dict({**base.to_dict(), **changes, "seed": seed}) for seed in seeds
    )
    return Arm(name=name, role=role, configs=configs)


def in_other_order(name: str, base: RunConfig, seeds: Sequence[int]) -> Arm:
    """The A/A arm: `base` with the same weights but another order of samples.

    The very same run would repeat itself to the bit on a CPU and show no noise.
    """
    configs = tuple(dataclasses.replace(base, seed=s, order_seed=1000 + s) for s in seeds)
    return Arm(name=name, role="noise", configs=configs)


def resolve_for_study(
    config: RunConfig, root: Path, jobs: int, progress: Progress
) -> tuple[RunConfig, ThroughputCurve]:
    """`config` with the memory format and the threads that all its arms share, and the throughput
    curve.

    Measured once, while nothing of the study runs, and kept in `root`. Runs that are alone have the
    threads of any `probe run`, so that one made before is of the same machine; runs at one time
    have one thread each.
    """
    threads = config.threads or (default_threads() if jobs == 1 else 1)
    config = dataclasses.replace(config, threads=threads)
    curve = measure_curves([config], root, progress)[curve_path(root, config)]
    return with_memory_format(config, curve.memory_format), curve


def check_jobs(config: RunConfig, jobs: int) -> None:
    """Raise `UsageError` where runs at one time would slow each other by the clock that a study
    compares: the wall clock, on all but a CPU."""
    device = resolve_device(config.device)
    if jobs > 1 and device.type != "cpu":
        raise UsageError(
            f"runs that share {device} slow each other, and a comparison goes by the wall clock "
            "there; use --jobs 1"
        )


def run_arms(arms: Sequence[Arm], root: Path, jobs: int, progress: Progress) -> Results:
    """Run what is not stored yet, each run in a process of its own; the results by the run ids of
    the arms, whatever each is stored under."""
    # Seed by seed, so that an interrupted study has whole pairs.
    columns = zip(*(arm.configs for arm in arms), strict=True)
    configs = {c.run_id(): as_stored(c, root) for column in columns for c in column}
    failed = run_all(list(configs.values()), root, LocalProcesses(jobs), progress)
    for run_id, reason in failed.items():
        progress.note(f"failed: {run_id}: {reason}")
    found = {run_id: read_result(root / c.run_id()) for run_id, c in configs.items()}
    return {run_id: result for run_id, result in found.items() if result is not None}


def not_finished(reference: str) -> str:
    """Why there is no study without this arm."""
    return (
        f"{reference} did not finish for every seed, and is what all else is compared with; where "
        "it diverged (see probe runs) use a smaller --lr, where it failed the reason is told above"
    )


def make_study(
    arms: Sequence[Arm],
    results: Results,
    *,
    curve: ThroughputCurve,
    reference: str,
    contrasts: Sequence[tuple[str, str, str]] = (),
    untimed: Collection[str] = (),
) -> Study:
    """Outcomes of all arms against the `reference` arm, and further (name, arm, against).

    A contrast whose arms are not there or not finished is left out. Against the arms `untimed` only
    accuracy is compared, and their time is no comparison that others are corrected for. Raises
    `RunError` when the reference did not finish, so that there is nothing to compare with.
    """
    by_name = {arm.name: arm for arm in arms}
    base = _finished(by_name[reference], results)
    if base is None:
        raise RunError(not_finished(reference))
    runs = {arm.name: done for arm in arms if (done := _finished(arm, results)) is not None}
    noise = next((runs[a.name] for a in arms if a.role == "noise" and a.name in runs), None)
    floor_time = max((abs(v) for v in _time_saved(noise, base) or ()), default=None)
    floor_accuracy = max((abs(v) for v in _accuracy_delta(noise, base)), default=None)
    tested = [n for n, arm in by_name.items() if n in runs and arm.role not in _NOT_TESTED]
    pairs = {name: (runs[name], base) for name in tested}
    differences = _differences(pairs, curve, floor_time, floor_accuracy)
    contrasted = {
        (name, arm, against): (runs[arm], runs[against])
        for name, arm, against in contrasts
        if arm in runs and against in runs
    }
    unasked = [key for key in contrasted if key[2] in untimed]
    contrast_differences = _differences(contrasted, curve, floor_time, floor_accuracy, unasked)
    first = by_name[reference].configs
    return Study(
        config=first[0].to_dict(),
        seeds=tuple(c.seed for c in first),
        reference=reference,
        clock=paired.clock_of(base[0]),
        environment=dict(base[0].environment),
        curve=curve,
        noise_time_pct=floor_time,
        noise_accuracy_pp=floor_accuracy,
        detectable_sd=paired.detectable_sd(len(base), len(set(_first_alike(pairs).values()))),
        arms=tuple(_outcome(arm, results, base, differences.get(arm.name)) for arm in arms),
        contrasts=tuple(
            Contrast(name=name, arm=arm, against=other, **found)
            for (name, arm, other), found in contrast_differences.items()
        ),
        claims=(),
        advice="",
        machines=tuple(
            dict.fromkeys(paired.machine_of(r.environment) for done in runs.values() for r in done)
        ),
    )


def concluded(study: Study, advice: str, claims: Sequence[Claim] = ()) -> Study:
    """`study` with what follows from it."""
    return dataclasses.replace(study, advice=advice, claims=tuple(claims))


_NOT_TESTED = ("reference", "noise")


class _Differences(TypedDict):
    """Fields of `ArmOutcome` and `Contrast`."""

    time_saved_pct: Difference | None
    curve_saved_pct: Difference | None
    accuracy_delta_pp: Difference


def _finished(arm: Arm, results: Results) -> list[RunResult] | None:
    runs = arm.results(results)
    return runs if runs and all(r.status == "finished" for r in runs) else None


def _differences(
    pairs: Mapping[_Key, tuple[list[RunResult], list[RunResult]]],
    curve: ThroughputCurve,
    floor_time: float | None,
    floor_accuracy: float | None,
    untimed: Collection[_Key] = (),
) -> dict[_Key, _Differences]:
    """The differences of each pair by field name, each corrected for the number of pairs; arms that
    come to the same runs are one.

    None for the time of pairs whose runs are of two machines, and for both times of the `untimed`.
    """
    same = _first_alike(pairs)
    pairs = {key: pairs[key] for key in same.values()}
    timed = {key: pair for key, pair in pairs.items() if key not in untimed}
    saved = {key: _time_saved(runs, base) for key, (runs, base) in timed.items()}
    measured = {key: values for key, values in saved.items() if values is not None}
    told = paired.differences([*measured.values()], _log_ratios([*measured.values()]), floor_time)
    times = dict(zip(measured, told, strict=True))
    by_curve = [_curve_saved(runs, base, curve) for runs, base in timed.values()]
    deltas = [_accuracy_delta(runs, base) for runs, base in pairs.values()]
    # Read off the batch sizes: there is no noise in it that a repeat would show.
    told = paired.differences(by_curve, _log_ratios(by_curve), None)
    curves = dict(zip(timed, told, strict=True))
    fewest = min((r.num_test for _, base in pairs.values() for r in base), default=0)
    step = 100 / fewest if fewest else 0.0
    accuracies = paired.differences(deltas, deltas, floor_accuracy, step)
    told_of = {
        key: _Differences(
            time_saved_pct=times.get(key),
            curve_saved_pct=curves.get(key),
            accuracy_delta_pp=accuracy,
        )
        for key, accuracy in zip(pairs, accuracies, strict=True)
    }
    return {key: told_of[first] for key, first in same.items()}


def _first_alike(
    pairs: Mapping[_Key, tuple[list[RunResult], list[RunResult]]],
) -> dict[_Key, _Key]:
    """For each pair the first that is of the same runs: where DEBA's average is twice the batch,
    its control is the arm of twice the batch."""
    first: dict[tuple[str, ...], _Key] = {}
    return {
        key: first.setdefault(tuple(r.run_id for r in (*runs, *base)), key)
        for key, (runs, base) in pairs.items()
    }


def _log_ratios(saved: Sequence[Sequence[float]]) -> list[list[float]]:
    """Logarithms of time ratios, which are symmetric: what the test looks at."""
    return [[math.log(1 - value / 100) for value in values] for values in saved]


def _curve_saved(
    runs: list[RunResult], base: list[RunResult], curve: ThroughputCurve
) -> list[float]:
    def seconds(run: RunResult) -> float:
        return float(metrics.path_time_s(curve, run.batch_sizes, run.num_train))

    return [metrics.saved_pct(seconds(r), seconds(b)) for r, b in zip(runs, base, strict=True)]


def _time_saved(runs: list[RunResult] | None, base: list[RunResult]) -> list[float] | None:
    """By the clock of each pair; None where there is nothing that can be compared."""
    if runs is None or not all(map(paired.same_machine, runs, base)):
        return None
    return [metrics.saved_pct(_seconds(r), _seconds(b)) for r, b in zip(runs, base, strict=True)]


def _seconds(run: RunResult) -> float:
    return float(getattr(run, paired.clock_of(run)))


def _accuracy_delta(runs: list[RunResult] | None, base: list[RunResult]) -> list[float]:
    if runs is None:
        return []
    return [
        metrics.accuracy_delta_pp(r.final_accuracy, b.final_accuracy)
        for r, b in zip(runs, base, strict=True)
    ]


def _outcome(
    arm: Arm,
    results: Results,
    base: list[RunResult],
    differences: _Differences | None,
) -> ArmOutcome:
    found = arm.results(results)
    ids = tuple(r.run_id for r in found) if found else tuple(c.run_id() for c in arm.configs)
    runs = _finished(arm, results)
    if runs is None:
        return ArmOutcome(
            name=arm.name,
            role=arm.role,
            run_ids=ids,
            status="failed" if found is None else "diverged",
            time_s=None,
            accuracy=None,
            updates=None,
            samples=None,
            mean_batch_size=None,
            peak_memory_bytes=None,
            time_to_target_s=(),
            time_saved_pct=None,
            curve_saved_pct=None,
            accuracy_delta_pp=None,
        )
    to_target = [
        paired.time_to_target_s(r, paired.target_accuracy(b))
        for r, b in zip(runs, base, strict=True)
    ]
    peaks = [r.peak_memory_bytes for r in runs]
    known = [peak for peak in peaks if peak is not None]
    return ArmOutcome(
        name=arm.name,
        role=arm.role,
        run_ids=ids,
        status="finished",
        time_s=metrics.mean_std([_seconds(r) for r in runs]),
        accuracy=metrics.mean_std([r.final_accuracy for r in runs]),
        updates=float(np.mean([r.updates for r in runs])),
        samples=float(np.mean([r.samples for r in runs])),
        mean_batch_size=float(np.mean([np.mean(r.batch_sizes) for r in runs])),
        peak_memory_bytes=max(known) if len(known) == len(peaks) else None,
        time_to_target_s=tuple(s if math.isfinite(s) else None for s in to_target),
        time_saved_pct=differences["time_saved_pct"] if differences else None,
        curve_saved_pct=differences["curve_saved_pct"] if differences else None,
        accuracy_delta_pp=differences["accuracy_delta_pp"] if differences else None,
    )
