"""A prediction put to the test: the full adaptive run beside the fixed one, seed by seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from predictor import predict
from predictor.corpus import CORPUS_READING
from stability_probe import metrics
from stability_probe.config import RunConfig
from stability_probe.errors import RunError
from stability_probe.paired import compare_runs
from stability_probe.probe import characterize
from stability_probe.progress import Progress, Quiet
from stability_probe.records import Comparison, Prediction, RunResult, Validation
from stability_probe.run import run
from stability_probe.store import Store

_CLASS_OF = {"adapt": ("benefits",), "keep_fixed": ("neutral", "harms")}


def validate(
    config: RunConfig,
    *,
    seeds: Sequence[int],
    store: Store,
    scheduler: str = "deba",
    scheduler_args: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Characterize and predict, then measure: fixed and adaptive full runs, paired by seed.

    The prediction is made before any full run starts, and the schedule is by default the one that
    the corpus was measured with, of which alone it speaks. Runs already in the store are used, not
    repeated. Raises `RunError` when a run diverged, so that there is nothing to compare.
    """
    progress = progress or Quiet()
    if scheduler_args is None:
        scheduler_args = CORPUS_READING if scheduler == "deba" else {}
    arguments = dict(scheduler_args)
    c = characterize(config, seeds=seeds, store=store, progress=progress)
    prediction = predict(c)
    resolved = RunConfig.from_dict(c.config)
    pairs = []
    for seed in seeds:
        fixed = dataclasses.replace(resolved, seed=seed)
        adaptive = dataclasses.replace(fixed, scheduler=scheduler, scheduler_args=arguments)
        pairs.append(
            compare_runs(
                _finished(run(fixed, store, progress)), _finished(run(adaptive, store, progress))
            )
        )
    return judge(config, seeds, prediction, pairs)


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
    measured_class = metrics.benefit_class(time_saved.mean, delta.mean)
    low, high = prediction.time_saved_interval_pct
    delta_low, delta_high = prediction.accuracy_delta_interval_pp
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
        inside_interval=low <= time_saved.mean <= high and delta_low <= delta.mean <= delta_high,
        class_correct=None if expected is None else measured_class in expected,
    )


def _finished(result: RunResult) -> RunResult:
    if result.status != "finished":
        raise RunError(
            f"{result.run_id} {result.status} after {len(result.epochs)} epochs; use a smaller --lr"
        )
    return result
