"""Whether a corpus bears out a verdict: the predictor beside the base rate, families held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.candidates import BASELINES
from predictor.decide import ADAPT_PROBABILITY, KEEP_PROBABILITY, too_little_headroom
from predictor.examples import Example, families
from predictor.held_out import Refits
from predictor.physical import Estimates
from predictor.recipe import Recipe, words_of
from predictor.scores import Score, squared_error

FEWEST_ALIKE = math.ceil(math.log(0.05) / math.log(ADAPT_PROBABILITY))
"""Families that are all alike bound the share of others by a verdict's probability, with 95 %
confidence, only when they are so many: drawing them again would show no spread at all."""


def brier(told: Estimates, examples: Sequence[Example]) -> float:
    """Mean squared error of the probability of benefit, as `squared_errors`."""
    return float(squared_errors(told, examples).mean())


def squared_errors(told: Estimates, examples: Sequence[Example]) -> NDArray[np.float64]:
    """Of the probability of benefit, one an example: the mean over the run's last epochs, had it
    stopped there."""
    errors: NDArray[np.float64] = squared_error(
        told.probability_of_benefit, benefit_shares(examples)
    )
    return errors


def no_skill(chosen: Refits) -> str | None:
    """Why the corpus bears out no verdict, None when it does.

    A probability that is no better on held-out families than the share of benefits among the
    others says nothing about the model at hand. Better means by more than another draw of
    families would undo. Where the device has no headroom no schedule pays off, which needs no
    predictor and is no credit to one: such rows do not count.

    Where nothing needs to be told apart, one verdict is left; see `only_verdict`.
    """
    if len(set(chosen.family[with_headroom(chosen)])) < 2:
        return "too many models of the corpus have too little headroom to tell who benefits"
    mine, base, better = _beside_base_rate(chosen)
    if better.high < 0 or only_verdict(chosen):
        return None
    no = "not surely" if mine < base else "no"
    return (
        f"on families held out the prediction is {no} better than the base rate "
        f"(Brier score {mine:.3f} against {base:.3f})"
    )


def only_verdict(chosen: Refits) -> str | None:
    """The one verdict that is left to a predictor without skill; None where there is none.

    Nearly all rows with headroom benefit, or hardly any, whichever families are drawn: then the
    share alone is an answer, unless the prediction is surely worse than it. Needs
    `FEWEST_ALIKE` families.
    """
    told = verdict_by_share(chosen)
    if told is None:
        return None
    better = _beside_base_rate(chosen)[-1]
    return told if better.low <= 0 <= better.high else None


def verdict_by_share(chosen: Refits) -> str | None:
    """What the share of benefits alone would answer to all, whichever families are drawn."""
    share = share_of_benefits(chosen)
    if share is None or len(set(chosen.family[with_headroom(chosen)])) < FEWEST_ALIKE:
        return None
    if share.low >= ADAPT_PROBABILITY:
        return "adapt"
    return "keep_fixed" if share.high <= KEEP_PROBABILITY else None


def with_headroom(chosen: Refits) -> NDArray[np.bool_]:
    """Which examples have headroom enough for a schedule to pay off."""
    return np.array([too_little_headroom(e.case, e.limits) is None for e in chosen.examples])


def share_of_benefits(chosen: Refits) -> Score | None:
    """Among the examples with headroom, and how it varies as families are drawn again."""
    open_ = with_headroom(chosen)
    if not open_.any():
        return None
    drawn = bootstrap.draw(chosen.family[open_].tolist())
    return bootstrap.mean_score(benefit_shares(chosen.examples)[open_], drawn)


def _beside_base_rate(chosen: Refits) -> tuple[float, float, Score]:
    """Brier score of the chosen candidate and of the share of benefits among the other families,
    and their difference; all of examples with headroom, which are of two families at least."""
    open_ = with_headroom(chosen)
    mine = squared_errors(chosen.leave_one_out(), chosen.examples)[open_]
    base = errors_of_base_rate(chosen)[open_]
    drawn = bootstrap.draw(chosen.family[open_].tolist())
    # What differs by the rounding of a sum is neither better nor worse.
    better = bootstrap.mean_score(np.round(mine - base, 12), drawn)
    assert better is not None
    return float(mine.mean()), float(base.mean()), better


def errors_of_base_rate(chosen: Refits) -> NDArray[np.float64]:
    """Of the share of benefits among the other families with headroom, as `squared_errors`; nan for
    examples without."""
    open_ = with_headroom(chosen)
    examples = [e for e, counts in zip(chosen.examples, open_, strict=True) if counts]
    rate = Refits(BASELINES["majority"], examples)
    errors = np.full(len(open_), np.nan)
    errors[open_] = squared_errors(rate.leave_one_out(), examples)
    return errors


def describe(chosen: Refits, recipe: Recipe, *, verdicts: bool) -> str:
    """What a prediction rests on, runs of this recipe, in a sentence for every one to carry.

    How often it answered rightly is told where verdicts are given: else none of the answers is.
    """
    examples = chosen.examples
    told = chosen.leave_one_out()
    by_curve, measured = (
        np.abs(told.time_saved_pct - outcomes_of(examples, name)).mean()
        for name in ("time_saved_pct", "measured_saved_pct")
    )
    right = f"{_answered_rightly(told, examples)}, " if verdicts else ""
    benefited = f", {100 * benefit_shares(examples).mean():.0f} % with a benefit; "
    if verdicts and only_verdict(chosen) and (share := share_of_benefits(chosen)):
        low, mean, high = (round(100 * s) for s in (share.low, share.value, share.high))
        benefited = f"; {mean} % of those with headroom benefited ({low} to {high}); "
    few, many = (end(e.case.epochs for e in examples) for end in (min, max))
    over = f" over {few if few == many else f'{few} to {many}'} epochs"
    over = f",{over} at {words_of(recipe, 'lr_schedule')}"
    return (
        f"{len(examples)} paired full runs of {len({e.model for e in examples})} models in "
        f"{len(families(examples))} families{over}{benefited}families held out: {right}"
        f"mean error of time saved {measured:.1f} points, {by_curve:.1f} by the throughput curve"
    )


def _answered_rightly(told: Estimates, examples: Sequence[Example]) -> str:
    answered = is_answered(told)
    told_of = f"{answered.sum()} of {len(examples)} answered"
    if answered.any():
        says, truth = told.probability_of_benefit >= ADAPT_PROBABILITY, benefits_of(examples) == 1
        right = (says == truth)[answered].sum()
        commoner = (truth == (truth.mean() >= 0.5))[answered].sum()
        told_of += f", {right} rightly (always the commoner answer: {commoner})"
    return told_of


def is_answered(told: Estimates) -> NDArray[np.bool_]:
    p = told.probability_of_benefit
    return (p >= ADAPT_PROBABILITY) | (p <= KEEP_PROBABILITY)


def benefit_shares(examples: Sequence[Example]) -> NDArray[np.float64]:
    return np.array([e.benefit_share for e in examples])


def benefits_of(examples: Sequence[Example]) -> NDArray[np.float64]:
    return np.array([e.benefits for e in examples], float)


def outcomes_of(examples: Sequence[Example], name: str) -> NDArray[np.float64]:
    return np.array([getattr(e, name) for e in examples])
