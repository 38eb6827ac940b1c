"""The numbers that figures show, as pure functions of records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stability_probe.metrics import samples_per_s
from stability_probe.records import EpochRecord, ThroughputCurve

LOG_SPAN = 30.0
"""Values that span more than this factor get a logarithmic axis."""

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
Epochs = Sequence[EpochRecord]
Windows = Epochs | Sequence[Epochs]  # The epochs of one run, or of several seeds.


def epochs_by_seed(records: Windows) -> list[Epochs]:
    """One sequence of epochs a seed, whichever of the two forms came in."""
    single = [r for r in records if isinstance(r, EpochRecord)]
    return [single] if single else [r for r in records if not isinstance(r, EpochRecord)]


def epoch_series(epochs: Epochs, field: str) -> Series:
    """Epoch numbers and values of a field. Epochs without a value are left out; one that is not
    finite becomes NaN, so that the line breaks there instead of suggesting a measurement."""
    pairs = [(e.epoch, getattr(e, field)) for e in epochs if getattr(e, field) is not None]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return x, np.where(np.isfinite(y), y, np.nan)


def wants_log(values: Iterable[float]) -> bool:
    """Whether the finite values are all positive and span more than `LOG_SPAN`."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > LOG_SPAN


def batch_decisions(epochs: Epochs, action: str) -> list[tuple[float, int]]:
    """Boundary and following batch of each `action`; the last epoch has no batch after it."""
    return [(e.epoch + 0.5, n.batch_size) for e, n in pairwise(epochs) if e.action == action]


def speed_ups(curve: ThroughputCurve, batch_size: int | None = None) -> list[float]:
    """Speed of each point over that at `batch_size` (by default the first point's)."""
    if not curve.points:
        return []
    reference = samples_per_s(curve, batch_size or curve.points[0].batch_size)
    return [p.samples_per_s / reference if reference else math.nan for p in curve.points]


def symmetric_limit(values: Iterable[float]) -> float:
    """Half-width of an axis centred on zero that holds every finite value, with a margin."""
    return 1.15 * max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0
