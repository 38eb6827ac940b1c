"""What was told beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stability_probe import metrics
from stability_probe.config import RunConfig
from stability_probe.records import Comparison, Prediction, Validation

_CLASS_OF = {"adapt": ("benefits",), "keep_fixed": ("neutral", "harms")}


def judge(
    config: RunConfig,
    seeds: Sequence[int],
    prediction: Prediction,
    pairs: Sequence[Comparison],
) -> Validation:
    """The prediction beside the mean outcome of the pairs."""
    time_saved = metrics.mean_std([p.time_saved_pct for p in pairs])
    delta = metrics.mean_std([p.accuracy_delta_pp for p in pairs])
    to_target = [p.time_to_target_saved_pct for p in pairs]
    measured_class = metrics.benefit_class(time_saved.mean, delta.mean, prediction.limits)
    told = (prediction.time_saved_interval_pct, prediction.accuracy_delta_interval_pp)
    inside = [
        ends[0] <= measured.mean <= ends[1]
        for measured, ends in zip((time_saved, delta), told, strict=True)
        if ends is not None
    ]
    expected = _CLASS_OF.get(prediction.verdict)
    return Validation(
        config=config.to_dict(),
        seeds=tuple(seeds),
        prediction=prediction,
        comparisons=tuple(pairs),
        time_saved_pct=time_saved,
        accuracy_delta_pp=delta,
        updates_saved_pct=metrics.mean_std([p.updates_saved_pct for p in pairs]).mean,
        time_to_target_saved_pct=(
            metrics.mean_std(to_target).mean if all(map(math.isfinite, to_target)) else None
        ),
        benefit_class=measured_class,
        inside_interval=all(inside) if inside else None,
        class_correct=None if expected is None else measured_class in expected,
    )
