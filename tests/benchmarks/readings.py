"""Readings of DEBA against what the paper reports, in full runs and on stored profiles.

    probe sweep data/sweeps/readings.toml --jobs 2 -o runs
    python -m tests.benchmarks.readings data/sweeps/readings.toml -o runs [--json]

The paper reports 36 to 62 % less time for most nets, growth dominating, rollback rare. The reading
with the largest share of runs in that range is the nearest; rollbacks per increase come second.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stability_probe.config import RunConfig
from stability_probe.metrics import path_time_s, saved_pct
from stability_probe.paired import compare_runs
from stability_probe.records import RunResult, ThroughputCurve
from stability_probe.replay import replay_policy
from stability_probe.schedulers.deba import READINGS
from stability_probe.store import read_result
from stability_probe.sweep import load_sweep, stored_curve, with_memory_format

REPORTED = (36.0, 62.0)
"""Percent of the time saved for most nets (arXiv 2511.03809, abstract)."""


def collect(sweep: Path, root: Path) -> dict[str, Any]:
    """One entry a reading, from the finished runs of the sweep."""
    fixed: dict[tuple[str, str, int], RunResult] = {}
    adaptive: dict[str, list[tuple[RunResult, ThroughputCurve]]] = defaultdict(list)
    for planned in load_sweep(sweep):
        config, curve = planned.config, stored_curve(planned, root)
        if curve is None:
            continue
        result = read_result(root / with_memory_format(config, curve.memory_format).run_id())
        if result is None:
            continue
        if config.scheduler == "fixed":
            fixed[_pair(config)] = result
        else:
            reading = str(config.scheduler_args["reading"])
            adaptive[reading].append((result, curve))
    return {name: _reading(adaptive[name], fixed, name) for name in READINGS if adaptive[name]}


def _pair(config: RunConfig) -> tuple[str, str, int]:
    return config.model, config.data, config.seed


def _reading(
    runs: Sequence[tuple[RunResult, ThroughputCurve]],
    fixed: dict[tuple[str, str, int], RunResult],
    name: str,
) -> dict[str, Any]:
    pairs = [(fixed[_pair(RunConfig.from_dict(r.config))], r, c) for r, c in runs]
    outcomes = [compare_runs(base, run) for base, run, _ in pairs]
    saved = np.array([o.time_saved_pct for o in outcomes])
    by_curve = np.array(
        [
            saved_pct(*(path_time_s(c, r.batch_sizes, r.num_train) for r in (run, base)))
            for base, run, c in pairs
        ]
    )
    delta = np.array([o.accuracy_delta_pp for o in outcomes])
    rehearsed = [
        d for base in fixed.values() for d in replay_policy(base, "deba", {"reading": name})
    ]
    low, high = REPORTED
    return {
        "runs": len(runs),
        "saved_pct": [float(saved.mean()), float(saved.std(ddof=1))],
        "curve_saved_pct": [float(by_curve.mean()), float(by_curve.std(ddof=1))],
        "within_reported": int(((saved >= low) & (saved <= high)).sum()),
        "curve_within_reported": int(((by_curve >= low) & (by_curve <= high)).sum()),
        "accuracy_delta_pp": [float(delta.mean()), float(delta.std(ddof=1))],
        "increases": sum(e.action == "increase" for _, r, _ in pairs for e in r.epochs),
        "rollbacks": sum(e.action == "rollback" for _, r, _ in pairs for e in r.epochs),
        "runs_with_rollback": sum(
            any(e.action == "rollback" for e in r.epochs) for _, r, _ in pairs
        ),
        "rehearsed_increases": sum(d.action == "increase" for d in rehearsed),
        "rehearsed_rollbacks": sum(d.action == "rollback" for d in rehearsed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="readings of DEBA against the reported behaviour")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("probe-runs"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = collect(options.sweep, options.output)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(
        "reading  runs  saved %      in 36-62  by curve     in 36-62  up/down  runs down"
        "  points      rehearsed up/down"
    )
    for name, r in found.items():
        print(
            f"{name:9}{r['runs']:4}  {_spread(r['saved_pct'], 1):11}  {r['within_reported']:8}  "
            f"{_spread(r['curve_saved_pct'], 1):11}  {r['curve_within_reported']:8}  "
            f"{r['increases']:3}/{r['rollbacks']:<3}  {r['runs_with_rollback']:9}  "
            f"{_spread(r['accuracy_delta_pp'], 2):10}  "
            f"{r['rehearsed_increases']}/{r['rehearsed_rollbacks']}"
        )


def _spread(value: Sequence[float], digits: int) -> str:
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


if __name__ == "__main__":
    main()
