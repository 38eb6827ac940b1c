"""Intervals by drawing architecture families again: rows of one are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from predictor.scores import Score

LEVEL = 0.9
DRAWS = 2000


def weights(families: Sequence[str], draws: int = DRAWS) -> NDArray[np.float64]:
    """How often each row is drawn, shape [1 + draws, num_rows]; the first draw is all rows once.

    Families are drawn with replacement, by a fixed seed, so that every score sees the same draws
    and differences of scores are paired.
    """
    names, member = np.unique(families, return_inverse=True)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return np.vstack([np.ones(len(families)), counts[:, member]])


def score(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], drawn: NDArray[np.float64]
) -> Score | None:
    """A statistic of row weights [draws, num_rows], one value a draw; None where it is undefined.

    Draws in which it is undefined, such as those without one of two classes, are left out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(drawn)
    return of_draws(values)


def of_draws(values: NDArray[np.float64]) -> Score | None:
    """A score from its value on all rows, which comes first, and on draws; nan is undefined."""
    if np.isnan(values[0]):
        return None
    known = values[1:][~np.isnan(values[1:])]
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(known, [tail, 100.0 - tail]) if len(known) else (np.nan, np.nan)
    return Score(value=float(values[0]), low=float(low), high=float(high))


def mean_score(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> Score | None:
    """The mean of one value a row; rows that are nan are left out."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    return score(lambda w: (w @ filled) / (w @ known.astype(float)), drawn)


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation; nan where one of the two is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
