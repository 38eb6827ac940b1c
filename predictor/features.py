"""What the predictor may look at: the short window, the throughput curve, the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stability_probe import metrics
from stability_probe.records import Characterization, ModelSize, Profile, ThroughputCurve

_FAMILIES = (
    *("resnet", "densenet", "efficientnet", "mobilenetv2", "mobilenetv3", "vit", "deit", "regnet"),
    *("convnext", "vgg", "mnasnet", "shufflenet", "squeezenet", "mixer", "levit", "mobilevit"),
)
"""None begins as another does, so that their order does not matter."""

FEATURES = (
    "log_headroom",
    "stability_score",
    "log_grad_norm_variation",
    "log_loss_variation",
    "log_noise_scale",
    "log_num_params",
    "log_num_macs",
    "log_macs_per_tensor",
    "log_norm_layers",
    "batch_norm",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model on one device, before its full run."""

    features: tuple[float, ...]
    """In the order of `FEATURES`; nan where undefined."""
    profile: Profile
    """Of the probe's window."""
    curve: ThroughputCurve
    batch_size: int
    max_batch_size: int
    epochs: int
    updates_per_epoch: float
    """At the initial batch."""


def family(model: str) -> str:
    """The architecture family of a model's name; of an unknown one, its leading letters.

    >>> family("torchvision:shufflenet_v2_x0_5"), family("test_vit"), family("deit_tiny")
    ('shufflenet', 'vit', 'deit')
    """
    name = model.split(":")[-1].lower()
    for prefix in ("test_", "tf_", "wide_"):
        name = name.removeprefix(prefix)
    name = name.replace("mobilenet_v", "mobilenetv")  # as torchvision spells it
    for known in _FAMILIES:
        if name.startswith(known) or (known == "mixer" and "mixer" in name):
            return known
    letters = "".join(c if c.isalpha() else " " for c in name).split()
    return letters[0] if letters else name


def make_features(
    profile: Profile, curve: ThroughputCurve, batch_size: int, size: ModelSize
) -> tuple[float, ...]:
    """Numbers in the order of `FEATURES`, from the epochs of a window."""
    window = metrics.stability_metrics(profile)
    noise = window.noise_scale
    return (
        math.log(metrics.headroom(curve, batch_size)),
        window.stability_score,
        math.log(window.grad_norm_variation + 1e-3),
        math.log(window.loss_variation + 1e-3),
        math.nan if noise is None else math.log(noise / batch_size + 1e-3),
        math.log(size.num_params),
        math.log(size.num_macs) if size.num_macs else math.nan,
        math.log(size.num_macs / size.num_tensors) if size.num_macs else math.nan,
        math.log1p(size.num_norm_layers) if size.num_macs else math.nan,
        float(size.normalization in ("batch", "mixed")),
    )


def make_cases(c: Characterization) -> list[Case]:
    """One case a seed of a characterization."""
    batch_size = c.config["batch_size"]
    # One stored before sizes were recorded knows its parameters alone.
    size = c.size or ModelSize(
        num_params=c.num_params,
        num_macs=0,
        num_tensors=0,
        num_norm_layers=0,
        normalization=c.normalization,
    )
    profiles = [metrics.profile(window) for window in c.windows]
    return [
        Case(
            features=make_features(profile, c.curve, batch_size, size),
            profile=profile,
            curve=c.curve,
            batch_size=batch_size,
            max_batch_size=c.max_batch_size,
            epochs=c.config["epochs"],
            updates_per_epoch=c.num_train / batch_size,
        )
        for profile in profiles
    ]


@lru_cache(maxsize=256)
def path_multiples(paths: tuple[tuple[int, ...], ...], epochs: int) -> NDArray[np.float64]:
    """Batch sequences as multiples of their first batch, shape [num_paths, epochs].

    A shorter sequence keeps its last batch until the end; a longer one is cut.
    """
    rows = [[path[min(e, len(path) - 1)] / path[0] for e in range(epochs)] for path in paths]
    return np.array(rows)


def replayed_time_saved_pct(paths: tuple[tuple[int, ...], ...], case: Case) -> NDArray[np.float64]:
    """Time that measured batch sequences would save on the case's device, percent, [num_paths].

    Multiples of the initial batch are kept and cut off at the case's largest batch; times come
    from its throughput curve.
    """
    sizes = case.batch_size * path_multiples(paths, case.epochs)
    sizes = np.minimum(sizes, max(case.max_batch_size, case.batch_size))
    # The number of samples cancels.
    adaptive_s = metrics.path_time_s(case.curve, sizes, 1)
    fixed_s = metrics.path_time_s(case.curve, [case.batch_size] * case.epochs, 1)
    saved: NDArray[np.float64] = 100.0 * (1.0 - adaptive_s / fixed_s)
    return saved
