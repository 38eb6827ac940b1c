"""One prediction: corpus, fit, estimate, decision."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from predictor.decide import decide, larger_fixed_batch, too_little_headroom
from predictor.features import Case, make_cases
from predictor.fitted import FittedPredictor, fitted_predictor
from predictor.known_models import measured_before, own_pairs
from predictor.likeness import stuck, unlike
from predictor.recipe import recipe_of, unlike_recipes
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, Prediction


def predict(
    c: Characterization,
    corpus: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    without: Collection[str] = (),
) -> Prediction:
    """The verdict for a characterized model, from `corpus`, else the shipped and the user's rows.

    `without` rows of the fixed runs of these ids: to be scored by runs, it must not know them.
    Raises `MissingError` for an unusable corpus.
    """
    recipe, epochs = recipe_of(c.config), c.config["epochs"]
    fitted = fitted_predictor(corpus, limits, recipe=recipe, epochs=epochs, without=without)
    before, own = measured_before(c, fitted.models, limits), own_pairs(c, fitted.models)
    known = fitted.knowing(own)
    return predict_cases(make_cases(c), c.config, known, busy=c.curve.busy, before=before)


def predict_cases(
    cases: Sequence[Case],
    config: Mapping[str, Any],
    fitted: FittedPredictor,
    *,
    busy: bool = False,
    before: str | None = None,
) -> Prediction:
    """The verdict for cases of one model, one a seed, run as `config` says.

    `busy` tells of the machine whose throughput was measured, `before` what is known of the model.
    """
    told, limits = fitted.estimates(cases), fitted.limits
    hung = next(filter(None, map(stuck, cases)), None)
    silent = hung or unlike_recipes(config, fitted.recipes)
    for case in cases:
        silent = silent or unlike(case, fitted.known)
    if busy:  # which another try may change, and nothing else
        noise = "the machine was busy while the throughput was measured"
        silent = f"{silent}; and {noise}" if silent else f"{noise}; run it again"
    return decide(
        told,
        fitted.intervals(told, cases),
        limits=limits,
        unlike=silent,
        no_skill=fitted.no_skill,
        only=fitted.only_verdict,
        why_only=fitted.why_only,
        # A curve of one batch needs no timing to say that none is larger.
        hopeless=(
            None
            if busy and len(cases[0].curve.points) > 1
            else too_little_headroom(cases[0], limits)
        ),
        basis=fitted.basis,
        measured_before=before,
        alternative=(
            None
            if hung or busy
            else larger_fixed_batch(
                cases[0],
                float(told.time_saved_pct.mean()),
                limits,
                known=None if silent else fitted.larger,
            )
        ),
    )
