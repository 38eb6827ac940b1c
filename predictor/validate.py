"""A prediction put to the test: the full adaptive run beside the fixed one, seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from predictor.corpus import CORPUS_READING
from predictor.judge import judge
from predictor.prediction import predict
from stability_probe.config import RunConfig, checked_seeds, run_ids
from stability_probe.errors import RunError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.paired import compare_runs, require_machine
from stability_probe.probe import characterize
from stability_probe.progress import Progress, Quiet
from stability_probe.records import RunResult, Validation
from stability_probe.run import run
from stability_probe.store import Store, as_store
from stability_probe.stored import as_stored


def validate(
    config: RunConfig,
    *,
    seeds: Iterable[int],
    store: Store | Path | str,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Validation:
    """Characterize and predict, then measure: fixed and adaptive full runs, paired by seed.

    The prediction is made before any full run starts, and without rows of these very runs, where
    they were added to the user's. The schedule is the one that the corpus was measured with, of
    which alone it speaks. Runs already in the store are used, not repeated. Raises
    `RunError` when a run diverged, so that there is nothing to compare, and `UsageError` when a
    stored one is of another machine than the prediction speaks of.
    """
    progress, store, seeds = progress or Quiet(), as_store(store), checked_seeds(seeds)
    c = characterize(config, seeds=seeds, store=store, progress=progress)
    resolved = RunConfig.from_dict(c.config)
    baselines = [dataclasses.replace(resolved, seed=seed) for seed in seeds]
    known = {name for fixed in baselines for name in run_ids(fixed)}
    prediction = predict(c, limits=limits, without=known)
    # Kept, so that `probe report` finds it beside the runs that follow.
    path = store.save_characterization(c, prediction)
    if not path.stem.endswith("-1"):
        progress.note("probed before: the throughput was measured anew, and so is the prediction")
    pairs = []
    for fixed in baselines:
        adaptive = dataclasses.replace(fixed, scheduler="deba", scheduler_args=dict(CORPUS_READING))
        results = []
        for wanted in (fixed, adaptive):
            result = _finished(run(as_stored(wanted, store.root), store, progress))
            # Before the next one is trained in vain.
            require_machine(result, c.environment)
            results.append(result)
        pairs.append(compare_runs(results[0], results[1], limits))
    return judge(config, seeds, prediction, pairs)


def _finished(result: RunResult) -> RunResult:
    if result.status != "finished":
        raise RunError(
            f"{result.run_id} {result.status} after {len(result.epochs)} epochs; use a smaller --lr"
        )
    return result
