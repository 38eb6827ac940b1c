"""A candidate fitted on some families and asked about the others, each fit made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from mapie.regression import CrossConformalRegressor
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import LeaveOneGroupOut

from predictor.candidates import Candidate
from predictor.examples import Example, families
from predictor.features import Case
from predictor.physical import INTERVAL_LEVEL, Estimates, Intervals, intervals_around
from stability_probe.errors import MissingError

MEASURED = {"time_saved_pct": "measured_saved_pct", "accuracy_delta_pp": "accuracy_delta_pp"}
"""What an interval around each estimate must hold, by the name of the estimate."""


class Refits:
    """Estimates of `examples`, and of `cases` behind them, by fits without some families."""

    def __init__(
        self, candidate: Candidate, examples: Sequence[Example], cases: Sequence[Case] = ()
    ) -> None:
        self.candidate = candidate
        self.examples = list(examples)
        self.cases = [*(e.case for e in examples), *cases]
        self.family = np.array([e.family for e in examples])
        self._made: dict[frozenset[str], Estimates] = {}

    def without(self, *names: str) -> Estimates:
        """Of every case, by a fit that never saw these families.

        Raises `MissingError` when no other family is left.
        """
        key = frozenset(names)
        if key not in self._made:
            seen = [e for e in self.examples if e.family not in key]
            if not seen:
                raise MissingError(
                    "the corpus holds no finished pair of runs of another family; use another "
                    "corpus"
                )
            self._made[key] = self.candidate.fit(seen).estimates(self.cases)
        return self._made[key]

    def leave_one_out(self, *also: str) -> Estimates:
        """Of every example, by a fit without its family (and without those of `also`)."""
        arrays = {f: np.full(len(self.examples), np.nan) for f in Estimates.__dataclass_fields__}
        for name in families(self.examples):
            told = self.without(name, *also)
            mask = np.flatnonzero(self.family == name)
            for field, values in arrays.items():
                values[mask] = getattr(told, field)[mask]
        return Estimates(**arrays)


def half_widths(
    refits: Refits, without: str | None = None, level: float = INTERVAL_LEVEL
) -> dict[str, float]:
    """Half the width of the conformal interval of each outcome, from errors on families held out.

    Of time saved the errors are those beside measured seconds, the machine's own scatter included.
    MAPIE's cross-conformal regression with a family as the fold: each error is that of a fit
    which never saw the family, and none has seen the family `without`. Infinite where there are
    too few examples for the level, or only one family.
    """
    known = np.flatnonzero(refits.family != without)
    if len(known) + 1 < np.ceil(1 / (1 - level)) or len(set(refits.family[known])) < 2:
        return dict.fromkeys(MEASURED, np.inf)
    widths = {}
    for outcome, measured in MEASURED.items():
        conformal = CrossConformalRegressor(
            _Lookup(refits, outcome), level, method="base", cv=LeaveOneGroupOut()
        )
        truth = np.array([getattr(refits.examples[i], measured) for i in known])
        conformal.fit_conformalize(known[:, None], truth, groups=refits.family[known])
        low, high = conformal.predict_interval(known[:1, None])[1][0, :, 0]
        widths[outcome] = float(high - low) / 2
    return widths


def intervals(
    refits: Refits, cases: Sequence[int], without: str | None = None, level: float = INTERVAL_LEVEL
) -> Intervals:
    """The conformal intervals of the cases at these positions, around their estimates."""
    told = refits.without(*([] if without is None else [without]))
    at = np.array(cases, dtype=int)
    return intervals_around(
        Estimates(**{name: values[at] for name, values in vars(told).items()}),
        [refits.cases[i] for i in cases],
        half_widths(refits, without, level),
    )


def nested_intervals(refits: Refits) -> Intervals:
    """Of every example, fit and errors without its family."""
    time_saved, accuracy = (np.zeros((len(refits.examples), 2)) for _ in range(2))
    for family in families(refits.examples):
        at = np.flatnonzero(refits.family == family)
        ends = intervals(refits, at.tolist(), without=family)
        time_saved[at], accuracy[at] = ends.time_saved_pct, ends.accuracy_delta_pp
    return Intervals(time_saved_pct=time_saved, accuracy_delta_pp=accuracy)


class _Lookup(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Lets a library refit a candidate: X holds positions of cases, not their features."""

    def __init__(self, refits: Refits, outcome: str) -> None:
        self.refits = refits
        self.outcome = outcome

    def fit(self, X: NDArray[np.int64], y: Any = None) -> Self:
        seen = set(self.refits.family[X[:, 0]])
        self.unseen_ = tuple(sorted(set(self.refits.family) - seen))
        return self

    def predict(self, X: NDArray[np.int64]) -> NDArray[np.float64]:
        told: NDArray[np.float64] = getattr(self.refits.without(*self.unseen_), self.outcome)
        return told[X[:, 0]]

    def __sklearn_clone__(self) -> _Lookup:
        return _Lookup(self.refits, self.outcome)
