"""Formulas for a stability score: does it repeat across seeds, and does it rank who benefits?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.bootstrap import of_draws, spearman
from predictor.corpus import CorpusRow
from predictor.scores import Score
from stability_probe import metrics
from stability_probe.records import Profile

WINDOWS = (2, 3, 4, 5, 10)
"""Epochs; 4 is the probe's own, at whose end the noise was measured."""
DRAWS = 200
_NOISE_WINDOW = 4


def _detrended(profile: Profile, batch_size: int) -> float | None:
    """1 / (1 + SD of the log norm around its linear trend)."""
    if len(profile.grad_norms) < 3 or min(profile.grad_norms) <= 0:
        return None
    logs = np.log(profile.grad_norms)
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
    signal, noise = max(0.0, profile.grad_sq_norm), max(0.0, profile.trace_sigma)
    expected = metrics.expected_sq_norm(signal, noise, batch_size)
    return signal / expected if expected > 0 else None


FORMULAS: Mapping[str, Callable[[Profile, int], float | None]] = {
    "CV of the norm": lambda p, b: metrics.stability_score(p.grad_norms),
    "from epoch 2": _settled,
    "detrended norm": _detrended,
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
class _Cells:
    """One entry an architecture and data set, all arrays [num_cells]."""

    family: NDArray[np.str_]
    data: NDArray[np.str_]
    """Data set and recipe: only what shares both is compared."""
    mean: NDArray[np.float64]
    """Of the score over seeds."""
    variance: NDArray[np.float64]
    """Between seeds."""
    num_seeds: NDArray[np.float64]
    time_saved_pct: NDArray[np.float64]
    accuracy_delta_pp: NDArray[np.float64]

    def groups(self, drawn: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """The drawn cells of each data set; a data set with fewer than three tells no rank."""
        data = self.data[drawn]
        groups = [drawn[data == name] for name in np.unique(data)]
        return [g for g in groups if len(g) > 2]


def compare_formulas(rows: Sequence[CorpusRow]) -> tuple[ScoreFormula, ...]:
    """Every formula at every window, over the rows of one schedule.

    Only architectures with two seeds or more count. Intervals draw families again.
    """
    told = []
    for name, formula in FORMULAS.items():
        for window in WINDOWS:
            cells = _cells(rows, formula, window)
            if cells is None:
                continue
            repeatability, time_saved, accuracy = _statistics(cells)
            told.append(
                ScoreFormula(
                    name=name,
                    window=window,
                    repeatability=repeatability,
                    rank_time_saved=time_saved,
                    rank_accuracy=accuracy,
                )
            )
    return tuple(told)


def _cells(
    rows: Sequence[CorpusRow], formula: Callable[[Profile, int], float | None], window: int
) -> _Cells | None:
    groups: dict[tuple[str, str, str], list[CorpusRow]] = {}
    for row in rows:
        if len(row.profile_grad_norms) >= window:
            groups.setdefault((row.model, row.data, row.lr_schedule), []).append(row)
    cells = []
    for (_, data, schedule), group in sorted(groups.items()):
        told = [formula(r.profile.first(window), r.fixed_batch_sizes[0]) for r in group]
        scores = [s for s in told if s is not None]
        if len(scores) == len(group) > 1:
            saved = np.mean([r.curve_saved_pct for r in group])
            delta = np.mean([r.accuracy_delta_pp for r in group])
            spread = np.var(scores, ddof=1)
            words = (group[0].family, f"{data} {schedule}")
            cells.append((*words, np.mean(scores), spread, len(scores), saved, delta))
    return _Cells(*map(np.array, zip(*cells, strict=True))) if cells else None


def _statistics(cells: _Cells) -> tuple[Score | None, Score | None, Score | None]:
    """Repeatability, and rank correlation with time saved and accuracy, with intervals."""
    members = {name: np.flatnonzero(cells.family == name) for name in np.unique(cells.family)}
    rng = np.random.default_rng(0)
    draws = [np.arange(len(cells.mean))]
    for names in rng.choice(list(members), size=(DRAWS, len(members))):
        draws.append(np.concatenate([members[name] for name in names]))
    values = np.array([_told(cells, drawn) for drawn in draws])
    scores = [of_draws(column, cells.family) for column in values.T]
    return scores[0], scores[1], scores[2]


def _told(cells: _Cells, drawn: NDArray[np.intp]) -> tuple[float, float, float]:
    """The three statistics of some cells; nan where undefined."""
    groups = cells.groups(drawn)
    if not groups:
        return np.nan, np.nan, np.nan
    at = np.concatenate(groups)
    within = cells.variance[at].mean()
    # The means over seeds scatter by what seeds leave in them, too.
    left = (cells.variance[at] / cells.num_seeds[at]).mean()
    between = max(0.0, np.mean([cells.mean[g].var(ddof=1) for g in groups]) - left)
    ranks = [
        np.array([spearman(cells.mean[g], outcome[g]) for g in groups])
        for outcome in (cells.time_saved_pct, cells.accuracy_delta_pp)
    ]
    means = [float(r[~np.isnan(r)].mean()) if not np.isnan(r).all() else np.nan for r in ranks]
    return float(between / within) if within > 0 else np.nan, means[0], means[1]
