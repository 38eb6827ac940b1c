"""The verdicts that `probe` would have given on families held out, and whether they came true."""

from __future__ import annotations

import numpy as np

from predictor.decide import ADAPT_PROBABILITY, decide, too_little_headroom
from predictor.examples import families
from predictor.held_out import Refits, nested_intervals
from predictor.likeness import case_range, stuck, unlike
from predictor.physical import Estimates, Intervals
from predictor.skill import FEWEST_ALIKE, benefits_of, no_skill, only_verdict, with_headroom


def verdicts(refits: Refits, *, checked: bool = True) -> list[str]:
    """What `probe` would have said of each example, by a corpus without its family.

    With `checked` off a corpus whose verdicts came true too seldom gives them all the same.
    """
    told, ends = refits.leave_one_out(), nested_intervals(refits)
    said = [""] * len(refits.examples)
    for family in families(refits.examples):
        others = Refits(refits.candidate, [e for e in refits.examples if e.family != family])
        silent = why_none(others) if checked else no_skill(others)
        only = only_verdict(others)
        known = case_range([e.case for e in others.examples])
        for i in np.flatnonzero(refits.family == family):
            case, limits = refits.cases[i], refits.examples[i].limits
            said[i] = decide(
                Estimates(**{name: values[[i]] for name, values in vars(told).items()}),
                Intervals(**{name: values[[i]] for name, values in vars(ends).items()}),
                unlike=stuck(case) or unlike(case, known),
                basis="",
                limits=limits,
                no_skill=silent,
                only=only,
                hopeless=too_little_headroom(case, limits),
            ).verdict
    return said


def why_none(refits: Refits) -> str | None:
    """Why the corpus bears out no verdict, None where it does: its predictor has no skill, or what
    it would have told families that it had not seen came true too seldom."""
    return no_skill(refits) or _came_true_too_seldom(refits)


def _came_true_too_seldom(refits: Refits) -> str | None:
    """A share that passes its bound by luck does so at one length of run and not at the next; of
    families held out it is right no oftener than they benefit. Fewer than `FEWEST_ALIKE` verdicts
    show nothing: those would be of the odd family, whose absence makes all others alike."""
    if len(families(refits.examples)) < 3:  # of two, the other alone is no corpus
        return None
    said = np.array(verdicts(refits, checked=False))
    benefits = benefits_of(refits.examples) == 1
    open_ = with_headroom(refits)
    for verdict, right in (("adapt", benefits), ("keep_fixed", ~benefits)):
        told = open_ & (said == verdict)
        if told.sum() >= FEWEST_ALIKE and right[told].mean() < ADAPT_PROBABILITY:
            words = verdict.replace("_", " ")
            return (
                f"on families held out the verdict {words} came true in {right[told].sum()} of "
                f"{told.sum()}, less often than the {100 * ADAPT_PROBABILITY:.0f} % that it says"
            )
    return None
