"""Rows of the corpus as examples to learn from: the case before the runs, the outcome after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.corpus import CORPUS_READING, CorpusRow, in_order
from predictor.features import Case, make_features
from stability_probe import metrics
from stability_probe.config import DEFAULT_READING
from stability_probe.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, kw_only=True)
class Example:
    """One case and what its full runs came to."""

    case: Case
    model: str
    family: str
    seed: int
    all_but_seed: tuple[object, ...]
    """Of the row: the same for other seeds of it."""
    path: tuple[int, ...]
    """Batch sizes of the adaptive run by epoch."""
    time_saved_pct: float
    """By the batch sizes and the curve of a quiet machine: what neighbours took is not in it."""
    measured_saved_pct: float
    """The same in measured seconds, neighbours and all: what an interval must hold."""
    accuracy_delta_pp: float
    end_deltas_pp: tuple[float, ...]
    """The same at each of the run's last epochs, had it stopped there."""
    limits: Limits = DEFAULT_LIMITS

    @property
    def benefits(self) -> bool:
        return self._class == "benefits"

    @property
    def harms(self) -> bool:
        return self._class == "harms"

    @property
    def benefit_share(self) -> float:
        """Of the last epochs; that of one alone is luck."""
        return self._share("benefits")

    @property
    def harm_share(self) -> float:
        return self._share("harms")

    @property
    def mean_end_delta_pp(self) -> float:
        return float(np.mean(self.end_deltas_pp))

    def _share(self, kind: str) -> float:
        return metrics.class_share(kind, self.time_saved_pct, self.end_deltas_pp, self.limits)

    @property
    def _class(self) -> str:
        return metrics.benefit_class(self.time_saved_pct, self.accuracy_delta_pp, self.limits)


def usable(rows: Iterable[CorpusRow]) -> list[CorpusRow]:
    """Rows of DEBA, as the corpus reads it, with a quiet machine's curve, in a fixed order.

    The fixed run has finished, and learned; that DEBA diverged beside it is an outcome, and counts.
    """
    return in_order(
        r
        for r in rows
        if is_deba(r) and not r.curve_busy and r.fixed_status == "finished" and learned(r)
    )


def is_deba(row: CorpusRow) -> bool:
    """A run of the reading that predictions speak of, and of no other."""
    return is_corpus_reading(row.scheduler, json.loads(row.scheduler_args))


def is_corpus_reading(scheduler: str, arguments: Mapping[str, Any]) -> bool:
    """Whether predictions speak of a schedule: DEBA as the corpus reads it."""
    return scheduler == "deba" and {"reading": DEFAULT_READING, **arguments} == CORPUS_READING


def finished(row: CorpusRow) -> bool:
    """Both runs of a row ran to their end."""
    return row.fixed_status == row.adaptive_status == "finished"


def learned(row: CorpusRow) -> bool:
    """The fixed run was no stuck one, of which any batch would be as good."""
    return metrics.learns(row.profile.losses)


def make_examples(rows: Sequence[CorpusRow], limits: Limits = DEFAULT_LIMITS) -> list[Example]:
    """One example a row, in the same order; what is a benefit follows from its raw outcome."""
    return [
        Example(
            case=case_of(row),
            model=row.model,
            family=row.family,
            seed=row.seed,
            all_but_seed=row.all_but_seed,
            path=row.adaptive_batch_sizes,
            time_saved_pct=row.curve_saved_pct,
            measured_saved_pct=row.time_saved_pct,
            accuracy_delta_pp=row.accuracy_delta_pp,
            end_deltas_pp=row.end_deltas_pp,
            limits=limits,
        )
        for row in rows
    ]


def case_of(row: CorpusRow) -> Case:
    """The case a row was before its full runs: nothing after the probe's window is in it."""
    profile = row.profile.first(row.window_epochs)
    batch_size = row.fixed_batch_sizes[0]
    return Case(
        features=make_features(profile, row.curve, batch_size, row.size),
        profile=profile,
        curve=row.curve,
        batch_size=batch_size,
        max_batch_size=row.max_batch_size,
        epochs=row.epochs,
        updates_per_epoch=row.num_train / batch_size,
    )


def weights_by_model(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Shares [num_examples] that sum to one: each model counts alike, however many its runs."""
    return equal_weights([e.model for e in examples])


def equal_weights(names: Sequence[str]) -> NDArray[np.float64]:
    """Shares [num_names] that sum to one, and to the same over each distinct name."""
    counts = Counter(names)
    return np.array([1 / (len(counts) * counts[name]) for name in names])


def weighted_share(which: Sequence[float], weights: NDArray[np.float64]) -> float:
    """Of shares, or of those that are, by weights that sum to one, up to rounding: at most 1."""
    return min(1.0, float(weights @ np.asarray(which)))


def families(examples: Iterable[Example]) -> list[str]:
    """Distinct families, sorted."""
    return sorted({e.family for e in examples})
