"""Hand-made characterizations, runs and corpora with known truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from predictor.corpus import CORPUS_READING, CorpusRow
from predictor.examples import Example
from predictor.features import FEATURES, Case
from stability_probe import metrics
from stability_probe.config import RunConfig
from stability_probe.limits import DEFAULT_LIMITS
from stability_probe.records import (
    Characterization,
    Comparison,
    ModelSize,
    Prediction,
    Profile,
    RunResult,
    StabilityMetrics,
)
from tests.factories import make_curve, make_epoch

CURVE = make_curve((16, 32, 64, 128, 256), (100.0, 150.0, 200.0, 240.0, 250.0))
FAMILIES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")

_ROW = CorpusRow(
    model="resnet10t",
    family="resnet",
    data="digits",
    seed=0,
    arm="deba",
    scheduler="deba",
    scheduler_args=json.dumps(CORPUS_READING),
    adaptive_lr=0.01,
    optimizer="sgd",
    lr=0.01,
    lr_schedule="fixed",
    lr_rule="none",
    momentum=0.9,
    weight_decay=5e-4,
    reset_moments=False,
    precision="float32",
    num_params=1_000_000,
    num_macs=20_000_000,
    num_tensors=60,
    num_norm_layers=20,
    normalization="batch",
    num_train=1000,
    num_test=400,
    epochs=4,
    window_epochs=2,
    max_batch_size=256,
    fixed_status="finished",
    adaptive_status="finished",
    fixed_batch_sizes=(16, 16, 16, 16),
    adaptive_batch_sizes=(16, 16, 32, 64),
    fixed_accuracies=(0.5, 0.6, 0.7, 0.8),
    adaptive_accuracies=(0.5, 0.6, 0.7, 0.8),
    fixed_cpu_s=(1.0, 1.0, 1.0, 1.0),
    adaptive_cpu_s=(1.0, 1.0, 0.75, 0.5),
    fixed_wall_s=4.5,
    adaptive_wall_s=3.5,
    fixed_updates=252,
    adaptive_updates=174,
    profile_losses=(2.0, 1.6, 1.4, 1.3),
    profile_grad_norms=(1.0, 0.9, 0.85, 0.8),
    profile_grad_norms_last=(1.1, 0.7, 0.9, 0.8),
    profile_grad_component_variances=(1e-6, 8e-7, 7e-7, 6e-7),
    trace_sigma=64.0,
    grad_sq_norm=1.0,
    curve_batch_sizes=(16, 32, 64, 128, 256),
    curve_samples_per_s=(100.0, 150.0, 200.0, 240.0, 250.0),
    curve_busy=False,
    memory_format="contiguous",
    device="cpu",
    device_name="a processor",
    torch="2.14.1",
    fixed_run_id="resnet10t-fixed-s0-0123456789",
    adaptive_run_id="resnet10t-deba-s0-0123456789",
)


def make_corpus_row(**fields: Any) -> CorpusRow:
    """A row with everything set that a test does not care for."""
    return dataclasses.replace(_ROW, **fields)


def outcome(time_saved_pct: float, accuracy_delta_pp: float) -> dict[str, Any]:
    """The fields of a row that give it this outcome, as measured and by its curve.

    Three of four epochs run at the largest batch, so at most 75 % can be saved.
    """
    left = 1.0 - time_saved_pct / 100
    return {
        "fixed_cpu_s": (1.0,) * 4,
        "adaptive_cpu_s": (left,) * 4,
        "adaptive_batch_sizes": (16, 256, 256, 256),
        "curve_batch_sizes": (16, 256),
        "curve_samples_per_s": (100.0, 300.0 / (4.0 * left - 1.0)),
        "fixed_accuracies": (0.5, 0.6, 0.7, 0.8),
        "adaptive_accuracies": (0.5, 0.6, 0.7, 0.8 + accuracy_delta_pp / 100),
    }


def make_corpus(
    rng: np.random.Generator,
    *,
    families: Sequence[str] = FAMILIES,
    models: int = 2,
    seeds: int = 2,
) -> list[CorpusRow]:
    """Models with much headroom benefit, those without stay neutral: a learnable rule.

    What is measured is what the curve says.

    Models come in pairs, one of each kind, that share every other feature: in no family and by
    no chance does anything but the headroom tell the kinds apart.
    """
    rows = []
    for name in families:
        for pair in range(models // 2):
            windows = [_random_window(rng) for _ in range(seeds)]
            for index, gains in ((2 * pair, True), (2 * pair + 1, False)):
                top = rng.uniform(2.5, 3.5) if gains else rng.uniform(1.0, 1.05)
                speeds = tuple(float(s) for s in 100.0 * np.linspace(1.0, top, 5))
                for seed, window in enumerate(windows):
                    delta = float(np.clip(rng.normal(0.5, 0.3), -0.4, 2.0))
                    grown = int(rng.choice([64, 96, 128, 256]))
                    row = make_corpus_row(
                        family=name,
                        model=f"{name}{index}",
                        seed=seed,
                        fixed_run_id=f"{name}{index}-fixed-s{seed}",
                        adaptive_run_id=f"{name}{index}-deba-s{seed}",
                        **(window | outcome(0.0, delta)),
                    )
                    row = dataclasses.replace(
                        row,
                        adaptive_batch_sizes=(16, 32, grown, grown),
                        curve_batch_sizes=_ROW.curve_batch_sizes,
                        curve_samples_per_s=speeds,
                    )
                    left = 1.0 - row.curve_saved_pct / 100  # as measured on a quiet machine
                    rows.append(dataclasses.replace(row, adaptive_cpu_s=(left,) * 4))
    return rows


def _random_window(rng: np.random.Generator) -> dict[str, Any]:
    """Stability from 0.6 to 0.9, changes from 5 to 80 %, and a size, independent of all else."""
    norms = np.cumprod([1.0, *rng.uniform(0.5, 0.95, size=3)])
    losses = np.cumprod([2.0, *rng.uniform(0.7, 0.95, size=3)])
    trace = rng.choice([20.0, 64.0, 200.0, None])
    return {
        "profile_losses": tuple(map(float, losses)),
        "profile_grad_norms": tuple(map(float, norms)),
        "profile_grad_component_variances": tuple(map(float, 1e-6 * norms**2)),
        "trace_sigma": trace,
        "grad_sq_norm": None if trace is None else 1.0,
        "num_params": int(rng.choice([10**5, 10**6, 10**7])),
        "num_macs": int(rng.choice([10**6, 10**7, 10**8])),
    }


def with_delta(example: Example, delta_pp: float) -> Example:
    """The same with another accuracy change, wherever it had stopped."""
    return dataclasses.replace(example, accuracy_delta_pp=delta_pp, end_deltas_pp=(delta_pp,))


def make_run(
    *,
    batch_sizes: Sequence[int],
    accuracies: Sequence[float],
    cpu_s: Sequence[float],
    time_s: Sequence[float] | None = None,
    updates: Sequence[int] | None = None,
    norms: Sequence[float] | None = None,
    device: str = "cpu",
    status: str = "finished",
    **config: Any,
) -> RunResult:
    """A stored run, one value an epoch."""
    count = len(batch_sizes)
    settings = {"model": "resnet10t", "epochs": max(count, 2), "window_epochs": 2, **config}
    described = RunConfig(**settings)
    return RunResult(
        run_id=described.run_id(),
        config=described.to_dict(),
        status=status,
        device=device,
        num_params=1_000_000,
        num_train=1000,
        num_test=400,
        memory_format="contiguous",
        environment={"device_name": "a processor", "torch": "2.14.1"},
        epochs=tuple(
            make_epoch(
                epoch=i + 1,
                batch_size=batch_sizes[i],
                test_accuracy=accuracies[i],
                cpu_s=cpu_s[i],
                time_s=(time_s or cpu_s)[i],
                updates=(updates or [10] * count)[i],
                grad_norm=(norms or [1.0] * count)[i],
                grad_norm_variation=None if i == 0 else 0.1 * i,
                loss_variation=None if i == 0 else 0.2 * i,
            )
            for i in range(count)
        ),
    )


def make_metrics(**fields: Any) -> StabilityMetrics:
    """Window metrics inside the range of `make_corpus`."""
    values: dict[str, Any] = {
        "stability_score": 0.8,
        "grad_norm_variation": 0.1,
        "grad_component_variance": 1e-4,
        "loss_variation": 0.1,
        "noise_scale": 64.0,
    }
    return StabilityMetrics(**(values | fields))


def make_characterization(
    windows: Sequence[StabilityMetrics] | None = None,
    norms: Sequence[Sequence[float]] | None = None,
    **fields: Any,
) -> Characterization:
    """A probed model, two epochs a seed of 2 s each; `config` replaces settings.

    `norms` are those of the epochs, by seed; `windows` what is told of them.
    """
    windows = windows or (make_metrics(), make_metrics(stability_score=0.82))
    norms = norms or [(1.0, 0.7 - 0.02 * seed) for seed in range(len(windows))]
    settings = {"model": "resnet10t", "epochs": 100, "window_epochs": 2, "batch_size": 16}
    config = RunConfig(**(settings | fields.pop("config", {})))
    values: dict[str, Any] = {
        "config": config.to_dict(),
        "seeds": tuple(range(len(windows))),
        "device": "cpu",
        "num_params": 1_000_000,
        "num_train": 1000,
        "num_test": 400,
        "max_batch_size": 256,
        "normalization": "batch",
        "metrics": tuple(windows),
        "windows": tuple(
            tuple(
                make_epoch(epoch=i + 1, grad_norm=n, loss=2.0 - 0.4 * i)
                for i, n in enumerate(by_epoch)
            )
            for by_epoch in norms
        ),
        "curve": CURVE,
        "probe_s": 10.0,
        "environment": {"device_name": "a processor", "torch": "2.14.1"},
        "size": make_size(),
    }
    return Characterization(**(values | fields))


def make_size(**fields: Any) -> ModelSize:
    """A convolutional net of a million parameters."""
    return dataclasses.replace(_ROW.size, **fields)


def make_profile(norms: Sequence[float], **fields: Any) -> Profile:
    """A profile with these epoch-mean norms, and all else in proportion."""
    values: dict[str, Any] = {
        "losses": tuple(2.0 * n for n in norms),
        "grad_norms": tuple(norms),
        "grad_norms_last": tuple(norms),
        "grad_component_variances": tuple(1e-6 * n * n for n in norms),
        "trace_sigma": None,
        "grad_sq_norm": None,
    }
    return Profile(**(values | fields))


def make_prediction(**fields: Any) -> Prediction:
    """A confident verdict."""
    values: dict[str, Any] = {
        "verdict": "adapt",
        "probability_of_benefit": 0.9,
        "time_saved_pct": 20.0,
        "time_saved_interval_pct": (10.0, 30.0),
        "accuracy_delta_pp": 0.5,
        "accuracy_delta_interval_pp": (-1.0, 2.0),
        "interval_level": 0.9,
        "reason": "a benefit has probability 0.90",
        "basis": "24 paired full runs of 8 models",
    }
    return Prediction(**(values | fields))


def make_comparison(time_saved_pct: float, accuracy_delta_pp: float, **fields: Any) -> Comparison:
    """A paired outcome with the class that follows from it."""
    values: dict[str, Any] = {
        "seed": 0,
        "time_saved_pct": time_saved_pct,
        "accuracy_delta_pp": accuracy_delta_pp,
        "updates_saved_pct": 40.0,
        "time_to_target_saved_pct": 5.0,
        "benefit_class": metrics.benefit_class(time_saved_pct, accuracy_delta_pp, DEFAULT_LIMITS),
    }
    return Comparison(**(values | fields))


def make_case(**fields: Any) -> Case:
    """One that headroom and features of 1 speak for."""
    values: dict[str, Any] = {
        "features": (1.0,) * len(FEATURES),
        "profile": make_profile((1.0, 0.8)),
        "curve": CURVE,
        "batch_size": 16,
        "max_batch_size": 256,
        "epochs": 100,
        "updates_per_epoch": 62.5,
    }
    return Case(**(values | fields))
