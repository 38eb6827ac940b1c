"""One prediction: corpus, fit, estimate, decision."""

from __future__ import annotations

from pathlib import Path

from predictor.corpus import load_corpus, load_known
from predictor.decide import (
    Intervals,
    decide,
    larger_fixed_batch,
    too_little_headroom,
    unlike_corpus,
    unlike_recipe,
    unlike_scale,
)
from predictor.estimator import feature_range, fit, half_widths, leave_one_family_out, usable
from predictor.evaluate import describe, evaluate, no_skill
from predictor.features import make_cases
from stability_probe.records import Characterization, Prediction


def predict(c: Characterization, corpus: Path | None = None) -> Prediction:
    """The verdict for a characterized model, from `corpus`, else the shipped and the user's rows.

    Raises `MissingError` for an unusable corpus.
    """
    rows = usable(load_corpus(corpus) if corpus else load_known())
    fitted = fit(rows)
    cases = make_cases(c)
    estimates = [fitted.estimate(case) for case in cases]
    held_out = leave_one_family_out(rows)
    time_half, delta_half = half_widths(rows, held_out)
    known = feature_range(rows)
    unlike = unlike_recipe(rows, c.config["optimizer"], c.config["lr_schedule"])
    if c.curve.busy:
        unlike = "the machine was busy while the throughput was measured; run it again"
    for case in cases:
        unlike = unlike or unlike_scale(case, rows) or unlike_corpus(case, known)
    scores = evaluate(rows, held_out, nested=False)
    unlike = unlike or no_skill(scores)
    time_saved = sum(e.time_saved_pct for e in estimates) / len(estimates)
    return decide(
        estimates,
        Intervals(time_saved_pct=time_half, accuracy_delta_pp=delta_half),
        unlike=unlike,
        hopeless=None if c.curve.busy else too_little_headroom(cases[0]),
        basis=describe(scores),
        alternative=larger_fixed_batch(cases[0], time_saved),
    )
