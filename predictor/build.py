"""Rows of the corpus from the stored runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from predictor.corpus import CorpusRow, make_row
from stability_probe.models import make_model, normalization
from stability_probe.store import read_result
from stability_probe.sweep import SweepRun, stored_curve, with_memory_format


def build_rows(runs: Sequence[SweepRun], root: Path) -> list[CorpusRow]:
    """One row for each run of the sweep beside the baseline of its grid point.

    Runs that are not finished yet are passed over; runs that diverged stay in.
    """
    rows = []
    for run in runs:
        curve = stored_curve(run, root)
        if curve is None or run.config == run.baseline:
            continue
        configs = [with_memory_format(c, curve.memory_format) for c in (run.baseline, run.config)]
        fixed, adaptive = (read_result(root / c.run_id()) for c in configs)
        if fixed is None or adaptive is None or not fixed.epochs or not adaptive.epochs:
            continue
        rows.append(
            make_row(
                fixed,
                adaptive,
                curve,
                arm=run.arm,
                normalization=_normalization(run.config.model),
                max_batch_size=run.config.max_batch_size or 0,
            )
        )
    return rows


@cache
def _normalization(model: str) -> str:
    return normalization(make_model(model, num_classes=10, img_size=32))
