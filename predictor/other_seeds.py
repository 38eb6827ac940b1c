"""Whether other seeds of a model on the same data tell what DEBA does to it, and what they tell.

Of families held out nothing tells who keeps its accuracy. A model that was measured before is
another case: its own pairs are told here by other seeds of theirs, as `probe` tells the next one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.decide import ADAPT_PROBABILITY, KEEP_PROBABILITY
from predictor.examples import families
from predictor.held_out import Refits
from predictor.known_models import OtherSeeds
from predictor.physical import INTERVAL_LEVEL, ConstantHarm, Estimates
from predictor.scores import Score
from predictor.skill import (
    FEWEST_ALIKE,
    benefits_of,
    errors_of_base_rate,
    outcomes_of,
    squared_errors,
    with_headroom,
)
from predictor.verdicts import Lengths, near_lengths

MOST_SEEDS = 2
"""More tell no less; the corpus has few models with more."""


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """Pairs told by so many other seeds of the same, and what came of them."""

    num_seeds: int
    num_pairs: int
    """With headroom, and so many other seeds."""
    num_models: int
    brier: float
    """Of the probability of a benefit; of the runs' last epochs, had they stopped there."""
    brier_of_base_rate: float
    """Of the share of benefits among other families."""
    difference: Score | None
    """Of the two; None for pairs of one family."""
    adapt: int
    """Pairs whose probability is a verdict to adapt."""
    adapt_right: int
    keep_fixed: int
    keep_fixed_right: int
    accuracy_delta_half_width: float
    """Of the conformal interval, percentage points; infinite where pairs are too few."""

    def record(self, verdict: str) -> tuple[int, int]:
        """How often it came true, and how often it was told."""
        right, told = f"{verdict}_right", verdict
        return getattr(self, right), getattr(self, told)

    @property
    def words(self) -> str:
        """How often verdicts came true, for a person."""
        return (
            f"told by {_seeds(self.num_seeds)} of theirs, of {self.num_pairs} pairs adapt came "
            f"true in {self.adapt_right} of {self.adapt} and keep fixed in "
            f"{self.keep_fixed_right} of {self.keep_fixed}"
        )


def score_other_seeds(refits: Refits) -> tuple[SeedScores, ...]:
    """One entry a number of seeds that some of the examples have beside them, the smallest first.

    None for a candidate that does not take harm to be constant: it has no rate to set them beside.
    """
    if not isinstance(refits.candidate.fit(refits.examples), ConstantHarm):
        return ()
    scores = (_score(refits, num_seeds) for num_seeds in range(1, MOST_SEEDS + 1))
    return tuple(s for s in scores if s is not None)


def _score(refits: Refits, num_seeds: int) -> SeedScores | None:
    at, told = told_by_other_seeds(refits, num_seeds)
    if not len(at):
        return None
    examples = [refits.examples[i] for i in at]
    p, mine = told.probability_of_benefit, squared_errors(told, examples)
    others = errors_of_base_rate(refits)[at]
    drawn = bootstrap.draw([e.family for e in examples])
    # What differs by the rounding of a sum is neither better nor worse.
    difference = bootstrap.mean_score(np.round(mine - others, 12), drawn)
    benefits = benefits_of(examples) == 1
    adapt, keep = p >= ADAPT_PROBABILITY, p <= KEEP_PROBABILITY
    errors = np.abs(told.accuracy_delta_pp - outcomes_of(examples, "accuracy_delta_pp"))
    return SeedScores(
        num_seeds=num_seeds,
        num_pairs=len(at),
        num_models=len({e.model for e in examples}),
        brier=float(mine.mean()),
        brier_of_base_rate=float(others.mean()),
        difference=None if len(families(examples)) < 2 else difference,
        adapt=int(adapt.sum()),
        adapt_right=int((adapt & benefits).sum()),
        keep_fixed=int(keep.sum()),
        keep_fixed_right=int((keep & ~benefits).sum()),
        accuracy_delta_half_width=conformal_half_width(errors),
    )


def told_by_other_seeds(refits: Refits, num_seeds: int) -> tuple[NDArray[np.int64], Estimates]:
    """Positions of the examples with headroom and so many other seeds, and what those tell.

    It is the next seeds, in a circle, that tell: no more than asked for, so that many seeds of some
    models show nothing of what few tell. The corpus has no rows of the example's family.
    """
    open_ = with_headroom(refits)
    beside = [_next_seeds(refits, i, num_seeds) for i in range(len(refits.examples))]
    at = [i for i, others in enumerate(beside) if open_[i] and len(others) == num_seeds]
    held_out = {
        name: refits.candidate.fit([e for e in refits.examples if e.family != name])
        for name in {refits.examples[i].family for i in at}
    }
    told = []
    for i in at:
        model = held_out[refits.examples[i].family]
        assert isinstance(model, ConstantHarm)
        own = [refits.examples[j] for j in beside[i]]
        told.append(
            model.beside_own(
                num_seeds,
                harm_share=float(np.mean([e.harm_share for e in own])),
                mean_delta_pp=float(np.mean([e.mean_end_delta_pp for e in own])),
            ).estimates([refits.examples[i].case])
        )
    names = Estimates.__dataclass_fields__
    return np.array(at, dtype=int), Estimates(
        **{n: np.array([getattr(one, n)[0] for one in told]) for n in names}
    )


def what_they_tell(refits: Refits, lengths: Lengths) -> tuple[OtherSeeds, ...]:
    """As `score_other_seeds`, and which verdicts it bears out."""
    return tuple(_judge(scores, refits, lengths) for scores in score_other_seeds(refits))


def _judge(scores: SeedScores, refits: Refits, lengths: Lengths) -> OtherSeeds:
    """Seeds bear out nothing where they tell no more than the share of benefits among others, or do
    so at the very length of the run and not at one a tenth shorter or longer; and no verdict that
    came true too seldom at one of these. Of dozens of lengths some pass by luck."""
    epochs = max(e.case.epochs for e in refits.examples)
    by_length: dict[int, SeedScores | None] = {epochs: scores}
    if _is_better(scores):
        shorter, *_, longer = near_lengths(epochs)
        for near in (shorter, longer):
            again = Refits(refits.candidate, lengths(near))
            by_length.setdefault(near, _score(again, scores.num_seeds))
    few = f"{_seeds(scores.num_seeds)} of a model"
    unproven = {
        verdict: why
        for verdict in ("adapt", "keep_fixed")
        if (why := _why_unproven(verdict, by_length)) is not None
    }
    proven = {"adapt", "keep_fixed"} - set(unproven)
    silent = None
    if not _is_better(scores):
        silent = (
            f"{few} told not surely more of the next than other models did (Brier score "
            f"{scores.brier:.3f} against {scores.brier_of_base_rate:.3f})"
        )
    elif not all(map(_is_better, by_length.values())):
        silent = f"{few} told surely more of the next than others did at {epochs} epochs alone"
    elif not proven:
        silent = f"told by {few}, {' and '.join(unproven.values())}"
    return OtherSeeds(
        num_seeds=scores.num_seeds,
        silent=silent,
        only_verdict=proven.pop() if len(proven) == 1 else None,
        why_only=f"but {', '.join(unproven.values())}" if unproven else None,
        accuracy_delta_half_width=scores.accuracy_delta_half_width,
        words=scores.words,
    )


def _why_unproven(verdict: str, by_length: Mapping[int, SeedScores | None]) -> str | None:
    """Why it is not to be given, by the scores of each number of epochs; None where it may be."""
    words = verdict.replace("_", " ")
    for epochs, scores in by_length.items():
        right, told = scores.record(verdict) if scores else (0, 0)
        if told >= FEWEST_ALIKE and right < ADAPT_PROBABILITY * told:
            return f"{words} came true in {right} of {told} at {epochs} epochs"
    own = next(iter(by_length.values()))
    if own is None or own.record(verdict)[1] < FEWEST_ALIKE:
        return f"{words} was told too seldom to show anything"
    return None


def conformal_half_width(errors: NDArray[np.float64], level: float = INTERVAL_LEVEL) -> float:
    """The split-conformal quantile of absolute errors [num_errors]; infinite for too few of them.

    The smallest that covers a new one with the probability `level` (Vovk et al., Algorithmic
    Learning in a Random World, 2005).
    """
    rank = math.ceil(round((len(errors) + 1) * level, 9))
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else math.inf


def _is_better(scores: SeedScores | None) -> bool:
    return scores is not None and scores.difference is not None and scores.difference.high < 0


def _next_seeds(refits: Refits, index: int, most: int) -> list[int]:
    """Positions of so many other seeds of an example, or of those that there are."""
    own = refits.examples[index]
    by_seed: dict[int, int] = {}
    for i, e in enumerate(refits.examples):
        if e.all_but_seed == own.all_but_seed:
            by_seed.setdefault(e.seed, i)
    seeds = sorted(by_seed)
    start = seeds.index(own.seed)
    circle = [*seeds[start + 1 :], *seeds[:start]]
    return [by_seed[seed] for seed in circle[:most]]


def _seeds(count: int) -> str:
    return "another seed" if count == 1 else f"{count} other seeds"
