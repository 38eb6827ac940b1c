"""Rows of the corpus from the stored runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from predictor.corpus import CorpusRow, make_row
from stability_probe.config import RunConfig
from stability_probe.models import make_model, normalization
from stability_probe.records import RunResult, ThroughputCurve, from_plain
from stability_probe.store import Store, read_json, read_result
from stability_probe.sweep import curve_path, with_memory_format


def build_rows(configs: Sequence[RunConfig], root: Path) -> list[CorpusRow]:
    """One row for each adaptive run of the sweep whose fixed run is there too.

    Runs that are not finished yet are passed over; runs that diverged stay in.
    """
    rows = []
    results = _results(configs, root)
    for config, result in results:
        if config.scheduler == "fixed":
            continue
        fixed = next((r for c, r in results if _is_baseline(c, config)), None)
        if fixed is not None:
            rows.append(
                make_row(
                    fixed,
                    result,
                    _curve(root, config.model),
                    normalization=_normalization(config.model),
                    max_batch_size=config.max_batch_size or 0,
                )
            )
    return rows


def _results(configs: Sequence[RunConfig], root: Path) -> list[tuple[RunConfig, RunResult]]:
    found = []
    for config in configs:
        if not curve_path(root, config.model).exists():
            continue
        resolved = with_memory_format(config, _curve(root, config.model).memory_format)
        result = read_result(Store(root).root / resolved.run_id())
        if result is not None and result.epochs:
            found.append((resolved, result))
    return found


def _is_baseline(candidate: RunConfig, config: RunConfig) -> bool:
    """The same run in everything but its schedule."""
    same = {**config.to_dict(), "scheduler": "fixed", "scheduler_args": {}}
    return candidate.to_dict() == same


def _curve(root: Path, model: str) -> ThroughputCurve:
    return from_plain(ThroughputCurve, read_json(curve_path(root, model)))


def _normalization(model: str) -> str:
    return normalization(make_model(model, num_classes=10, img_size=32))
