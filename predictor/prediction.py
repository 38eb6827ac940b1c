"""One prediction: corpus, fit, estimate, decision."""

from __future__ import annotations

from pathlib import Path

from predictor.candidates import CANDIDATES, CHOSEN, Estimates
from predictor.corpus import load_corpus, load_known
from predictor.decide import (
    decide,
    larger_fixed_batch,
    too_little_headroom,
    unlike_corpus,
    unlike_recipe,
    unlike_scale,
)
from predictor.evaluate import describe, no_skill
from predictor.examples import make_examples, usable
from predictor.features import feature_range, make_cases
from predictor.held_out import Refits, intervals
from stability_probe.errors import MissingError
from stability_probe.records import Characterization, Prediction


def predict(c: Characterization, corpus: Path | None = None) -> Prediction:
    """The verdict for a characterized model, from `corpus`, else the shipped and the user's rows.

    Raises `MissingError` for an unusable corpus.
    """
    rows = usable(load_corpus(corpus) if corpus else load_known())
    if not rows:
        raise MissingError("the corpus holds no finished pair of runs; use another corpus")
    examples, cases = make_examples(rows), make_cases(c)
    refits = Refits(CANDIDATES[CHOSEN], examples, cases)
    at = range(len(examples), len(examples) + len(cases))
    told = refits.without()
    estimates = Estimates(**{name: values[at] for name, values in vars(told).items()})
    unlike = unlike_recipe(rows, c.config["optimizer"], c.config["lr_schedule"])
    if c.curve.busy:
        unlike = "the machine was busy while the throughput was measured; run it again"
    known = feature_range([e.case for e in examples])
    for case in cases:
        unlike = unlike or unlike_scale(case, rows) or unlike_corpus(case, known)
    return decide(
        estimates,
        intervals(refits, at),
        unlike=unlike or no_skill(refits),
        hopeless=None if c.curve.busy else too_little_headroom(cases[0]),
        basis=describe(refits, len({r.model for r in rows})),
        alternative=larger_fixed_batch(cases[0], float(estimates.time_saved_pct.mean())),
    )
