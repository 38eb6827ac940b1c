"""Where the variance of an outcome lies: between architectures, data sets, or only seeds; and what
seeds alone do: the least error that they leave to any prediction, the harm that is luck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.bootstrap import Draws
from predictor.corpus import END_EPOCHS, CorpusRow
from predictor.examples import finished
from predictor.scores import Score
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import ThroughputCurve

_OUTCOMES: dict[str, Callable[[CorpusRow, ThroughputCurve], float]] = {
    "time_saved_pct": lambda row, curve: row.saved_pct_on(curve),
    "accuracy_delta_pp": lambda row, _: row.accuracy_delta_pp,
}
"""By name, of a row on a curve: seeds may have been measured on several machines, which differ in
speed, and neighbours on one; neither is a component of the outcome."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Components of variance of one outcome, as shares of their sum."""

    architectures: float
    data_sets: float
    both: float
    """Of architecture and data set together: an effect that only that pair has."""
    seeds: float
    """What does not repeat when nothing but the seed changes: no one can predict it."""
    sd: float
    """Root of the sum, in the outcome's unit."""
    num_models: int
    num_data: int
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class SeedFloor:
    """The least error of any prediction that is the same for all seeds of a model and data set.

    It is half of how much two seeds differ, in the mean. For the Brier score that is what the true
    probability would get: two seeds whose benefit has probability p differ with 2 p (1 − p). For
    absolute errors it is a bound, since |a − b| ≤ |a − m| + |b − m| whatever m is told.
    """

    num_rows: int
    """That have another seed beside them."""
    brier: Score | None
    time_saved_mae: Score | None
    accuracy_delta_mae: Score | None


@dataclass(frozen=True, kw_only=True)
class HarmShares:
    """How often accuracy is lost beyond what a benefit may cost: by DEBA, and by luck alone."""

    deba: Score | None
    """Beside the fixed run of the same seed."""
    another_seed: Score | None
    """A fixed run beside that of another seed."""
    one_epoch: Score | None
    """A fixed run's last epoch beside the one before."""
    deba_averaged: Score | None
    """As `deba`, by the mean accuracy of the last `END_EPOCHS`: less of it is the epoch's."""
    another_seed_averaged: Score | None
    beyond_luck: Score | None
    """`deba` minus `another_seed`, of the rows that have both."""
    beyond_luck_averaged: Score | None
    fixed_scatter_pp: Score | None
    """How far the accuracy moves from epoch to epoch at the end, by `metrics.accuracy_scatter_pp`:
    the mean over fixed runs."""
    deba_scatter_pp: Score | None
    """The same of DEBA's, where they ran to their end."""


def variance_shares(rows: Sequence[CorpusRow]) -> dict[str, Shares]:
    """By outcome. Empty unless two models have two seeds on the same data.

    Rows are those of one schedule at the commonest recipe; models that lack one of the data sets
    are left out, and so are seeds beyond the number that every pair has.
    """
    recipe = Counter((r.lr_schedule, r.epochs) for r in rows).most_common(1)
    kept = [r for r in rows if recipe and (r.lr_schedule, r.epochs) == recipe[0][0]]
    table = _balanced(kept)
    if not table:
        return {}
    return {
        name: components(
            np.array(
                [[[told(r, cell[0].curve) for r in cell] for cell in model] for model in table]
            )
        )
        for name, told in _OUTCOMES.items()
    }


def seed_floor(
    rows: Sequence[CorpusRow], drawn: Draws, limits: Limits = DEFAULT_LIMITS
) -> SeedFloor:
    """What seeds leave to be told, over rows that have another seed of the same beside them.

    `drawn` are draws of the rows.
    """

    def least(difference: Callable[[CorpusRow, CorpusRow], float]) -> Score | None:
        return bootstrap.mean_score(_to_other_seeds(rows, difference) / 2, drawn)

    def disagree(one: CorpusRow, other: CorpusRow) -> float:
        """How often one of the two benefits and the other does not."""
        a, b = (row.benefit_share(limits, one.curve) for row in (one, other))
        return a * (1 - b) + b * (1 - a)

    def apart(name: str) -> Callable[[CorpusRow, CorpusRow], float]:
        told = _OUTCOMES[name]
        return lambda one, other: abs(told(one, one.curve) - told(other, one.curve))

    return SeedFloor(
        num_rows=int(have_other_seed(rows).sum()),
        brier=least(disagree),
        time_saved_mae=least(apart("time_saved_pct")),
        accuracy_delta_mae=least(apart("accuracy_delta_pp")),
    )


def harm_shares(
    rows: Sequence[CorpusRow], drawn: Draws, limits: Limits = DEFAULT_LIMITS
) -> HarmShares:
    """Of DEBA and of luck, for rows whose fixed runs have finished; `drawn` as in `seed_floor`."""

    def loses(accuracy: float, against: float) -> bool:
        return metrics.loses_accuracy(metrics.accuracy_delta_pp(accuracy, against), limits)

    def mean_end(accuracies: Sequence[float]) -> float:
        return float(np.mean(accuracies[-END_EPOCHS:]))

    def by_mean(row: CorpusRow) -> bool:
        diverged = row.adaptive_status == "diverged"
        reached = 0.0 if diverged else mean_end(row.adaptive_accuracies)
        return loses(reached, mean_end(row.fixed_accuracies))

    def scatter(runs: Sequence[Sequence[float]]) -> Score | None:
        moves = [metrics.accuracy_scatter_pp(run) for run in runs]
        return bootstrap.mean_score(np.array(moves, float), drawn)

    by_seed = _to_other_seeds(
        rows, lambda one, other: loses(one.fixed_accuracies[-1], other.fixed_accuracies[-1])
    )
    by_seed_averaged = _to_other_seeds(
        rows,
        lambda one, other: loses(mean_end(one.fixed_accuracies), mean_end(other.fixed_accuracies)),
    )
    ends = [row.fixed_accuracies[-2:] for row in rows]
    by_epoch = [loses(end[-1], end[0]) if len(end) > 1 else np.nan for end in ends]
    by_deba = np.array([metrics.loses_accuracy(r.accuracy_delta_pp, limits) for r in rows], float)
    by_deba_averaged = np.array([*map(by_mean, rows)], float)
    return HarmShares(
        deba=bootstrap.mean_score(by_deba, drawn),
        another_seed=bootstrap.mean_score(by_seed, drawn),
        one_epoch=bootstrap.mean_score(np.array(by_epoch, float), drawn),
        deba_averaged=bootstrap.mean_score(by_deba_averaged, drawn),
        another_seed_averaged=bootstrap.mean_score(by_seed_averaged, drawn),
        beyond_luck=bootstrap.mean_score(by_deba - by_seed, drawn),
        beyond_luck_averaged=bootstrap.mean_score(by_deba_averaged - by_seed_averaged, drawn),
        fixed_scatter_pp=scatter([row.fixed_accuracies for row in rows]),
        deba_scatter_pp=scatter([row.adaptive_accuracies if finished(row) else () for row in rows]),
    )


def _to_other_seeds(
    rows: Sequence[CorpusRow], difference: Callable[[CorpusRow, CorpusRow], float]
) -> NDArray[np.float64]:
    """The mean difference of each row to those that differ from it in the seed alone; nan where
    there are none. Shape [num_rows]."""
    cells: dict[tuple[object, ...], list[CorpusRow]] = {}
    for row in rows:
        cells.setdefault(row.all_but_seed, []).append(row)
    others = [[r for r in cells[row.all_but_seed] if r.seed != row.seed] for row in rows]
    return np.array(
        [
            np.mean([difference(row, other) for other in beside]) if beside else np.nan
            for row, beside in zip(rows, others, strict=True)
        ]
    )


def have_other_seed(rows: Sequence[CorpusRow]) -> NDArray[np.bool_]:
    """Which rows differ from another in the seed alone, shape [num_rows]."""
    return ~np.isnan(_to_other_seeds(rows, lambda one, other: 0.0))


def components(values: NDArray[np.float64]) -> Shares:
    """Random-effects components of values [num_models, num_data, num_seeds].

    Models and data sets are crossed, seeds lie within both; each mean square is set equal to its
    expectation (Searle, Casella & McCulloch, Variance Components, ch. 4), and a negative estimate
    counts as zero. With one data set its component and that of both are zero, since they cannot
    be told from the architecture's. Raises `ValueError` for fewer than two models or seeds.
    """
    a, d, r = values.shape
    if a < 2 or r < 2:
        raise ValueError("two models with two seeds each are needed")
    cell, model, data = values.mean(axis=2), values.mean(axis=(1, 2)), values.mean(axis=(0, 2))
    grand = values.mean()
    seeds = ((values - cell[:, :, None]) ** 2).sum() / (a * d * (r - 1))
    between = d * r * ((model - grand) ** 2).sum() / (a - 1)
    both = across = 0.0
    rest = seeds
    if d > 1:
        interaction = cell - model[:, None] - data[None, :] + grand
        rest = r * (interaction**2).sum() / ((a - 1) * (d - 1))
        both = max(0.0, (rest - seeds) / r)
        across = max(0.0, (a * r * ((data - grand) ** 2).sum() / (d - 1) - rest) / (a * r))
    architectures = max(0.0, (between - rest) / (d * r))
    total = architectures + across + both + seeds
    scale = total or 1.0
    return Shares(
        architectures=float(architectures / scale),
        data_sets=float(across / scale),
        both=float(both / scale),
        seeds=float(seeds / scale),
        sd=float(np.sqrt(total)),
        num_models=a,
        num_data=d,
        num_seeds=r,
    )


def _balanced(rows: Sequence[CorpusRow]) -> list[list[list[CorpusRow]]]:
    """Rows as [model][data][seed], every cell with as many; empty where there is no such table."""
    cells: dict[tuple[str, str], dict[int, CorpusRow]] = {}
    for row in rows:
        cells.setdefault((row.model, row.data), {})[row.seed] = row
    repeated: Mapping[tuple[str, str], Mapping[int, CorpusRow]] = {
        key: by_seed for key, by_seed in cells.items() if len(by_seed) > 1
    }
    models = sorted({model for model, _ in repeated})
    common = Counter(data for _, data in repeated)
    data_sets = sorted(d for d, count in common.items() if 3 * count >= 2 * len(models))
    complete = [m for m in models if all((m, d) in repeated for d in data_sets)]
    if len(complete) < 2 or not data_sets:
        return []
    table = [[repeated[m, d] for d in data_sets] for m in complete]
    count = min(len(cell) for model in table for cell in model)
    return [[[cell[s] for s in sorted(cell)[:count]] for cell in model] for model in table]
