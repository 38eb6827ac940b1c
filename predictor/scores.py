"""How the shipped predictor did on families that it never saw, as `data/scores.json` tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictor.corpus import corpus_path
from predictor.recipe import Recipe
from stability_probe.errors import MissingError
from stability_probe.files import read_json
from stability_probe.limits import Limits
from stability_probe.plain import from_plain


def squared_error(p: Any, share: Any) -> Any:
    """Expected (p − y)² of a probability, where a share of the outcomes y is 1 and the rest 0;
    numbers or arrays."""
    return share * (p - 1) ** 2 + (1 - share) * p**2


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number with its bootstrap interval over families."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class HeldOutCase:
    """One row as the chosen candidate saw it: told without its family, and what came of it."""

    model: str
    data: str
    seed: int
    family: str
    probability_of_benefit: float
    benefits: bool
    benefit_share: float
    """Of the run's last epochs, had it stopped there."""
    time_saved_told_pct: float
    time_saved_interval_pct: tuple[float, float]
    time_saved_pct: float
    """By the run's own batch sizes on the throughput curve."""
    measured_saved_pct: float
    """In measured seconds: what the interval should hold."""
    accuracy_delta_told_pp: float
    accuracy_delta_interval_pp: tuple[float, float]
    accuracy_delta_pp: float


@dataclass(frozen=True, kw_only=True)
class HorizonScores:
    """Runs of one length: what came of them, and what was told with each family held out."""

    epochs: int
    num_rows: int
    time_saved_pct: Score | None
    """By the curve."""
    accuracy_delta_pp: Score | None
    harms: Score | None
    """Share that lost more accuracy than a benefit may cost, of the runs' last epochs, had they
    stopped there; the same holds for benefits and Brier scores."""
    benefits: Score | None
    brier: Score | None
    """Of the probability that is told."""
    brier_of_base_rate: Score | None
    adapt: int
    """Rows whose verdict is to adapt."""
    adapt_right: int
    """Of which so many benefited."""
    keep_fixed: int
    keep_fixed_right: int
    """Of which so many did not."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The scores of what `probe` predicts with."""

    chosen: str
    limits: Limits
    """What was taken for a benefit."""
    recipe: Recipe
    """Of the runs."""
    num_rows: int
    num_models: int
    num_families: int
    interval_level: float
    """Nominal coverage."""
    brier: Score
    brier_of_base_rate: Score
    time_saved_mae: Score
    """Percentage points, by the curve."""
    time_saved_mae_measured: Score
    time_saved_coverage: Score
    """Share of the rows inside their interval."""
    accuracy_delta_coverage: Score
    cases: tuple[HeldOutCase, ...]
    horizons: tuple[HorizonScores, ...]
    """The shortest runs first."""


def load_held_out(path: Path | None = None) -> HeldOut:
    """The scores of the shipped rows, by default. Raises `MissingError` when they are damaged."""
    path = path or corpus_path().with_name("scores.json")
    values = read_json(path)
    try:
        by_name = {s["name"]: s for s in values["scores"]}
        own = by_name[values["chosen"]]
        return HeldOut(
            chosen=values["chosen"],
            limits=from_plain(Limits, values["limits"]),
            recipe=from_plain(Recipe, values["recipe"]),
            num_rows=values["num_rows"],
            num_models=values["num_models"],
            num_families=values["num_families"],
            interval_level=values["interval_level"],
            brier=from_plain(Score, own["brier"]),
            brier_of_base_rate=from_plain(Score, by_name["majority"]["brier"]),
            time_saved_mae=from_plain(Score, own["time_saved_mae"]),
            time_saved_mae_measured=from_plain(Score, own["time_saved_mae_measured"]),
            time_saved_coverage=from_plain(Score, own["time_saved_coverage"]),
            accuracy_delta_coverage=from_plain(Score, own["accuracy_delta_coverage"]),
            cases=tuple(from_plain(HeldOutCase, case) for case in values["cases"]),
            horizons=tuple(from_plain(HorizonScores, h) for h in values["horizons"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise MissingError(f"{path} is damaged ({error}); install the package again") from error
