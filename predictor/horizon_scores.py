"""What DEBA does to runs of several lengths, and what `probe` would have told of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor import bootstrap
from predictor.candidates import BASELINES, Candidate
from predictor.corpus import CorpusRow
from predictor.decide import decide, too_little_headroom
from predictor.examples import Example, families, make_examples, usable
from predictor.held_out import Refits, nested_intervals
from predictor.horizon import can_be_cut, rows_for
from predictor.likeness import case_range, stuck, unlike
from predictor.physical import Estimates, Intervals
from predictor.scores import HorizonScores
from predictor.skill import (
    benefit_shares,
    benefits_of,
    no_skill,
    only_verdict,
    outcomes_of,
    squared_errors,
)
from stability_probe.limits import DEFAULT_LIMITS, Limits

HORIZONS = (10, 15, 20, 25, 30, 40, 60, 90, 120)


def score_horizons(
    rows: Sequence[CorpusRow], candidate: Candidate, limits: Limits = DEFAULT_LIMITS
) -> tuple[HorizonScores, ...]:
    """One entry a length, up to the longest of the usable rows that can be cut."""
    kept = [row for row in rows if can_be_cut(row)]
    longest = max((row.epochs for row in usable(kept)), default=0)
    window = max((row.window_epochs for row in usable(kept)), default=0)
    lengths = {n for n in HORIZONS if window < n < longest} | {longest} - {0}
    return tuple(
        _score(n, make_examples(usable(rows_for(kept, n)), limits), candidate, limits)
        for n in sorted(lengths)
    )


def verdicts(refits: Refits, limits: Limits = DEFAULT_LIMITS) -> list[str]:
    """What `probe` would have said of each example, by a corpus without its family."""
    told, ends = refits.leave_one_out(), nested_intervals(refits)
    said = [""] * len(refits.examples)
    for family in families(refits.examples):
        others = Refits(refits.candidate, [e for e in refits.examples if e.family != family])
        skill, only = no_skill(others), only_verdict(others)
        known = case_range([e.case for e in others.examples])
        for i in np.flatnonzero(refits.family == family):
            case = refits.cases[i]
            said[i] = decide(
                Estimates(**{name: values[[i]] for name, values in vars(told).items()}),
                Intervals(**{name: values[[i]] for name, values in vars(ends).items()}),
                unlike=stuck(case) or unlike(case, known),
                basis="",
                limits=limits,
                no_skill=skill,
                only=only,
                hopeless=too_little_headroom(case, limits),
            ).verdict
    return said


def _score(
    epochs: int, examples: Sequence[Example], candidate: Candidate, limits: Limits
) -> HorizonScores:
    refits, base = Refits(candidate, examples), Refits(BASELINES["majority"], examples)
    drawn = bootstrap.draw([e.family for e in examples])
    benefit, said = benefits_of(examples), np.array(verdicts(refits, limits))
    harms = np.array([e.harm_share for e in examples])
    brier, of_base = (
        bootstrap.mean_score(squared_errors(r.leave_one_out(), examples), drawn)
        for r in (refits, base)
    )
    return HorizonScores(
        epochs=epochs,
        num_rows=len(examples),
        time_saved_pct=bootstrap.mean_score(outcomes_of(examples, "time_saved_pct"), drawn),
        accuracy_delta_pp=bootstrap.mean_score(outcomes_of(examples, "accuracy_delta_pp"), drawn),
        harms=bootstrap.mean_score(harms, drawn),
        benefits=bootstrap.mean_score(benefit_shares(examples), drawn),
        brier=brier,
        brier_of_base_rate=of_base,
        adapt=int((said == "adapt").sum()),
        adapt_right=int(((said == "adapt") & (benefit == 1)).sum()),
        keep_fixed=int((said == "keep_fixed").sum()),
        keep_fixed_right=int(((said == "keep_fixed") & (benefit == 0)).sum()),
    )
