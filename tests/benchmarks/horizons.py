"""What came of runs cut to several lengths, and what the shipped corpus would have told of each.

    python -m tests.benchmarks.horizons data/sweeps/independent.csv [--arm deba] [--json]

Takes any rows of `probe corpus build`. A row is told as a prediction is: by the shipped rows cut to
its length, and not at all where it is unlike them. Rows of another schedule than the one which
predictions speak of are only described.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from predictor.corpus import END_EPOCHS, CorpusRow, load_corpus
from predictor.examples import case_of, finished, is_deba, learned
from predictor.fitted import fitted_predictor
from predictor.horizon import can_be_cut, rows_for
from predictor.horizon_scores import HORIZONS
from predictor.prediction import predict_cases
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS


def describe(rows: Sequence[CorpusRow]) -> dict[str, float]:
    """Shares and means over rows of one length."""

    def lost(deltas_pp: Sequence[float]) -> float:
        return float(np.mean([metrics.loses_accuracy(d, DEFAULT_LIMITS) for d in deltas_pp]))

    averaged = [
        100
        * (np.mean(r.adaptive_accuracies[-END_EPOCHS:]) - np.mean(r.fixed_accuracies[-END_EPOCHS:]))
        for r in rows
    ]
    return {
        "rows": len(rows),
        "saved_pct": float(np.mean([r.curve_saved_pct for r in rows])),
        "measured_saved_pct": float(np.mean([r.time_saved_pct for r in rows])),
        "points": float(np.mean([r.accuracy_delta_pp for r in rows])),
        "lost": lost([r.accuracy_delta_pp for r in rows]),
        "lost_averaged": lost(averaged),
        "benefit": float(np.mean([r.benefit_class(DEFAULT_LIMITS) == "benefits" for r in rows])),
    }


def tell(rows: Sequence[CorpusRow], epochs: int) -> dict[str, Any]:
    """What would have been told of rows of one length, and how much of it was right."""
    fitted = fitted_predictor(epochs=epochs)
    errors, inside, said, reasons = [], [], [], {}
    for row in rows:
        prediction = predict_cases([case_of(row)], vars(row), fitted, busy=row.curve_busy)
        errors.append(abs(prediction.time_saved_pct - row.time_saved_pct))
        if prediction.time_saved_interval_pct is not None:
            low, high = prediction.time_saved_interval_pct
            inside.append(low <= row.time_saved_pct <= high)
        said.append((prediction.verdict, row.benefit_class(DEFAULT_LIMITS) == "benefits"))
        reasons[f"{row.model} {row.data} {row.seed}"] = f"{prediction.verdict}: {prediction.reason}"
    return {
        "error": float(np.mean(errors)),
        "intervals": len(inside),
        "inside": int(sum(inside)),
        "adapt": sum(verdict == "adapt" for verdict, _ in said),
        "adapt_right": said.count(("adapt", True)),
        "keep_fixed": sum(verdict == "keep_fixed" for verdict, _ in said),
        "keep_fixed_right": said.count(("keep_fixed", False)),
        "reasons": reasons,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--arm", default="deba")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kept = [
        r
        for r in load_corpus(args.rows)
        if r.arm == args.arm and finished(r) and learned(r) and can_be_cut(r)
    ]
    longest = min(r.epochs for r in kept)
    found: dict[int, dict[str, Any]] = {}
    for epochs in sorted({n for n in HORIZONS if n < longest} | {longest}):
        cut = rows_for(kept, epochs)
        found[epochs] = describe(cut)
        if all(map(is_deba, cut)):
            found[epochs] |= tell(cut, epochs)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print("epochs rows saved  points  lost (mean of 5) benefit | time error inside  adapt  keep")
    for epochs, f in found.items():
        line = (
            f"{epochs:6}{f['rows']:5}{f['saved_pct']:6.0f}{f['points']:+8.1f}{f['lost']:6.2f}"
            f"{f['lost_averaged']:12.2f}{f['benefit']:8.2f}"
        )
        if "error" in f:
            line += (
                f" |{f['error']:11.1f}{f['inside']:4}/{f['intervals']}"
                f"{f['adapt_right']:5}/{f['adapt']}{f['keep_fixed_right']:4}/{f['keep_fixed']}"
            )
        print(line)


if __name__ == "__main__":
    main()
