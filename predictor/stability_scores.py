"""Formulas for a stability score: does it repeat across seeds, and does it rank who benefits?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from predictor.bootstrap import LEVEL, Score
from predictor.corpus import CorpusRow
from stability_probe import metrics
from stability_probe.records import Profile

WINDOWS = (2, 3, 4, 5, 10)
"""Epochs; 4 is the probe's own, at whose end the noise was measured."""
DRAWS = 500
_NOISE_WINDOW = 4


def _detrended(profile: Profile, batch_size: int) -> float | None:
    """1 / (1 + SD of the log norm around its linear trend)."""
    logs = np.log(profile.grad_norms)
    if len(logs) < 3:
        return None
    epochs = np.arange(len(logs))
    residuals = logs - np.polyval(np.polyfit(epochs, logs, 1), epochs)
    return 1.0 / (1.0 + float(np.sqrt((residuals**2).sum() / (len(logs) - 2))))


def _settled(profile: Profile, batch_size: int) -> float | None:
    norms = profile.grad_norms[1:]
    return metrics.stability_score(norms) if len(norms) > 1 else None


def _largest_change(profile: Profile, batch_size: int) -> float:
    pairs = zip(profile.grad_norms[1:], profile.grad_norms, strict=False)
    return 1.0 / (1.0 + max(metrics.relative_change(b, a) for b, a in pairs))


def _signal_share(profile: Profile, batch_size: int) -> float | None:
    """‖G‖² / (‖G‖² + tr Σ / B): how much of a mini-batch's squared norm is signal."""
    if profile.trace_sigma is None or profile.grad_sq_norm is None:
        return None
    if len(profile.grad_norms) != _NOISE_WINDOW:
        return None
    signal, noise = max(0.0, profile.grad_sq_norm), max(0.0, profile.trace_sigma / batch_size)
    return signal / (signal + noise) if signal + noise > 0 else None


FORMULAS: Mapping[str, Callable[[Profile, int], float | None]] = {
    "CV of the norm": lambda p, b: metrics.stability_score(p.grad_norms),
    "the same from epoch 2": _settled,
    "detrended log norm": _detrended,
    "norm variation": lambda p, b: 1.0 / (1.0 + metrics.mean_relative_change(p.grad_norms)),
    "largest variation": _largest_change,
    "loss variation": lambda p, b: 1.0 / (1.0 + metrics.mean_relative_change(p.losses)),
    "component variance": lambda p, b: metrics.stability_score(p.grad_component_variances),
    "last mini-batch": lambda p, b: metrics.stability_score(p.grad_norms_last),
    "signal share": _signal_share,
}
"""Of a profile and the batch it was taken at; None where undefined. All but the last have the form
1 / (1 + x), with x the coefficient of variation (SD / mean) of the epoch means of the norm, the
same without the first epoch, the SD of the log norm around its linear trend, the mean and the
largest relative change between epochs, the mean change of the loss, and the coefficients of
variation of the component variance and of the norm of each epoch's last mini-batch."""


@dataclass(frozen=True, kw_only=True)
class ScoreFormula:
    """One formula at one window."""

    name: str
    window: int
    repeatability: Score | None
    """Variance between architectures over that between seeds, within data sets."""
    rank_time_saved: Score | None
    """Spearman's correlation with the time saved, of architectures within a data set."""
    rank_accuracy: Score | None
    """The same with the change of accuracy."""


@dataclass(frozen=True)
class _Cell:
    """One architecture on one data set."""

    family: str
    data: str
    scores: tuple[float, ...]
    """One a seed."""
    time_saved_pct: float
    accuracy_delta_pp: float


def compare_formulas(rows: Sequence[CorpusRow]) -> tuple[ScoreFormula, ...]:
    """Every formula at every window, over the rows of one schedule.

    Only architectures with two seeds or more count. Intervals draw families again.
    """
    return tuple(
        ScoreFormula(
            name=name,
            window=window,
            repeatability=_with_interval(cells, _repeatability),
            rank_time_saved=_with_interval(cells, lambda c: _rank(c, "time_saved_pct")),
            rank_accuracy=_with_interval(cells, lambda c: _rank(c, "accuracy_delta_pp")),
        )
        for name, formula in FORMULAS.items()
        for window in WINDOWS
        if (cells := _cells(rows, formula, window))
    )


def _cells(
    rows: Sequence[CorpusRow], formula: Callable[[Profile, int], float | None], window: int
) -> list[_Cell]:
    groups: dict[tuple[str, str, str], list[CorpusRow]] = {}
    for row in rows:
        if len(row.profile_grad_norms) >= window:
            groups.setdefault((row.model, row.data, row.lr_schedule), []).append(row)
    cells = []
    for (_, data, schedule), group in sorted(groups.items()):
        told = [formula(r.profile.first(window), r.fixed_batch_sizes[0]) for r in group]
        scores = tuple(s for s in told if s is not None)
        if len(scores) == len(group) > 1:
            cells.append(
                _Cell(
                    group[0].family,
                    f"{data} {schedule}",
                    scores,
                    float(np.mean([r.curve_saved_pct for r in group])),
                    float(np.mean([r.accuracy_delta_pp for r in group])),
                )
            )
    return cells


def _repeatability(cells: Sequence[_Cell]) -> float:
    between, within = [], []
    for group in _by_data(cells):
        between.append(np.var([np.mean(c.scores) for c in group], ddof=1))
        within += [np.var(c.scores, ddof=1) for c in group]
    return float(np.mean(between) / np.mean(within)) if np.mean(within) > 0 else np.nan


def _rank(cells: Sequence[_Cell], outcome: str) -> float:
    """Mean over data sets of Spearman's correlation."""
    told = []
    for group in _by_data(cells):
        scores = rankdata([np.mean(c.scores) for c in group])
        benefit = rankdata([getattr(c, outcome) for c in group])
        if np.ptp(scores) > 0 and np.ptp(benefit) > 0:
            told.append(np.corrcoef(scores, benefit)[0, 1])
    return float(np.mean(told)) if told else np.nan


def _by_data(cells: Sequence[_Cell]) -> list[list[_Cell]]:
    """Cells of one data set together; a data set with fewer than three tells no rank."""
    groups = [[c for c in cells if c.data == d] for d in sorted({c.data for c in cells})]
    return [g for g in groups if len(g) > 2]


def _with_interval(
    cells: Sequence[_Cell], statistic: Callable[[Sequence[_Cell]], float]
) -> Score | None:
    if not _by_data(cells):
        return None
    value = statistic(cells)
    families = sorted({c.family for c in cells})
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    for names in rng.choice(families, size=(DRAWS, len(families))):
        again = [c for name in names for c in cells if c.family == name]
        if _by_data(again):
            drawn.append(statistic(again))
    known: NDArray[np.float64] = np.array(drawn)[~np.isnan(drawn)]
    if np.isnan(value) or not len(known):
        return None
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(known, [tail, 100.0 - tail])
    return Score(value=value, low=float(low), high=float(high))
