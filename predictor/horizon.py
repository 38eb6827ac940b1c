"""How long one trains: what a row says of shorter runs, and of how much longer ones.

At a constant rate the first epochs of a run are a shorter run, since neither the loop nor such a
schedule looks ahead to the end. So one row tells what came of every shorter run, too. It matters: a
growing batch is ahead in accuracy early on, and a fixed one catches up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from predictor.corpus import PROFILE_COLUMNS, CorpusRow
from stability_probe import metrics

REACH = 2.0
"""Factor by which a run may be longer than the rows that speak for it."""
_BLIND_TO_THE_END = ("fixed", "deba", "timed", "noise_scale", "norm_test")
"""Schedules whose decisions are the same however long the run will be."""


def rows_for(rows: Sequence[CorpusRow], epochs: int | None) -> list[CorpusRow]:
    """What rows say of runs of so many epochs; as they are for None, or where none says anything.

    A longer row of a constant rate is cut. One whose rate depends on the end speaks for its own
    length, within `REACH`, and no row for a run that is over `REACH` times as long.
    """
    if epochs is None:
        return list(rows)
    return [_as_long(row, epochs) for row in rows if speaks_for(row, epochs)] or list(rows)


def speaks_for(row: CorpusRow, epochs: int) -> bool:
    """Whether a row says anything of runs of so many epochs."""
    return epochs <= REACH * row.epochs and (can_be_cut(row) or row.epochs <= REACH * epochs)


def can_be_cut(row: CorpusRow) -> bool:
    """Whether the first epochs of both runs are what shorter runs would have been."""
    blind = {"fixed", row.scheduler} <= {*_BLIND_TO_THE_END}
    return blind and row.lr_schedule == "fixed"


def first_epochs(row: CorpusRow, epochs: int) -> CorpusRow:
    """The row of both runs as if they had been stopped after so many epochs, fewer than they have.

    A run that diverged later had not done so yet. Wall seconds, which a row keeps for whole runs
    only, are shared out by the throughput curve.
    """
    cut: dict[str, object] = {"epochs": epochs}
    for which in ("fixed", "adaptive"):
        sizes = getattr(row, f"{which}_batch_sizes")
        for name in ("batch_sizes", "accuracies", "cpu_s"):
            cut[f"{which}_{name}"] = getattr(row, f"{which}_{name}")[:epochs]
        cut[f"{which}_updates"] = sum(num_updates(row.num_train, b) for b in sizes[:epochs])
        if len(sizes) >= epochs:
            cut[f"{which}_status"] = "finished"
        part, whole = (
            float(metrics.path_time_s(row.curve, some, row.num_train))
            for some in (sizes[:epochs], sizes)
        )
        cut[f"{which}_wall_s"] = getattr(row, f"{which}_wall_s") * (part / whole if whole else 1.0)
    cut |= {name: getattr(row, name)[:epochs] for name in PROFILE_COLUMNS}
    return dataclasses.replace(row, **cut)  # type: ignore[arg-type]


def num_updates(num_train: int, batch_size: int) -> int:
    """Updates of an epoch; a single sample left over joins the batch before it."""
    count = math.ceil(num_train / batch_size)
    return count - 1 if count > 1 and num_train % batch_size == 1 else count


def _as_long(row: CorpusRow, epochs: int) -> CorpusRow:
    return first_epochs(row, epochs) if can_be_cut(row) and epochs < row.epochs else row
