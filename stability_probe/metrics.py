"""Signals, stability and outcomes as pure functions of numbers and records.

The probe, the schedules and the predictor all call these; no formula is written twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stability_probe.limits import Limits
from stability_probe.records import (
    EpochRecord,
    MeanStd,
    NoiseScaleRecord,
    Profile,
    StabilityMetrics,
    ThroughputCurve,
)

LEAST_FALL = 0.05
"""Share of the first epoch's loss by which a network that learns has improved on it in a window."""
SCATTER_CHANGES = 5
"""How many changes between epochs, at the end of a run, tell its scatter."""
TARGET_MARGIN_PP = 0.5
"""Time to target is time until the fixed run's final accuracy minus this is first reached."""
_ROUNDING_PP = 1e-3
"""Accuracies are whole numbers of test samples, so that a difference of exactly a limit is common,
and as a difference of fractions, six digits each in a corpus, lies on either side of it: so much is
forgiven."""


def relative_change(current: float, previous: float) -> float:
    """|current − previous| / (|previous| + 1e-8) (arXiv 2511.03809, norm and loss variation).

    >>> round(relative_change(3.0, 2.0), 6)
    0.5
    """
    return abs(current - previous) / (abs(previous) + 1e-8)


def component_variance(sq_norm: float, total: float, num_components: int) -> float:
    """Variance over the components of a gradient, from Σg² and Σg.

    >>> component_variance(14.0, 6.0, 3) == np.var([1.0, 2.0, 3.0])
    True
    """
    mean = total / num_components
    return max(0.0, sq_norm / num_components - mean * mean)


def gradient_statistics(sums: Sequence[Sequence[float]], num_components: int) -> dict[str, Any]:
    """Fields of an `EpochRecord` from (‖g‖², Σg) of each measured step, at least one."""
    norms = np.sqrt([sq_norm for sq_norm, _ in sums])
    variances = [component_variance(sq, total, num_components) for sq, total in sums]
    count = len(norms)
    return {
        "grad_norm": float(norms.mean()),
        "grad_norm_sem": float(norms.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        "grad_norm_last": float(norms[-1]),
        "grad_component_variance": float(np.mean(variances)),
        "grad_component_variance_last": variances[-1],
        "num_measured_steps": count,
    }


def variations(measured: Mapping[str, Any], previous: EpochRecord | None) -> dict[str, Any]:
    """Fields of an `EpochRecord`: change of norm and loss since the epoch before."""
    if previous is None:
        return {"grad_norm_variation": None, "loss_variation": None}
    return {
        f"{name}_variation": relative_change(measured[name], getattr(previous, name))
        for name in ("grad_norm", "loss")
    }


def noise_scale(
    small_sq_norms: Sequence[float],
    big_sq_norm: float,
    small_batch: int,
    *,
    time_s: float = 0.0,
) -> NoiseScaleRecord:
    """Simple noise scale tr Σ / ‖G‖² from micro-batches at fixed parameters.

    `small_sq_norms` are the squared norms of the gradients of k micro-batches of `small_batch`
    samples, `big_sq_norm` that of their mean gradient. With b = small_batch and B = k·b, both
    estimates are unbiased (McCandlish et al., arXiv 1812.06162, App. A.1):

        ‖G‖² = (B·|g_B|² − b·|g_b|²) / (B − b),   tr Σ = (|g_b|² − |g_B|²) / (1/b − 1/B).

    Raises `ValueError` for fewer than two micro-batches.
    """
    k = len(small_sq_norms)
    if k < 2:
        raise ValueError("the noise scale needs at least two micro-batches")
    big_batch = k * small_batch
    small = float(np.mean(small_sq_norms))
    grad_sq_norm = (big_batch * big_sq_norm - small_batch * small) / (big_batch - small_batch)
    trace_sigma = (small - big_sq_norm) / (1 / small_batch - 1 / big_batch)
    return NoiseScaleRecord(
        trace_sigma=trace_sigma,
        grad_sq_norm=grad_sq_norm,
        noise_scale=noise_over_signal(trace_sigma, grad_sq_norm),
        num_samples=big_batch,
        time_s=time_s,
    )


def noise_over_signal(trace_sigma: float, grad_sq_norm: float) -> float | None:
    """tr Σ / ‖G‖² in samples, None where an estimate has the wrong sign."""
    defined = grad_sq_norm > 0 and trace_sigma >= 0
    return trace_sigma / grad_sq_norm if defined else None


def expected_sq_norm(grad_sq_norm: float, trace_sigma: float, batch_size: float) -> float:
    """E‖g_B‖² = ‖G‖² + tr Σ / B of a mini-batch gradient (arXiv 1812.06162, App. A.1)."""
    return grad_sq_norm + trace_sigma / batch_size


def profile(epochs: Sequence[EpochRecord]) -> Profile:
    """What the first epochs of a fixed-batch run say, without the rest of their records."""
    noise = [e.noise for e in epochs if e.noise is not None]
    return Profile(
        losses=tuple(e.loss for e in epochs),
        grad_norms=tuple(e.grad_norm for e in epochs),
        grad_norms_last=tuple(e.grad_norm_last for e in epochs),
        grad_component_variances=tuple(e.grad_component_variance for e in epochs),
        trace_sigma=noise[-1].trace_sigma if noise else None,
        grad_sq_norm=noise[-1].grad_sq_norm if noise else None,
    )


def learns(losses: Sequence[float]) -> bool:
    """Whether the mean loss of some epoch lies clearly below the first's; of one epoch, unknown.

    Where it does not, the network is stuck (dead units, a rate far off): it loses no accuracy
    with any batch, and no batch is worth choosing for it.

    >>> learns([2.31, 1.9]), learns([2.3046, 2.3027, 2.3026]), learns([2.3])
    (True, False, True)
    """
    return len(losses) < 2 or min(losses) < (1.0 - LEAST_FALL) * losses[0]


def stability_score(grad_norms: Sequence[float]) -> float:
    """1 / (1 + CV) of the epoch-mean gradient norms of a window; in (0, 1], 1 is steady.

    CV is the sample standard deviation over the mean. Our definition: the paper's formula is
    not public in its abstract. Raises `ValueError` for fewer than two epochs.

    >>> stability_score([2.0, 2.0, 2.0])
    1.0
    """
    if len(grad_norms) < 2:
        raise ValueError("the stability score needs at least two epochs")
    mean = float(np.mean(grad_norms))
    if mean == 0:
        return 1.0
    return 1.0 / (1.0 + float(np.std(grad_norms, ddof=1)) / mean)


def stability_metrics(window: Profile) -> StabilityMetrics:
    """What the first epochs of a run say. Raises `ValueError` for fewer than two epochs."""
    trace, signal = window.trace_sigma, window.grad_sq_norm
    return StabilityMetrics(
        stability_score=stability_score(window.grad_norms),
        grad_norm_variation=mean_relative_change(window.grad_norms),
        grad_component_variance=float(np.mean(window.grad_component_variances)),
        loss_variation=mean_relative_change(window.losses),
        noise_scale=(None if trace is None or signal is None else noise_over_signal(trace, signal)),
    )


def mean_relative_change(values: Sequence[float]) -> float:
    """Mean of `relative_change` between neighbours. Raises `ValueError` for fewer than two."""
    if len(values) < 2:
        raise ValueError("a change needs at least two epochs")
    return float(np.mean([relative_change(b, a) for a, b in itertools.pairwise(values)]))


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation (None for one value) over seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return MeanStd(mean=float(np.mean(values)), std=std)


def samples_per_s(curve: ThroughputCurve, batch_size: ArrayLike) -> Any:
    """Speed at any batch size, or an array of them: linear in log batch between points, flat
    beyond the ends."""
    sizes = np.log([p.batch_size for p in curve.points])
    return np.interp(np.log(batch_size), sizes, [p.samples_per_s for p in curve.points])


def best_batch_size(curve: ThroughputCurve, batch_size: int) -> int:
    """The fastest measured batch from `batch_size` up."""
    points = [p for p in curve.points if p.batch_size >= batch_size]
    return max(points, key=lambda p: p.samples_per_s).batch_size if points else batch_size


def headroom(curve: ThroughputCurve, batch_size: int) -> float:
    """Samples/s at the best larger batch over samples/s at `batch_size`; at least 1."""
    best = samples_per_s(curve, best_batch_size(curve, batch_size))
    return max(1.0, float(best / samples_per_s(curve, batch_size)))


def path_time_s(curve: ThroughputCurve, batch_sizes: ArrayLike, num_train: int) -> Any:
    """Seconds that epochs at these batch sizes, [..., epochs], take on the device of the curve."""
    return (num_train / samples_per_s(curve, np.asarray(batch_sizes))).sum(axis=-1)


def saved_pct(adaptive: float, fixed: float) -> float:
    """100 × (1 − adaptive / fixed): time, updates or samples saved, in percent."""
    return 100.0 * (1.0 - adaptive / fixed)


def accuracy_delta_pp(adaptive: float, fixed: float) -> float:
    """Adaptive minus fixed accuracy (fractions), in percentage points."""
    return 100.0 * (adaptive - fixed)


def accuracy_scatter_pp(accuracies: Sequence[float]) -> float | None:
    """How far a run's accuracy (fractions, by epoch) moves from epoch to epoch at its end.

    Root mean square of the last `SCATTER_CHANGES` changes, percentage points; None for one epoch. A
    difference of two final accuracies that is no larger depends on when the runs were stopped.

    >>> round(accuracy_scatter_pp([0.90, 0.91, 0.90]), 3)
    1.0
    """
    changes = np.diff(np.asarray(accuracies[-SCATTER_CHANGES - 1 :], dtype=np.float64))
    return 100.0 * float(np.sqrt(np.mean(changes**2))) if len(changes) else None


def loses_accuracy(delta_pp: float, limits: Limits) -> bool:
    """Whether an accuracy change costs more than a benefit may."""
    return delta_pp < -limits.max_accuracy_loss_pp - _ROUNDING_PP


def time_to_target_s(accuracies: Sequence[float], times_s: Sequence[float], target: float) -> float:
    """Training seconds until `target` accuracy is first reached; infinite on a miss."""
    elapsed = np.cumsum(times_s)
    for accuracy, seconds in zip(accuracies, elapsed, strict=True):
        if accuracy_delta_pp(accuracy, target) >= -_ROUNDING_PP:
            return float(seconds)
    return math.inf


def benefit_class(time_saved_pct: float, accuracy_delta: float, limits: Limits) -> str:
    """benefits, neutral or harms, from time saved (%) and accuracy change (pp)."""
    if loses_accuracy(accuracy_delta, limits):
        return "harms"
    return "benefits" if time_saved_pct >= limits.min_time_saved_pct else "neutral"


def class_share(
    kind: str, time_saved_pct: float, accuracy_deltas: Sequence[float], limits: Limits
) -> float:
    """Share of `accuracy_deltas` (pp), at least one, whose `benefit_class` is `kind`."""
    kinds = [benefit_class(time_saved_pct, delta, limits) for delta in accuracy_deltas]
    return kinds.count(kind) / len(kinds)
