"""What came of runs at another rate schedule beside the corpus's at a constant rate.

    python -m tests.benchmarks.rates data/sweeps/cosine-20.csv [--json]

Takes rows of `probe corpus build`. Each is set beside the shipped row of the same model, data, seed
and schedule, cut to its length; rows without one are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from predictor import bootstrap
from predictor.corpus import CorpusRow, load_corpus
from predictor.examples import finished, in_order, learned
from predictor.horizon import can_be_cut, first_epochs
from predictor.recipe import rows_of
from predictor.scores import Score
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS

Pair = tuple[CorpusRow, CorpusRow]
"""At another rate, and at a constant one."""


def pairs_of(rows: Sequence[CorpusRow], shipped: Sequence[CorpusRow]) -> list[Pair]:
    """Each row that both runs of finished beside the shipped one as long."""
    known = {_key(r): r for r in rows_of(shipped, None) if can_be_cut(r) or r.arm == "larger"}
    pairs = []
    for row in in_order(r for r in rows if finished(r) and learned(r)):
        beside = known.get(_key(row))
        if beside is None or beside.epochs < row.epochs:
            continue
        cut = beside if beside.epochs == row.epochs else first_epochs(beside, row.epochs)
        if finished(cut) and learned(cut):
            pairs.append((row, cut))
    return pairs


def describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Means over the pairs; the difference with its interval over families."""
    drawn = bootstrap.draw([row.family for row, _ in pairs])

    def told(values: Sequence[float]) -> Score | None:
        return bootstrap.mean_score(np.array(values, float), drawn)

    sides = {
        name: {
            "saved_pct": told([r.curve_saved_pct for r in rows]),
            "points": told([r.accuracy_delta_pp for r in rows]),
            "lost": told(
                [metrics.loses_accuracy(r.accuracy_delta_pp, DEFAULT_LIMITS) for r in rows]
            ),
            "fixed_accuracy_pct": told([100 * r.fixed_accuracies[-1] for r in rows]),
        }
        for name, rows in zip(("here", "constant"), zip(*pairs, strict=True), strict=True)
    }
    deltas = [a.accuracy_delta_pp - b.accuracy_delta_pp for a, b in pairs]
    return {"pairs": len(pairs), **sides, "difference_pp": told(deltas)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    pairs = pairs_of(load_corpus(args.rows), load_corpus())
    found = {
        arm: describe([p for p in pairs if p[0].arm == arm])
        for arm in sorted({row.arm for row, _ in pairs})
    }
    if args.json:
        print(json.dumps(found, indent=2, default=asdict))
        return
    print("arm    pairs rate        saved            points       lost fixed at  difference")
    for arm, f in found.items():
        for name in ("here", "constant"):
            side = f[name]
            print(
                f"{arm:7}{f['pairs']:5} {name:9}{_words(side['saved_pct'], 0):>12}"
                f"{_words(side['points'], 1, '+'):>18}{side['lost'].value:11.2f}"
                f"{side['fixed_accuracy_pct'].value:9.1f}"
                + (f"  {_words(f['difference_pp'], 1, '+')}" if name == "here" else "")
            )


def _words(score: Score, digits: int, sign: str = "-") -> str:
    value, low, high = (f"{v:{sign}.{digits}f}" for v in (score.value, score.low, score.high))
    return f"{value} [{low},{high}]"


def _key(row: CorpusRow) -> tuple[object, ...]:
    return row.model, row.data, row.seed, row.arm, row.num_train, row.num_test


if __name__ == "__main__":
    main()
