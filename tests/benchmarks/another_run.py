"""Does what DEBA did in one pair of runs tell what it does in another of the same model?

    python -m tests.benchmarks.another_run [--json]

Each pair of the shipped corpus at a constant rate is told by other pairs: of the same model and
data with another seed, of the same model on other data, of other models of its family. Their mean
counts by their number, that of all other families as one more pair, and stands alone as the base.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.corpus import CorpusRow, load_corpus
from predictor.examples import make_examples, usable
from predictor.scores import squared_error
from predictor.skill import benefit_shares

KINDS: dict[str, Callable[[CorpusRow, CorpusRow], bool]] = {
    "another seed": lambda a, b: (a.model, a.data) == (b.model, b.data) and a.seed != b.seed,
    "other data": lambda a, b: a.model == b.model and a.data != b.data,
    "family": lambda a, b: a.family == b.family and a.model != b.model,
}
"""Which pair may tell of which."""


def describe(rows: Sequence[CorpusRow]) -> dict[str, dict[str, Any]]:
    """By kind: errors of the probability of benefit and of the change of accuracy, less those of
    the base; below 0 it tells something. Of pairs that have another one of the kind."""
    examples = make_examples(rows)
    share = benefit_shares(examples)
    change = np.array([e.mean_end_delta_pp for e in examples])
    family = np.array([e.family for e in examples])
    found = {}
    for name, may_tell in KINDS.items():
        telling = np.array([[may_tell(other, row) for other in rows] for row in rows])
        at = np.flatnonzero(telling.any(axis=1))
        if not len(at):
            continue
        drawn = bootstrap.draw(family[at].tolist())
        told = {
            key: _told(values, telling[at], family, family[at])
            for key, values in (("share", share), ("change", change))
        }
        brier, brier_base = (squared_error(p, share[at]) for p in told["share"])
        error, error_base = (np.abs(d - change[at]) for d in told["change"])
        others = (telling[at] @ change) / telling[at].sum(axis=1)
        found[name] = {
            "pairs": len(at),
            "correlation": float(np.corrcoef(others, change[at])[0, 1]),
            "brier": float(brier.mean()),
            "brier_base": float(brier_base.mean()),
            "brier_difference": bootstrap.mean_score(brier - brier_base, drawn),
            "error_pp": float(error.mean()),
            "error_base_pp": float(error_base.mean()),
            "error_difference_pp": bootstrap.mean_score(error - error_base, drawn),
        }
    return found


def _told(
    values: NDArray[np.float64],
    telling: NDArray[np.bool_],
    family: NDArray[np.str_],
    asked: NDArray[np.str_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By the telling pairs and the base as one more, and by the base alone, [num_asked]."""
    base = np.array([values[family != name].mean() for name in asked])
    return (telling @ values + base) / (telling.sum(axis=1) + 1), base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = describe([r for r in usable(load_corpus()) if r.lr_schedule == "fixed"])
    if args.json:
        print(json.dumps(found, indent=2, default=asdict))
        return
    print("told by     pairs   r   Brier  base          difference  points base     difference")
    for name, f in found.items():
        brier, points = (
            f"{s.value:+.{n}f} [{s.low:+.{n}f},{s.high:+.{n}f}]"
            for s, n in ((f["brier_difference"], 3), (f["error_difference_pp"], 1))
        )
        print(
            f"{name:12}{f['pairs']:5}{f['correlation']:6.2f}{f['brier']:7.3f}{f['brier_base']:6.3f}"
            f"{brier:>23}{f['error_pp']:5.1f}{f['error_base_pp']:5.1f}{points:>18}"
        )


if __name__ == "__main__":
    main()
