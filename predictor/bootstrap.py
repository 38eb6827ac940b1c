"""Intervals by drawing architecture families again: rows of one are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, t

from predictor.scores import Score

LEVEL = 0.9
DRAWS = 2000


@dataclass(frozen=True)
class Draws:
    """Families drawn with replacement."""

    families: NDArray[np.str_]
    """Of each row, [num_rows]."""
    weights: NDArray[np.float64]
    """How often each row is drawn, [1 + draws, num_rows]; the first draw is all rows once."""


def draw(families: Sequence[str], draws: int = DRAWS) -> Draws:
    """By a fixed seed, so that every score sees the same draws and differences are paired."""
    names, member = np.unique(families, return_inverse=True)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    weights = np.vstack([np.ones(len(families)), counts[:, member]])
    return Draws(families=np.asarray(families, dtype=np.str_), weights=weights)


def score(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], drawn: Draws
) -> Score | None:
    """A statistic of row weights [draws, num_rows], one value a draw; None where it is undefined.

    Draws in which it is undefined, such as those without one of two classes, are left out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(drawn.weights)
    return of_draws(values, drawn.families)


def mean_score(values: NDArray[np.float64], drawn: Draws) -> Score | None:
    """The mean of one value a row; rows that are nan are left out."""
    known = ~np.isnan(values)
    if not known.any():
        return None
    weights = drawn.weights[:, known]
    with np.errstate(invalid="ignore"):
        means = (weights @ values[known]) / weights.sum(axis=1)
    return of_draws(means, drawn.families[known])


def of_draws(values: NDArray[np.float64], families: NDArray[np.str_]) -> Score | None:
    """A score from its value on all rows, which comes first, and on draws; nan is undefined.

    `families` are those of the rows; one alone has no spread, so its ends are nan.
    """
    if np.isnan(values[0]):
        return None
    known, tail = values[1:][~np.isnan(values[1:])], _tail(families)
    low, high = np.nan, np.nan
    if len(known) and tail is not None:
        low, high = np.percentile(known, [100.0 * tail, 100.0 * (1.0 - tail)])
    return Score(value=float(values[0]), low=float(low), high=float(high))


def _tail(families: NDArray[np.str_]) -> float | None:
    """Share of the draws to leave out at either end; None for one family.

    Draws of few scatter less than their mean does, so the percentiles are moved outwards, to where
    Student's t has the level (expanded percentile interval: Hesterberg, Am. Stat. 69, 2015). As
    families differ in their rows, their effective number (Kish, Survey Sampling, 1965) counts.
    """
    counts = np.unique(families, return_counts=True)[1]
    number = counts.sum() ** 2 / (counts**2).sum()
    if len(counts) < 2:
        return None
    quantile = t.ppf((1.0 + LEVEL) / 2.0, number - 1.0)
    return float(norm.cdf(-quantile * math.sqrt(number / (number - 1.0))))


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Rank correlation; nan where one of the two is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
