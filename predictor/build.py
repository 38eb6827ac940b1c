"""Rows of the corpus from the stored runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from predictor.corpus import CorpusRow, make_row
from stability_probe.config import RunConfig
from stability_probe.models import make_model, normalization
from stability_probe.records import ThroughputCurve, from_plain
from stability_probe.store import read_json, read_result
from stability_probe.sweep import curve_path, with_memory_format


def build_rows(configs: Sequence[RunConfig], root: Path) -> list[CorpusRow]:
    """One row for each adaptive run of the sweep whose fixed run is there too.

    Runs that are not finished yet are passed over; runs that diverged stay in.
    """
    found = []
    for config in configs:
        path = curve_path(root, config)
        if not path.exists():
            continue
        curve = from_plain(ThroughputCurve, read_json(path))
        resolved = with_memory_format(config, curve.memory_format)
        result = read_result(root / resolved.run_id())
        if result is not None and result.epochs:
            found.append((resolved, result, curve))
    return [
        make_row(
            fixed,
            adaptive,
            curve,
            normalization=_normalization(config.model),
            max_batch_size=config.max_batch_size or 0,
        )
        for config, adaptive, curve in found
        for other, fixed, _ in found
        if config.scheduler != "fixed" and _is_baseline(other, config)
    ]


def _is_baseline(candidate: RunConfig, config: RunConfig) -> bool:
    """The same run in everything but its schedule."""
    same = {**config.to_dict(), "scheduler": "fixed", "scheduler_args": {}}
    return candidate.to_dict() == same


@cache
def _normalization(model: str) -> str:
    return normalization(make_model(model, num_classes=10, img_size=32))
