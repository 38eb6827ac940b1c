"""Runs that share a seed, set side by side: outcomes, differences, and which exceed the noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stability_probe import metrics
from stability_probe.errors import UsageError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Comparison, Difference, RunResult

ALPHA = 0.05
"""Chance of calling one of a family of differences real when none is."""
EQUIVALENCE_LEVEL = 0.90
"""Level of the intervals of two one-sided tests at 5 %."""
_THEN = ", then "
"""Between the machines of a run that went on elsewhere."""


def clock_of(result: RunResult) -> str:
    """The field of an epoch that a comparison trusts.

    CPU seconds on a CPU, since on a shared one the wall clock measures the neighbours; the wall
    clock elsewhere.
    """
    return "cpu_s" if result.device == "cpu" else "time_s"


def machine_of(environment: Mapping[str, str]) -> str:
    """What the seconds of a run belong to, in words: they do not compare with those of another.

    The card, or the processor and its threads; the version of torch; the number of processes. Of a
    run that went on elsewhere, all of its machines in turn.

    >>> machine_of({"device_name": "AMD EPYC", "threads": "1", "torch": "2.14.1+cu130"})
    'AMD EPYC, 1 thread, torch 2.14.1+cu130'
    """
    if "machines" in environment:
        return environment["machines"]
    threads, processes = environment.get("threads"), environment.get("processes")
    parts = [environment.get("device_name")]
    if threads and not environment.get("cuda"):  # they feed a card, they do not train
        parts.append(f"{threads} thread" + ("" if threads == "1" else "s"))
    if environment.get("torch"):
        parts.append(f"torch {environment['torch']}")
    if processes:
        parts.append(f"{processes} processes")
    return ", ".join(part for part in parts if part)


def whole_environment(stretches: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The environment of a run that was made in these, at least one, in turn: that of the last,
    with the names of all its machines."""
    names = [name for name, _ in itertools.groupby(e["device_name"] for e in stretches)]
    environment = {**stretches[-1], "device_name": _THEN.join(names)}
    if len(stretches) > 1:
        environment["machines"] = _THEN.join(map(machine_of, stretches))
    return environment


def same_machine(one: RunResult, other: RunResult) -> bool:
    """Whether the seconds of two runs can be compared; those of a run on several machines never."""
    machine = machine_of(one.environment)
    return machine == machine_of(other.environment) and _THEN not in machine


def require_machine(run: RunResult, environment: Mapping[str, str]) -> None:
    """Raises `UsageError` for a run of another machine than `environment` tells of, or several."""
    there, here = machine_of(run.environment), machine_of(environment)
    several = _THEN in there
    if there != here or several:
        what = "one machine after another" if several else "another machine"
        instead = "another -o to run all on one"
        threads = run.environment.get("threads", "")
        if not several and there == machine_of({**environment, "threads": threads}):
            what, instead = "another number of threads", f"--threads {threads}, or another -o"
        raise UsageError(
            f"{run.run_id} is a run of {what} ({there}; here {here}), so that no time "
            f"compares with its own; use {instead}"
        )


def target_accuracy(fixed: RunResult) -> float:
    """What a run must reach to count as good as the fixed one: a fraction."""
    return fixed.final_accuracy - metrics.TARGET_MARGIN_PP / 100


def time_to_target_s(run: RunResult, target: float) -> float:
    """Training seconds until `target` is first reached; infinite on a miss."""
    clock = clock_of(run)
    return metrics.time_to_target_s(
        [e.test_accuracy for e in run.epochs], [getattr(e, clock) for e in run.epochs], target
    )


def compare_runs(
    fixed: RunResult, adaptive: RunResult, limits: Limits = DEFAULT_LIMITS
) -> Comparison:
    """The paired outcome of two finished runs.

    Raises `UsageError` for runs of two machines.
    """
    require_machine(adaptive, fixed.environment)
    clock, target = clock_of(fixed), target_accuracy(fixed)
    time_saved = metrics.saved_pct(getattr(adaptive, clock), getattr(fixed, clock))
    delta = metrics.accuracy_delta_pp(adaptive.final_accuracy, fixed.final_accuracy)
    return Comparison(
        seed=fixed.config["seed"],
        time_saved_pct=time_saved,
        accuracy_delta_pp=delta,
        updates_saved_pct=metrics.saved_pct(adaptive.updates, fixed.updates),
        time_to_target_saved_pct=metrics.saved_pct(
            time_to_target_s(adaptive, target), time_to_target_s(fixed, target)
        ),
        benefit_class=metrics.benefit_class(time_saved, delta, limits),
        fixed_scatter_pp=metrics.accuracy_scatter_pp([e.test_accuracy for e in fixed.epochs]),
    )


def t_test(differences: Sequence[float], resolution: float = 0.0) -> float | None:
    """Two-sided p-value of a paired t-test that the mean difference is zero; None for one pair.

    What was measured in steps of `resolution` is not taken for steadier than that.

    >>> round(t_test([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    spread = _spread(values, resolution)
    if spread <= 1e-12 * np.abs(values).max():  # equal, up to rounding
        return 1.0 if values.mean() == 0 else 0.0
    from scipy import stats

    t = abs(values.mean()) * math.sqrt(len(values)) / spread
    return float(2 * stats.t.sf(t, len(values) - 1))


def _spread(values: Sequence[float] | np.ndarray[Any, Any], resolution: float) -> float:
    """Sample standard deviation, but no less than rounding alone gives.

    Each difference is of two values rounded to steps of `resolution`, and each of those is off by
    `resolution` / √12. Two seeds that differ by the same number of test samples, which happens
    by chance, would else be taken for certain.
    """
    return max(float(np.std(values, ddof=1)), resolution * math.sqrt(2 / 12))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number by Holm (Scand. J. Statist. 6, 1979); None stays None.

    >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted


def mean_interval(
    values: Sequence[float], level: float, resolution: float = 0.0
) -> tuple[float, float]:
    """Student's interval of the mean, of values known in steps of `resolution`; unbounded for a
    single one."""
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy import stats

    sem = _spread(values, resolution) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * sem
    mean = float(np.mean(values))
    return mean - half, mean + half


def detectable_sd(seeds: int, comparisons: int) -> float | None:
    """How many of its standard deviations a mean difference must measure to pass among so many,
    whatever the others do; None for a single seed.

    It is the first step of Holm's procedure: where others have passed before it, less will do, but
    never less than it takes for one comparison alone.
    """
    if seeds < 2:
        return None
    from scipy import stats

    critical = stats.t.ppf(1 - ALPHA / (2 * max(1, comparisons)), seeds - 1)
    return float(critical) / math.sqrt(seeds)


def differences(
    by_arm: Sequence[Sequence[float]],
    tested: Sequence[Sequence[float]],
    floor: float | None,
    resolution: float = 0.0,
) -> list[Difference]:
    """Mean differences of several arms with their corrected p-values.

    `by_arm` holds one value a seed for each arm, `tested` what the test looks at (logarithms of
    time ratios, say). `floor` is the largest difference between runs that differ in nothing but
    the order of samples: what does not exceed it is noise whatever the test says; None where
    no such pair was run; `resolution` the step in which the values compared are known.
    """
    adjusted = holm([t_test(values, resolution) for values in tested])
    result = []
    for values, p in zip(by_arm, adjusted, strict=True):
        mean = metrics.mean_std(values)
        beyond = p is not None and p < ALPHA and abs(mean.mean) > (floor or 0.0)
        result.append(
            Difference(
                values=tuple(values),
                mean=mean.mean,
                std=mean.std,
                p_value=p,
                larger_than_noise=beyond,
                resolution=resolution,
            )
        )
    return result
