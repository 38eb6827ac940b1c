"""How the predictor's fit grows with its rows: the estimator alone, and all of `probe fit`.

    python -m tests.benchmarks.fit [--rows 100000] [--corpus-rows 5000] [--json]

CPU seconds, of so many rows and of a tenth of that. The estimator's rows are random. Those of
`probe fit` are the shipped corpus over and over, each with other gradient norms, since equal
windows are rehearsed only once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from predictor.corpus import format_corpus, load_corpus
from predictor.estimator import Predictor
from predictor.features import FEATURES
from predictor.fitted import fit_predictor


def estimator_s(rows: int) -> float:
    """CPU seconds of `Predictor().fit` on random rows with a weak signal."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, len(FEATURES)))
    y = x[:, 0] + rng.standard_normal(rows) > 0
    begin = time.process_time()
    Predictor().fit(x, y)
    return time.process_time() - begin


def whole_s(rows: int, folder: Path) -> float:
    """CPU seconds of reading a corpus file and making of it all that a prediction needs."""
    shipped, rng = load_corpus(), np.random.default_rng(0)
    rng.shuffle(shipped)  # else the first rows are of one family
    many = []
    for number in range(rows):
        row = shipped[number % len(shipped)]
        norms = tuple(n * float(rng.uniform(0.9, 1.1)) for n in row.profile_grad_norms)
        many.append(dataclasses.replace(row, seed=number, profile_grad_norms=norms))
    file = folder / f"{rows}.csv"
    file.write_text(format_corpus(many))
    begin = time.process_time()
    fit_predictor([file])
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--corpus-rows", type=int, default=5_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole_s(72, Path(folder))  # imports
        told = {
            "estimator": {n: estimator_s(n) for n in (args.rows // 10, args.rows)},
            "probe fit": {
                n: whole_s(n, Path(folder)) for n in (args.corpus_rows // 10, args.corpus_rows)
            },
        }
    if args.json:
        print(json.dumps(told))
        return
    for name, seconds in told.items():
        print(f"{name}: " + ", ".join(f"{n} rows {s:.2f} CPU s" for n, s in seconds.items()))


if __name__ == "__main__":
    main()
