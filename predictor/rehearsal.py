"""DEBA rehearsed on an extrapolated window: which batch sizes it would choose, without training.

A model of the climb that needs no corpus. The window's norm and loss go on as power laws of
the epoch, with the window's own scatter; the norm also falls with the batch, as the measured noise
says. Whether that predicts anything is for `predictor.evaluate` to show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stability_probe.config import MAX_COUNT, RunConfig
from stability_probe.metrics import expected_sq_norm, relative_change
from stability_probe.records import EpochRecord, NoiseScaleRecord, Profile
from stability_probe.schedulers import make_scheduler

_NUM_TRAIN = MAX_COUNT  # bounds are given, so that no decision depends on it


def rehearse(
    profile: Profile,
    *,
    batch_size: int,
    max_batch_size: int,
    epochs: int,
    scheduler_args: dict[str, Any],
    seed: int = 0,
) -> tuple[int, ...]:
    """Batch sizes by epoch, the first `batch_size`. Raises `ValueError` for fewer than two epochs.

    `scheduler_args` are those of DEBA; `seed` draws the scatter.
    """
    window = len(profile.grad_norms)
    config = RunConfig(
        model="rehearsal",
        batch_size=batch_size,
        max_batch_size=max(batch_size, max_batch_size),
        epochs=max(epochs, window),
        window_epochs=window,
        scheduler="deba",
        scheduler_args=scheduler_args,
    )
    policy = make_scheduler(config, _NUM_TRAIN)
    sizes = [batch_size]
    for record in _records(profile, epochs, sizes, np.random.default_rng(seed)):
        sizes.append(policy.step(record).batch_size)
    return tuple(sizes[:epochs])


def extrapolate(
    values: tuple[float, ...], epochs: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The values, then a power law of the epoch fitted to them, with their scatter; [epochs]."""
    if len(values) < 2:
        raise ValueError("two epochs are needed to tell a trend")
    known = np.log(np.maximum(values, 1e-12))
    at = np.log(np.arange(1, max(epochs, len(values)) + 1))
    slope, level = np.polyfit(at[: len(known)], known, 1)
    residuals = known - (level + slope * at[: len(known)])
    scatter = np.sqrt(np.sum(residuals**2) / max(1, len(known) - 2))
    drawn = level + slope * at + scatter * rng.standard_normal(len(at))
    whole: NDArray[np.float64] = np.exp(np.concatenate([known, drawn[len(known) :]]))
    return whole[:epochs]


def _records(
    profile: Profile, epochs: int, sizes: list[int], rng: np.random.Generator
) -> Iterator[EpochRecord]:
    """What each epoch would report, at the last of `sizes`, which the caller extends."""
    losses = extrapolate(profile.losses, epochs, rng)
    norms = extrapolate(profile.grad_norms, epochs, rng)
    known = np.square(profile.grad_norms)
    # A gradient that is zero has no ratio.
    ratios = np.array(profile.grad_component_variances)[known > 0] / known[known > 0]
    ratio = float(ratios.mean()) if len(ratios) else 0.0
    noise = _noise(profile)
    previous: tuple[float, float] | None = None
    for epoch in range(1, epochs + 1):
        shrunk = norms[epoch - 1] * _norm_at(noise, sizes[-1]) / _norm_at(noise, sizes[0])
        norm, loss = float(shrunk), float(losses[epoch - 1])
        yield EpochRecord(
            epoch=epoch,
            batch_size=sizes[-1],
            micro_batch_size=sizes[-1],
            lr=0.0,
            updates=1,
            samples=_NUM_TRAIN,
            loss=loss,
            grad_norm=norm,
            grad_norm_sem=0.0,
            grad_norm_last=norm,
            grad_component_variance=ratio * norm * norm,
            num_measured_steps=1,
            grad_norm_variation=None if previous is None else relative_change(norm, previous[0]),
            loss_variation=None if previous is None else relative_change(loss, previous[1]),
            test_loss=loss,
            test_accuracy=0.0,
            time_s=0.0,
            cpu_s=0.0,
            noise=noise if epoch == len(profile.losses) else None,
        )
        previous = norm, loss


def _noise(profile: Profile) -> NoiseScaleRecord | None:
    if profile.trace_sigma is None or profile.grad_sq_norm is None:
        return None
    return NoiseScaleRecord(
        trace_sigma=max(0.0, profile.trace_sigma),
        grad_sq_norm=max(0.0, profile.grad_sq_norm),
        noise_scale=None,
        num_samples=0,
        time_s=0.0,
    )


def _norm_at(noise: NoiseScaleRecord | None, batch_size: int) -> float:
    """Root of E‖g_B‖² = ‖G‖² + tr Σ / B; 1 where the noise is not known."""
    if noise is None or noise.grad_sq_norm + noise.trace_sigma == 0:
        return 1.0
    return float(np.sqrt(expected_sq_norm(noise.grad_sq_norm, noise.trace_sigma, batch_size)))
