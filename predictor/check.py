"""Does a corpus row follow from the records of its runs?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from predictor.corpus import (
    PROFILE_COLUMNS,
    PROFILE_EPOCHS,
    CorpusRow,
    format_cell,
    make_row,
)
from predictor.horizon import num_updates
from stability_probe.errors import MissingError
from stability_probe.store import read_result


@dataclass(frozen=True, kw_only=True)
class CorpusCheck:
    """What a check of corpus rows found."""

    rows: int
    recomputed: int
    """Rows whose runs are stored here, so that every number was computed again."""
    problems: tuple[str, ...]
    """One line a contradiction."""


def check_corpus(rows: Sequence[CorpusRow], root: Path) -> CorpusCheck:
    """Every row against itself, and against its two runs where they are stored in `root`."""
    problems, recomputed = [], 0
    for number, row in enumerate(rows, start=2):
        name = f"line {number} ({row.adaptive_run_id})"
        problems += [f"{name}: {problem}" for problem in contradictions(row)]
        differing = differing_fields(row, root)
        recomputed += differing is not None
        problems += [f"{name}: {field} is not what its runs say" for field in differing or ()]
    return CorpusCheck(rows=len(rows), recomputed=recomputed, problems=tuple(problems))


def contradictions(row: CorpusRow) -> Iterator[str]:
    """What cannot be in a row whatever was measured."""
    for which in ("fixed", "adaptive"):
        sizes = getattr(row, f"{which}_batch_sizes")
        accuracies = getattr(row, f"{which}_accuracies")
        cpu_s = getattr(row, f"{which}_cpu_s")
        status, updates = getattr(row, f"{which}_status"), getattr(row, f"{which}_updates")
        if not len(sizes) == len(accuracies) == len(cpu_s):
            yield f"the {which} run has unequal numbers of batch sizes, accuracies and times"
        if (status == "finished") != (len(sizes) == row.epochs):
            yield f"the {which} run is {status} after {len(sizes)} of {row.epochs} epochs"
        if updates != sum(num_updates(row.num_train, b) for b in sizes):
            yield f"{updates} updates of the {which} run do not follow from its batch sizes"
        if not all(0 <= a <= 1 and _is_fraction_of(a, row.num_test) for a in accuracies):
            yield f"an accuracy of the {which} run is no fraction of {row.num_test} samples"
        if not all(s > 0 for s in cpu_s):
            yield f"an epoch of the {which} run took no time"
    if len(set(row.fixed_batch_sizes)) > 1:
        yield "the batch of the fixed run changes"
    if row.num_params < 1 or row.num_macs < 1 or row.num_tensors < 1:
        yield "a model without parameters or work"
    kept = min(len(row.fixed_batch_sizes), PROFILE_EPOCHS)
    if any(len(getattr(row, name)) != kept for name in PROFILE_COLUMNS):
        yield f"the profile of a signal has not {kept} epochs"
    if row.max_batch_size and max(row.adaptive_batch_sizes, default=0) > row.max_batch_size:
        yield f"the batch exceeds its bound of {row.max_batch_size}"
    if list(row.curve_batch_sizes) != sorted(set(row.curve_batch_sizes)):
        yield "the throughput curve is not in rising order"


def differing_fields(row: CorpusRow, root: Path) -> list[str] | None:
    """Fields that a row made again from its stored runs has otherwise; None without the runs."""
    try:
        fixed, adaptive = (read_result(root / i) for i in (row.fixed_run_id, row.adaptive_run_id))
    except MissingError:
        return ["result.json"]
    if fixed is None or adaptive is None:
        return None
    again = make_row(
        fixed,
        adaptive,
        row.curve,
        arm=row.arm,
        size=row.size,
        max_batch_size=row.max_batch_size,
    )
    return [
        f.name
        for f in dataclasses.fields(CorpusRow)
        if format_cell(getattr(row, f.name)) != format_cell(getattr(again, f.name))
    ]


def _is_fraction_of(accuracy: float, samples: int) -> bool:
    """Whether `accuracy`, of six digits, can be a share of so many samples."""
    return abs(accuracy * samples - round(accuracy * samples)) < 1e-6 * samples + 1e-9
