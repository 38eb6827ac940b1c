"""Would a longer window tell whether DEBA keeps the accuracy? What is known after so many epochs,
beside what a run came to.

    python -m tests.benchmarks.longer_window [ROWS.csv] [--json]

Takes any rows of `probe corpus build`, else the shipped ones. What is known is of three kinds, each
in points of test accuracy by the mean of the last three epochs:

- gain: what the fixed run has gained in the latter half of the epochs so far;
- DEBA: its lead over the fixed run so far, for which both must have been run so far;
- larger: the lead of a larger fixed batch so far, for which that must have been run.

Each is set beside the change of accuracy by the mean of the last five epochs: by rank among the
models of a data set, and as the only feature of a logistic regression that is asked about families
it never saw, beside the share of benefits among the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.candidates import BASELINES
from predictor.corpus import CorpusRow, load_corpus
from predictor.estimator import Predictor
from predictor.examples import Example, finished, learned, make_examples, usable
from predictor.held_out import Refits
from predictor.scores import Score, squared_error
from predictor.skill import benefit_shares, squared_errors

EPOCHS = (4, 10, 20, 30, 40, 50)
AVERAGED = 3
"""Epochs: a single one's accuracy moves by a point."""
DRAWS = 500
FEWEST = 3
"""Rows of a data set that have a rank."""
Known = NDArray[np.float64]
"""One number a row; nan where it is not known."""


def known_after(
    epochs: int, rows: Sequence[CorpusRow], larger: Sequence[CorpusRow | None]
) -> dict[str, Known]:
    """What is known of each row's pair, and of the larger batch beside it, after `epochs`."""

    def lead(row: CorpusRow | None) -> float:
        if row is None:
            return np.nan
        return _points(row.adaptive_accuracies, epochs) - _points(row.fixed_accuracies, epochs)

    gain = [
        _points(r.fixed_accuracies, epochs) - _points(r.fixed_accuracies, epochs // 2) for r in rows
    ]
    return {
        "gain": np.array(gain),
        "DEBA": np.array([lead(r) for r in rows]),
        "larger": np.array([lead(r) for r in larger]),
    }


def rank_with_change(
    known: Known, examples: Sequence[Example], data: Sequence[str]
) -> Score | None:
    """Spearman's correlation with the change of accuracy, mean over data sets."""
    change, sets = np.array([e.mean_end_delta_pp for e in examples]), np.array(data)

    def mean_rank(at: NDArray[np.intp]) -> float:
        groups = [at[sets[at] == name] for name in np.unique(sets)]
        ranks = [bootstrap.spearman(known[g], change[g]) for g in groups if len(g) >= FEWEST]
        told = [r for r in ranks if not np.isnan(r)]
        return float(np.mean(told)) if told else np.nan

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        everyone = np.arange(len(known))
        return np.array([mean_rank(np.repeat(everyone, w.astype(int))) for w in weights])

    return bootstrap.score(statistic, bootstrap.draw([e.family for e in examples], DRAWS))


def better_than_base_rate(known: Known, examples: Sequence[Example]) -> dict[str, Any]:
    """Brier scores on families held out, and their difference: below 0 it tells something."""
    family = np.array([e.family for e in examples])
    benefits = np.array([e.benefits for e in examples])
    told = np.empty(len(examples))
    for name in np.unique(family):
        seen = family != name
        fitted = Predictor().fit(known[seen, None], benefits[seen])
        column = list(fitted.classes_).index(True)
        told[~seen] = fitted.predict_proba(known[~seen, None])[:, column]
    errors = squared_error(told, benefit_shares(examples))
    base = squared_errors(Refits(BASELINES["majority"], examples).leave_one_out(), examples)
    return {
        "brier": float(errors.mean()),
        "base": float(base.mean()),
        "difference": bootstrap.mean_score(errors - base, bootstrap.draw(family.tolist())),
    }


def describe(rows: Sequence[CorpusRow]) -> dict[str, dict[str, Any]]:
    """By kind and epochs; of each kind the rows that have it."""
    deba = usable(rows)
    beside = {_key(r): r for r in rows if r.arm == "larger" and finished(r) and learned(r)}
    found: dict[str, dict[str, Any]] = {}
    for epochs in (n for n in EPOCHS if n < min(r.epochs for r in deba)):
        for kind, known in known_after(epochs, deba, [beside.get(_key(r)) for r in deba]).items():
            at = np.flatnonzero(~np.isnan(known))
            if not len(at):
                continue
            some = [deba[i] for i in at]
            examples = make_examples(some)
            found[f"{kind} {epochs}"] = {
                "rows": len(some),
                "rank": rank_with_change(known[at], examples, [r.data for r in some]),
                **better_than_base_rate(known[at], examples),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = describe([r for r in load_corpus(args.rows) if r.lr_schedule == "fixed"])
    if args.json:
        print(json.dumps(found, indent=2, default=asdict))
        return
    print("known  epochs rows  rank with the change  Brier  base             difference")
    for name, f in found.items():
        kind, epochs = name.split()
        print(
            f"{kind:6}{epochs:>7}{f['rows']:5}{_words(f['rank'], 2):>22}"
            f"{f['brier']:7.3f}{f['base']:6.3f}{_words(f['difference'], 3):>23}"
        )


def _points(accuracies: Sequence[float], epochs: int) -> float:
    return 100 * float(np.mean(accuracies[max(0, epochs - AVERAGED) : epochs]))


def _words(score: Score | None, digits: int) -> str:
    if score is None:
        return "-"
    value, low, high = (f"{v:+.{digits}f}" for v in (score.value, score.low, score.high))
    return f"{value} [{low},{high}]"


def _key(row: CorpusRow) -> tuple[object, ...]:
    return row.model, row.data, row.seed, row.num_train, row.epochs


if __name__ == "__main__":
    main()
