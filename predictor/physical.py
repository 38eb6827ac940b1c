"""Time from batch sizes and a throughput curve: the part of a prediction that needs no library.

A stored fit is made of this, so that a prediction imports neither scikit-learn nor torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.corpus import CORPUS_READING
from predictor.features import Case, replayed_time_saved_pct
from predictor.rehearsal import rehearse
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits

INTERVAL_LEVEL = 0.9
"""Nominal coverage of the intervals."""
REHEARSALS = 4
"""Draws of the scatter a case."""
CHOSEN = "rehearsal"
"""What `probe` predicts with. It was the nearest in time saved on the first corpus, where no
candidate told benefit from harm: the simplest stayed, and later rows score that choice."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a fitted candidate says of some cases; every array is [num_cases]."""

    probability_of_benefit: NDArray[np.float64]
    time_saved_pct: NDArray[np.float64]
    accuracy_delta_pp: NDArray[np.float64]


class Fitted(Protocol):
    """A candidate that has seen examples."""

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        """One estimate a case."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Ends of conformal intervals, every array [num_cases, 2]."""

    time_saved_pct: NDArray[np.float64]
    accuracy_delta_pp: NDArray[np.float64]


def most_saved_pct(case: Case) -> float:
    """Time that a run wholly at the fastest batch would save, percent: no sequence saves more."""
    return metrics.saved_pct(1.0, metrics.headroom(case.curve, case.batch_size))


def intervals_around(
    told: Estimates, cases: Sequence[Case], half_widths: Mapping[str, float]
) -> Intervals:
    """Estimates ± the half width of each outcome, one a case; no time saved beyond what can be.

    By the curve no outcome lies beyond that bound, and as measured hardly one does.
    """
    ends = {}
    for outcome, width in half_widths.items():
        centre = getattr(told, outcome)
        ends[outcome] = np.stack([centre - width, centre + width], axis=1)
    most = np.array([most_saved_pct(case) for case in cases])
    ends["time_saved_pct"] = np.minimum(ends["time_saved_pct"], most[:, None])
    return Intervals(**ends)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Batch sequences that a run may take."""

    paths: tuple[tuple[int, ...], ...] = ()
    """Distinct; none where each case rehearses its own."""
    shares: tuple[float, ...] = ()
    """How often each was taken; they sum to one."""
    limits: Limits = DEFAULT_LIMITS

    def time_saved(self, case: Case) -> tuple[float, float]:
        """Mean on the case's curve, percent, and the share that saves enough to be a benefit."""
        if self.paths:
            saved, shares = replayed_time_saved_pct(self.paths, case), np.array(self.shares)
        else:
            saved = rehearsed_time_saved_pct(case)
            shares = np.full(len(saved), 1 / len(saved))
        enough = float(shares @ (saved >= self.limits.min_time_saved_pct))
        # A sum of shares may exceed 1 in its last digit.
        return float(shares @ saved), min(1.0, enough)

    def estimates(
        self, cases: Sequence[Case], harm: NDArray[np.float64], delta_pp: NDArray[np.float64]
    ) -> Estimates:
        """A benefit needs time saved and no harm, whose probability [num_cases] is given."""
        told = [self.time_saved(case) for case in cases]
        return Estimates(
            probability_of_benefit=(1.0 - harm) * np.array([enough for _, enough in told]),
            time_saved_pct=np.array([saved for saved, _ in told]),
            accuracy_delta_pp=delta_pp,
        )


@dataclass(frozen=True, kw_only=True)
class ConstantHarm:
    """Whatever the case, accuracy is harmed as often as in the corpus."""

    paths: Paths
    harm_rate: float
    mean_delta_pp: float

    def beside_own(
        self, num_seeds: int, *, harm_share: float, mean_delta_pp: float
    ) -> ConstantHarm:
        """For a model of which so many seeds were measured, with these means over them.

        The corpus counts as one seed more: it alone speaks where there is none.
        """

        def mixed(rate: float, own: float) -> float:
            return (rate + num_seeds * own) / (1 + num_seeds)

        return dataclasses.replace(
            self,
            harm_rate=mixed(self.harm_rate, harm_share),
            mean_delta_pp=mixed(self.mean_delta_pp, mean_delta_pp),
        )

    def estimates(self, cases: Sequence[Case]) -> Estimates:
        harm, delta = (np.full(len(cases), v) for v in (self.harm_rate, self.mean_delta_pp))
        return self.paths.estimates(cases, harm, delta)


@cache
def rehearsed_time_saved_pct(case: Case) -> NDArray[np.float64]:
    """Time that each of `rehearsals` would save on the case's device, percent, [REHEARSALS].

    Kept without limit: a fit asks once a family, and would rehearse all cases each time as soon as
    a limit were exceeded.
    """
    return replayed_time_saved_pct(rehearsals(case), case)


def rehearsals(case: Case) -> tuple[tuple[int, ...], ...]:
    """Batch sequences that DEBA may choose for a case, one a draw of the scatter."""
    return tuple(
        rehearse(
            case.profile,
            batch_size=case.batch_size,
            max_batch_size=case.max_batch_size,
            epochs=case.epochs,
            scheduler_args=dict(CORPUS_READING),
            seed=draw,
        )
        for draw in range(REHEARSALS)
    )
