"""What a prediction rests on: rehearsed batch sequences, the rate of harm, the nearest rows.

All of it is what the predictor does (`predictor.physical.ConstantHarm`), taken apart; only the
distance to the rows of the corpus is for the reader alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.corpus import CorpusRow, known_paths, load_rows
from predictor.examples import case_of, usable
from predictor.features import FEATURES, Case, make_cases, replayed_time_saved_pct
from predictor.fitted import FittedPredictor, fitted_predictor
from predictor.known_models import KnownModel, own_pairs
from predictor.likeness import FEATURE_WORDS, outside
from predictor.physical import rehearsals
from predictor.recipe import recipe_of, rows_like
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, MeanStd


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """One seed's window, carried on without training."""

    seed: int
    case: Case
    paths: tuple[tuple[int, ...], ...]
    """Batch sizes by epoch, one a draw of the scatter."""
    saved_pct: tuple[float, ...]
    """What each path saves on the throughput curve of the device."""
    limits: Limits

    @property
    def enough(self) -> float:
        """Share of the paths that save enough to be a benefit."""
        return float(np.mean(np.array(self.saved_pct) >= self.limits.min_time_saved_pct))


@dataclass(frozen=True, kw_only=True)
class FeatureRange:
    """A feature of the case beside its range in the corpus, in its own unit."""

    name: str
    value: float
    """Mean over seeds; nan where undefined."""
    low: float
    high: float
    outside: bool
    """In some seed, by more than the margin that a prediction allows."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One model of the corpus on one data set, over its seeds."""

    model: str
    data: str
    distance: float
    """Root of the mean squared difference of the features, each over its range in the corpus."""
    farthest: str
    """The feature that differs most, in words."""
    headroom: float
    stability_score: float
    time_saved_pct: MeanStd
    """By the batch sizes and the curve."""
    accuracy_delta_pp: MeanStd
    benefits: int
    """Seeds that benefited."""
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """A prediction taken apart."""

    fitted: FittedPredictor
    own: KnownModel | None
    """Pairs of the very model that its rate of harm counts in; None where there are none."""
    others_harm_rate: float
    """That of the corpus, which does not know whose runs are asked about."""
    rehearsed: tuple[Rehearsed, ...]
    probability_of_benefit: float
    time_saved_pct: float
    features: tuple[FeatureRange, ...]
    neighbours: tuple[Neighbour, ...]
    """All of the corpus, the nearest first."""


def make_grounds(c: Characterization, limits: Limits = DEFAULT_LIMITS) -> Grounds:
    """Of a prediction made now, from the shipped and the user's rows.

    Raises `MissingError` for an unusable corpus.
    """
    recipe, epochs = recipe_of(c.config), c.config["epochs"]
    fitted, cases = fitted_predictor(limits=limits, recipe=recipe, epochs=epochs), make_cases(c)
    own = own_pairs(c, fitted.models)
    told_by = fitted.told_by(own)
    known = fitted.knowing(own)
    told = known.estimates(cases)
    rows = usable(rows_like(load_rows(known_paths()), recipe, epochs))
    return Grounds(
        fitted=known,
        own=own if told_by is not None and told_by.silent is None else None,
        others_harm_rate=fitted.harm_rate,
        rehearsed=tuple(_rehearse(s, case, limits) for s, case in zip(c.seeds, cases, strict=True)),
        probability_of_benefit=float(told.probability_of_benefit.mean()),
        time_saved_pct=float(told.time_saved_pct.mean()),
        features=_feature_ranges(cases, fitted),
        neighbours=_neighbours(cases, rows, fitted),
    )


def _rehearse(seed: int, case: Case, limits: Limits) -> Rehearsed:
    paths = rehearsals(case)
    saved = tuple(map(float, replayed_time_saved_pct(paths, case)))
    return Rehearsed(seed=seed, case=case, paths=paths, saved_pct=saved, limits=limits)


def _feature_ranges(cases: Sequence[Case], fitted: FittedPredictor) -> tuple[FeatureRange, ...]:
    by_case = np.array([case.features for case in cases])
    told = zip(
        FEATURES, by_case.T, fitted.known.feature_low, fitted.known.feature_high, strict=True
    )
    return tuple(
        FeatureRange(
            name=FEATURE_WORDS[name] + (" / batch" if name == "log_noise_scale" else ""),
            value=_plain(name, _mean(values)),
            low=_plain(name, low),
            high=_plain(name, high),
            outside=any(outside(name, value, low, high) for value in values),
        )
        for name, values, low, high in told
    )


def _plain(name: str, value: float) -> float:
    """A feature in the unit that people know, without its logarithm."""
    if name == "log_norm_layers":
        return math.expm1(value)
    # `make_features` adds it where a zero has no logarithm.
    added = 1e-3 if name.endswith(("variation", "noise_scale")) else 0.0
    return math.exp(value) - added if name.startswith("log_") else value


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _neighbours(
    cases: Sequence[Case], rows: Sequence[CorpusRow], fitted: FittedPredictor
) -> tuple[Neighbour, ...]:
    width = np.array(fitted.known.feature_high) - np.array(fitted.known.feature_low)
    own = np.array([_mean(column) for column in np.array([c.features for c in cases]).T])
    groups: dict[tuple[str, str], list[CorpusRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.data), []).append(row)
    found = [_neighbour(own, group, width, fitted.limits) for group in groups.values()]
    return tuple(sorted(found, key=lambda n: (n.distance, n.model, n.data)))


def _neighbour(
    own: np.ndarray, rows: Sequence[CorpusRow], width: np.ndarray, limits: Limits
) -> Neighbour:
    features = np.array([case_of(row).features for row in rows])
    gaps = np.array([_mean(column) for column in features.T]) - own
    # A feature that is the same in all rows, or undefined here or there, tells no distance.
    counts = ~np.isnan(gaps) & (width > 0)
    scaled = np.abs(gaps[counts] / width[counts])
    names = np.array(FEATURES)[counts]
    window = [row.window.stability_score for row in rows]
    return Neighbour(
        model=rows[0].model,
        data=rows[0].data,
        distance=float(np.sqrt(np.mean(scaled**2))) if len(scaled) else math.nan,
        farthest=FEATURE_WORDS[str(names[scaled.argmax()])] if len(scaled) else "",
        headroom=metrics.headroom(rows[0].curve, rows[0].fixed_batch_sizes[0]),
        stability_score=float(np.mean(window)),
        time_saved_pct=metrics.mean_std([row.curve_saved_pct for row in rows]),
        accuracy_delta_pp=metrics.mean_std([row.accuracy_delta_pp for row in rows]),
        benefits=sum(row.benefit_class(limits) == "benefits" for row in rows),
        seeds=len(rows),
    )
