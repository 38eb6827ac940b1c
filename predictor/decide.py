"""From estimates to a verdict: adapt, keep the batch fixed, or say that it cannot be known."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from predictor.features import Case
from predictor.larger import LargerBatch
from predictor.physical import INTERVAL_LEVEL, Estimates, Intervals, most_saved_pct
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Prediction

ADAPT_PROBABILITY = 0.7
KEEP_PROBABILITY = 0.3
"""Between these the classifier does not know."""


def too_little_headroom(case: Case, limits: Limits) -> str | None:
    """Why no schedule can pay off on this device, None where one might.

    This needs no corpus: a run that spent all its epochs at the fastest batch would save
    1 − 1 / headroom of the time, and no batch sequence saves more.
    """
    if len(case.curve.points) == 1:
        if case.curve.stopped_by:
            return (
                f"{case.curve.stopped_by}, so that a larger batch runs in parts and saves no time"
            )
        return f"no batch may be larger than {case.max_batch_size}, so that no schedule can grow"
    most = most_saved_pct(case)
    if most >= limits.min_time_saved_pct:
        return None
    gain = metrics.headroom(case.curve, case.batch_size)
    return (
        f"the fastest batch is only {gain:.2f}x as fast as {case.batch_size} on this device, so no "
        f"schedule can save more than {most:.0f} % of the time"
    )


def decide(
    estimates: Estimates,
    intervals: Intervals,
    *,
    unlike: str | None,
    basis: str,
    limits: Limits = DEFAULT_LIMITS,
    no_skill: str | None = None,
    only: str | None = None,
    why_only: str | None = None,
    hopeless: str | None = None,
    alternative: str | None = None,
    measured_before: str | None = None,
) -> Prediction:
    """One verdict from the estimates of all seeds, one a seed, and the mean of their intervals.

    `hopeless` says why no schedule can pay off, which holds whatever the corpus knows; `unlike`
    why the corpus does not speak for the case, which then gets no interval; `no_skill` why the
    corpus tells nobody's benefit; `only` the one verdict that it bears out, and `why_only` why,
    where it is not that all of it is alike.
    """
    time_saved = float(estimates.time_saved_pct.mean())
    probability = float(estimates.probability_of_benefit.mean())
    ends = (intervals.time_saved_pct, intervals.accuracy_delta_pp)
    saved, delta = (_mean_ends(e) if unlike is None else None for e in ends)
    verdicts = {_verdict(p) for p in estimates.probability_of_benefit}
    if hopeless is not None:
        verdict, reason = "keep_fixed", hopeless
    elif silent := unlike or no_skill:
        verdict, reason = "abstain", silent
    elif len(verdicts) > 1:
        verdict, reason = "abstain", "the seeds disagree"
    elif saved is None:
        verdict, reason = "abstain", "the corpus is too small for an interval"
    else:
        (verdict,) = verdicts
        reason = _reason(verdict, probability, limits)
        if only not in (None, verdict) and verdict != "abstain":
            verdict, reason = "abstain", f"{reason}, {why_only or _ONLY[only]}"
        if spans := _spans_the_decision(verdict, time_saved, saved, limits.min_time_saved_pct):
            verdict, reason = "abstain", spans
    return Prediction(
        verdict=verdict,
        probability_of_benefit=probability,
        time_saved_pct=time_saved,
        time_saved_interval_pct=saved,
        accuracy_delta_pp=float(estimates.accuracy_delta_pp.mean()),
        accuracy_delta_interval_pp=delta,
        interval_level=INTERVAL_LEVEL,
        reason=reason,
        basis=basis,
        alternative=alternative,
        measured_before=measured_before,
        limits=limits,
    )


_ONLY = {
    "adapt": "but nearly all of the corpus benefits, which tells nothing of those that do not",
    "keep_fixed": "but hardly any of the corpus benefits, which tells nothing of those that do",
}


def _mean_ends(ends: NDArray[np.float64]) -> tuple[float, float] | None:
    """Over seeds, of ends [num_seeds, 2]; None where they are infinite."""
    low, high = (float(end) for end in ends.mean(axis=0))
    return (low, high) if math.isfinite(high - low) else None


def _spans_the_decision(
    verdict: str, time_saved: float, ends: tuple[float, float], least: float
) -> str | None:
    """Why an interval of the time saved does not bear out a verdict, None where it does."""
    low, high = ends
    if verdict == "adapt" and low < least:
        side = "below"
    # Where time enough is saved, accuracy is what speaks against it.
    elif verdict == "keep_fixed" and time_saved < least <= high:
        side = "above"
    else:
        return None
    return (
        f"the interval of time saved, {low:.0f} to {high:.0f} %, reaches {side} the "
        f"{least:g} % that count as a benefit"
    )


def larger_fixed_batch(
    case: Case, time_saved_pct: float, limits: Limits, known: LargerBatch | None = None
) -> str | None:
    """The smallest larger fixed batch on the curve that saves as much time, in words.

    What it does to accuracy is told where the corpus knows of one as large.
    """
    if time_saved_pct < limits.min_time_saved_pct:
        return None
    base = metrics.samples_per_s(case.curve, case.batch_size)
    for point in case.curve.points:
        saved = metrics.saved_pct(base, point.samples_per_s)
        if point.batch_size > case.batch_size and saved >= time_saved_pct:
            told = "what it does to accuracy was not measured"
            factor = point.batch_size / case.batch_size
            if known is not None and factor <= known.factor:
                words = known.words(limits)
                told = words if factor == known.factor else f"{told}; {words}"
            return (
                f"a plain fixed batch of {point.batch_size} would save {saved:.0f} % on this "
                f"device; {told}"
            )
    return None


def _verdict(probability: float) -> str:
    if probability >= ADAPT_PROBABILITY:
        return "adapt"
    return "keep_fixed" if probability <= KEEP_PROBABILITY else "abstain"


def _reason(verdict: str, probability: float, limits: Limits) -> str:
    told = f"a benefit ({limits.words}) has probability {probability:.2f}"
    if verdict == "adapt":
        return f"{told}, above {ADAPT_PROBABILITY}"
    if verdict == "keep_fixed":
        return f"{told}, below {KEEP_PROBABILITY}"
    return f"{told}, between {KEEP_PROBABILITY} and {ADAPT_PROBABILITY}"
