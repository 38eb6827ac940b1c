"""Runs as JSON for programs and as one screen for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from stability_probe.plain import to_plain
from stability_probe.records import DecisionRecord, EpochRecord, RunResult
from stability_probe.store import RunSummary

_RUN_COLUMNS = ("run", "data", "batch", "epochs", "accuracy", "time s")


def run_json(r: RunResult) -> dict[str, Any]:
    """The object that `probe run --json` prints."""
    final = r.final_accuracy if r.epochs else None
    return {**to_plain(r), "final_accuracy": final}


def run_table(r: RunResult) -> Group:
    """The screen that `probe run` prints: outcome and every change of the batch."""
    lines = Text.assemble(
        (r.run_id, "bold"),
        f" {r.status}: {len(r.epochs)} epochs, {r.updates} updates, {r.time_s:.1f} s training",
    )
    if r.epochs:
        lines.append(
            f", final accuracy {100 * r.final_accuracy:.2f} %, loss {r.epochs[-1].loss:.4f}"
        )
    if r.compile_s:
        lines.append(f"\ncompilation took {r.compile_s:.0f} s more, which no epoch's time contains")
    lines.append(_split_words(r))
    changes = [e for e in r.epochs if e.action != "hold"]
    table = Table(box=None, pad_edge=False)
    for column in ("epoch", "batch", "to", "why"):
        table.add_column(column)
    for e in changes:
        table.add_row(str(e.epoch), str(e.batch_size), str(e.next_batch_size), e.reason)
    last = f"last decision: {r.epochs[-1].reason}" if r.epochs else ""
    return Group(lines, table if changes else Text("the batch never changed"), Text(last, "dim"))


def split_epochs(r: RunResult) -> list[EpochRecord]:
    """Those whose batches the memory did not hold at once; that several processes share a batch
    is no such thing."""
    processes = int(r.environment.get("processes", 1))
    return [e for e in r.epochs if e.micro_batch_size * processes < e.batch_size]


def _split_words(r: RunResult) -> str:
    """What memory forced on the run, and what that means for its numbers."""
    split = split_epochs(r)
    if not split:
        return ""
    sizes = sorted({e.micro_batch_size for e in split})
    told = f"\nmemory: from epoch {split[0].epoch} on batches ran in parts of {sizes[0]}"
    told += f" to {sizes[-1]}" if len(sizes) > 1 else ""
    if r.normalization in ("batch", "mixed"):
        return f"{told}; BatchNorm saw the parts, so an undivided batch gives other numbers"
    return f"{told}; an undivided batch gives the same numbers"


def runs_json(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """The object that `probe runs --json` prints."""
    return {"runs": to_plain(list(runs))}


def runs_table(runs: Sequence[RunSummary]) -> str:
    """The screen that `probe runs` prints: plain columns, so that a name can be copied whole.

    A table fitted to the terminal would break names, and takes milliseconds a row.
    """
    if not runs:
        return "no runs stored here; make one with: probe run resnet18"
    rows = [_RUN_COLUMNS, *(_run_cells(r) for r in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _run_cells(r: RunSummary) -> tuple[str, ...]:
    notes = ["window"] * r.is_window + [r.status] * (r.status != "finished")
    return (
        r.run_id,
        r.data,
        _step(str(r.batch_size), str(r.last_batch_size or r.batch_size)),
        " ".join([f"{r.epochs_done}/{r.epochs}", ", ".join(notes)]).rstrip(),
        "" if r.final_accuracy is None else f"{100 * r.final_accuracy:.2f} %",
        f"{r.time_s:.1f}",
    )


def decisions_json(run_id: str, decisions: Sequence[DecisionRecord]) -> dict[str, Any]:
    """The object that `probe explain --json` and `probe replay-policy --json` print."""
    plain = to_plain(list(decisions))
    return {"run_id": run_id, "decisions": plain}


def decisions_table(title: str, decisions: Sequence[DecisionRecord]) -> Group:
    """The screen of `probe explain` and `probe replay-policy`: every decision and its grounds."""
    table = Table(box=None, pad_edge=False)
    for column in ("epoch", "batch", "rate", "wait", "action", "why"):
        table.add_column(column, overflow="fold")
    for d in decisions:
        table.add_row(
            str(d.epoch),
            _step(str(d.batch_size), str(d.next_batch_size)),
            _step(f"{d.lr:.3g}", f"{d.next_lr:.3g}"),
            str(d.cooldown_left),
            d.action,
            Text(d.reason),
        )
    counts = {a: sum(d.action == a for d in decisions) for a in ("increase", "rollback", "hold")}
    told = ", ".join(f"{count} {action}" for action, count in counts.items())
    return Group(Text(title, "bold"), table, Text(f"{told}; wait is the cooldown left", "dim"))


def _step(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"
