"""One prediction: corpus, fit, estimate, decision."""

from __future__ import annotations

from pathlib import Path

from predictor.decide import (
    decide,
    larger_fixed_batch,
    stuck,
    too_little_headroom,
    unlike_corpus,
    unlike_scale,
)
from predictor.features import make_cases
from predictor.fitted import fitted_predictor
from predictor.known_models import measured_before
from predictor.recipe import recipe_of, unlike_recipes
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, Prediction


def predict(
    c: Characterization, corpus: Path | None = None, limits: Limits = DEFAULT_LIMITS
) -> Prediction:
    """The verdict for a characterized model, from `corpus`, else the shipped and the user's rows.

    Raises `MissingError` for an unusable corpus.
    """
    fitted = fitted_predictor(corpus, limits, recipe=recipe_of(c.config), epochs=c.config["epochs"])
    cases = make_cases(c)
    told = fitted.estimates(cases)
    nothing = next(filter(None, map(stuck, cases)), None)
    if c.curve.busy:
        nothing = "the machine was busy while the throughput was measured; run it again"
    unlike = nothing or unlike_recipes(c.config, fitted.recipes)
    for case in cases:
        unlike = unlike or unlike_scale(case, fitted) or unlike_corpus(case, fitted)
    return decide(
        told,
        fitted.intervals(told, cases),
        limits=limits,
        unlike=unlike,
        no_skill=fitted.no_skill,
        only=fitted.only_verdict,
        hopeless=None if c.curve.busy else too_little_headroom(cases[0], limits),
        basis=fitted.basis,
        measured_before=measured_before(c, fitted.models, limits),
        alternative=(
            None
            if nothing
            else larger_fixed_batch(
                cases[0],
                float(told.time_saved_pct.mean()),
                limits,
                known=None if unlike else fitted.larger,
            )
        ),
    )
