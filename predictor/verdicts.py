"""The verdicts that `probe` would have given on families held out, and whether they came true."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from predictor.corpus import CorpusRow
from predictor.decide import ADAPT_PROBABILITY, decide, too_little_headroom
from predictor.examples import Example, families, is_deba, make_examples, usable
from predictor.held_out import Refits, nested_intervals
from predictor.horizon import rows_for
from predictor.likeness import case_range, stuck, unlike
from predictor.physical import Estimates, Intervals
from predictor.skill import (
    FEWEST_ALIKE,
    benefits_of,
    no_skill,
    only_verdict,
    verdict_by_share,
    with_headroom,
)
from stability_probe.limits import Limits

Lengths = Callable[[int], Sequence[Example]]
"""The examples of a corpus, of runs of so many epochs."""


def lengths_of(rows: Sequence[CorpusRow], limits: Limits) -> Lengths:
    """Of the rows of one recipe, which are as long as their runs were."""
    told = [row for row in rows if is_deba(row)]

    @functools.cache
    def examples(epochs: int) -> list[Example]:
        return make_examples(usable(rows_for(told, epochs)), limits)

    return examples


def verdicts(refits: Refits, lengths: Lengths | None) -> list[str]:
    """What `probe` would have said of each example, by a corpus without its family.

    Without `lengths` a corpus gives its verdicts however seldom they came true, and however much
    hangs on the length of the run.
    """
    told, ends = refits.leave_one_out(), nested_intervals(refits)
    said = [""] * len(refits.examples)
    for family in families(refits.examples):
        others = Refits(refits.candidate, [e for e in refits.examples if e.family != family])
        silent = (
            no_skill(others)
            if lengths is None
            else why_none(others, functools.partial(_without, family, lengths))
        )
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


def _without(family: str, lengths: Lengths, epochs: int) -> list[Example]:
    return [e for e in lengths(epochs) if e.family != family]


def why_none(refits: Refits, lengths: Lengths) -> str | None:
    """Why the corpus bears out no verdict, None where it does: its predictor has no skill, what it
    would have told families that it had not seen came true too seldom, or all hangs on the very
    length of the run."""
    return no_skill(refits) or _came_true_too_seldom(refits) or hangs_on_length(refits, lengths)


def hangs_on_length(refits: Refits, lengths: Lengths) -> str | None:
    """Why the one verdict that is left to a predictor without skill is too near its limit to lean
    on: of runs up to a tenth shorter or longer it is none.

    Of dozens of lengths some pass by luck.
    """
    only = only_verdict(refits)
    if only is None:
        return None
    epochs = max(e.case.epochs for e in refits.examples)
    for near in near_lengths(epochs):
        if verdict_by_share(Refits(refits.candidate, lengths(near))) != only:
            return (
                f"the share of runs that benefited would be an answer at {epochs} epochs and is "
                f"none at {near}, which is too near its limit to lean on"
            )
    return None


def near_lengths(epochs: int) -> Sequence[int]:
    """Lengths of run at which an answer has to be the same."""
    return range(epochs - epochs // 10, epochs + epochs // 10 + 1)


def _came_true_too_seldom(refits: Refits) -> str | None:
    """A share that passes its bound by luck does so at one length of run and not at the next; of
    families held out it is right no oftener than they benefit. Fewer than `FEWEST_ALIKE` verdicts
    show nothing: those would be of the odd family, whose absence makes all others alike."""
    if len(families(refits.examples)) < 3:  # of two, the other alone is no corpus
        return None
    said = np.array(verdicts(refits, None))
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
