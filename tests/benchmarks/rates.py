"""What came of the corpus's runs at a decaying rate beside those at a constant rate.

    python -m tests.benchmarks.rates [--json]

Each row is set beside that of the same model, data, seed and schedule at a constant rate, cut to
its length; rows without one are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from predictor import bootstrap
from predictor.corpus import CorpusRow, load_corpus
from predictor.examples import finished, in_order, learned
from predictor.horizon import can_be_cut, first_epochs
from predictor.scores import Score
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS

Pair = tuple[CorpusRow, CorpusRow]
"""At a decaying rate, and at a constant one."""


def pairs_of(rows: Sequence[CorpusRow]) -> list[Pair]:
    """Each row at a decaying rate, both runs of which finished, beside the one at a constant."""
    known = {_key(r): r for r in rows if r.lr_schedule == "fixed"}
    pairs = []
    for row in in_order(r for r in rows if finished(r) and learned(r)):
        beside = known.get(_key(row))
        if row.lr_schedule == "fixed" or beside is None or beside.epochs < row.epochs:
            continue
        if beside.epochs > row.epochs and not can_be_cut(beside):
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
        }
        for name, rows in zip(("decaying", "constant"), zip(*pairs, strict=True), strict=True)
    }
    deltas = [a.accuracy_delta_pp - b.accuracy_delta_pp for a, b in pairs]
    return {"pairs": len(pairs), **sides, "difference_pp": told(deltas)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    groups: dict[tuple[str, int, str], list[Pair]] = {}
    for pair in pairs_of(load_corpus()):
        row = pair[0]
        groups.setdefault((row.lr_schedule, row.epochs, row.arm), []).append(pair)
    found = {" ".join(map(str, key)): describe(pairs) for key, pairs in sorted(groups.items())}
    if args.json:
        print(json.dumps(found, indent=2, default=asdict))
        return
    print("rate, epochs, arm pairs rate      saved %          points             lost  difference")
    for name, f in found.items():
        for side in ("decaying", "constant"):
            told, first = f[side], side == "decaying"
            print(
                f"{name if first else '':18}{f['pairs'] if first else '':5} {side:10}"
                f"{_words(told['saved_pct'], 0):15}  {_words(told['points'], 1, '+'):17}"
                f"{told['lost'].value:6.2f}"
                + (f"  {_words(f['difference_pp'], 1, '+')}" if first else "")
            )


def _words(score: Score, digits: int, sign: str = "-") -> str:
    value, low, high = (f"{v:{sign}.{digits}f}" for v in (score.value, score.low, score.high))
    return f"{value} [{low},{high}]"


def _key(row: CorpusRow) -> tuple[object, ...]:
    return row.model, row.data, row.seed, row.arm, row.num_train, row.num_test


if __name__ == "__main__":
    main()
