"""The predictor with a user's own rows: what they change, and how it did on them before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.candidates import BASELINES, CANDIDATES
from predictor.corpus import CorpusRow, not_among
from predictor.evaluate import held_out_cases
from predictor.examples import families, make_examples, usable
from predictor.held_out import Refits, intervals
from predictor.known_models import OtherSeeds
from predictor.other_seeds import what_they_tell
from predictor.physical import CHOSEN, Estimates
from predictor.recipe import Recipe, recipe_of, rows_like, rows_of
from predictor.scores import HeldOutCase, squared_error
from predictor.skill import brier, only_verdict, outcomes_of
from predictor.verdicts import lengths_of, why_none
from stability_probe.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, kw_only=True)
class Skill:
    """The chosen candidate on families held out, over some rows."""

    num_rows: int
    num_families: int
    brier: float
    brier_base_rate: float
    """Of always telling the share of benefits among the other families."""
    time_saved_mae: float
    """Beside measured seconds, percentage points."""
    no_skill: str | None
    """Why every verdict abstains, None where the corpus bears one out."""
    only_verdict: str | None
    """The one that it bears out where it cannot tell models apart, but nearly all are alike."""
    other_seeds: tuple[OtherSeeds, ...]
    """What pairs of the same model and data bear out beside that."""


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What `probe fit` tells."""

    chosen: str
    limits: Limits
    shipped: Skill
    together: Skill
    """The shipped rows and the user's."""
    own: tuple[HeldOutCase, ...]
    """The user's rows as the shipped ones alone would have told them."""
    own_brier: float | None
    """This and what follows is None without own rows."""
    own_time_saved_mae: float | None
    own_coverage: float | None
    """Share of the user's rows whose measured time saved lies in its interval."""


def refit(
    shipped: Sequence[CorpusRow], own: Sequence[CorpusRow], limits: Limits = DEFAULT_LIMITS
) -> Refit:
    """Score the user's rows by the shipped ones, then both together with families held out.

    Own rows count when they are of DEBA, as the corpus reads it, and not among the shipped ones.
    Each is told by the shipped rows of its recipe, cut to its own length, as a prediction is. What
    both say together is asked of the shipped corpus's commonest recipe.
    """
    kept = usable(not_among(shipped, own))
    known = usable(rows_of(shipped, None))
    together = rows_of([*known, *kept], recipe_of(vars(known[0])))
    alike: dict[tuple[int, Recipe], list[CorpusRow]] = {}
    for row in kept:
        alike.setdefault((row.epochs, recipe_of(vars(row))), []).append(row)
    cases = [
        case
        for key in sorted(alike, key=lambda key: (key[0], dataclasses.astuple(key[1])))
        for case in _told(shipped, alike[key], limits)
    ]
    return Refit(
        chosen=CHOSEN,
        limits=limits,
        shipped=_skill(known, limits),
        together=_skill(together, limits),
        own=tuple(cases),
        own_brier=_mean([squared_error(c.probability_of_benefit, c.benefit_share) for c in cases]),
        own_time_saved_mae=_mean(
            [abs(c.time_saved_told_pct - c.measured_saved_pct) for c in cases]
        ),
        own_coverage=_mean([_inside(c) for c in cases]),
    )


def _told(
    shipped: Sequence[CorpusRow], own: Sequence[CorpusRow], limits: Limits
) -> tuple[HeldOutCase, ...]:
    """The user's rows of one recipe and length, by the shipped ones alone."""
    rows = usable(rows_like(shipped, recipe_of(vars(own[0])), own[0].epochs))
    known, mine = (make_examples(some, limits) for some in (rows, own))
    refits = Refits(CANDIDATES[CHOSEN], known, [e.case for e in mine])
    at = np.arange(len(known), len(known) + len(mine))
    told = Estimates(**{name: values[at] for name, values in vars(refits.without()).items()})
    return held_out_cases(own, mine, told, intervals(refits, at.tolist()))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _inside(case: HeldOutCase) -> bool:
    low, high = case.time_saved_interval_pct
    return low <= case.measured_saved_pct <= high


def _skill(rows: Sequence[CorpusRow], limits: Limits) -> Skill:
    examples = make_examples(rows, limits)
    chosen = Refits(CANDIDATES[CHOSEN], examples)
    base = Refits(BASELINES["majority"], examples)
    told, lengths = chosen.leave_one_out(), lengths_of(rows, limits)
    measured = outcomes_of(examples, "measured_saved_pct")
    return Skill(
        num_rows=len(examples),
        num_families=len(families(examples)),
        brier=brier(told, examples),
        brier_base_rate=brier(base.leave_one_out(), examples),
        time_saved_mae=float(np.abs(told.time_saved_pct - measured).mean()),
        no_skill=why_none(chosen, lengths),
        only_verdict=only_verdict(chosen),
        other_seeds=what_they_tell(chosen, lengths),
    )
