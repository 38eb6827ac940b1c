"""What DEBA does to runs of several lengths, and what `probe` would have told of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor import bootstrap
from predictor.candidates import BASELINES, Candidate
from predictor.corpus import CorpusRow
from predictor.examples import usable
from predictor.held_out import Refits
from predictor.horizon import can_be_cut
from predictor.scores import HorizonScores
from predictor.skill import benefit_shares, benefits_of, outcomes_of, squared_errors
from predictor.verdicts import Lengths, lengths_of, verdicts
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
    of_length = lengths_of(kept, limits)
    return tuple(_score(n, of_length, candidate) for n in sorted(lengths))


def _score(epochs: int, of_length: Lengths, candidate: Candidate) -> HorizonScores:
    examples = of_length(epochs)
    refits, base = Refits(candidate, examples), Refits(BASELINES["majority"], examples)
    drawn = bootstrap.draw([e.family for e in examples])
    benefit, said = benefits_of(examples), np.array(verdicts(refits, of_length))
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
