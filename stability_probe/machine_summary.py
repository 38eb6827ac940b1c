"""The machine, and what can be named on it, as screens for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from stability_probe.catalogue import ScheduleEntry
from stability_probe.doctor import Examination


def examination_text(e: Examination) -> str:
    """The screen of `probe doctor`: plain lines, to be pasted into a report."""
    memory = "unknown" if e.memory_gib is None else f"{e.memory_gib:.1f} GiB free"
    lines = [
        f"probe       {e.probe}",
        f"python      {e.python} on {e.platform}",
        *_lines("packages", [", ".join(f"{n} {v}" for n, v in e.packages.items())]),
        *_lines("extras", [", ".join(f"{n} {v}" for n, v in e.extras.items())]),
        *_lines("devices", e.devices),
        f"cpu         {e.cores} cores, torch uses {e.threads} threads; memory {memory}",
        f"compiler    {e.compiler or 'none; --compile needs one on a CPU'}",
        *_lines("data", [f"{name}: {place}" for name, place in e.data.items()]),
        *_lines("folders", [f"{name}: {place}" for name, place in e.folders.items()]),
        f"disk        {e.disk_gib:.1f} GiB free for runs",
        *_lines("problems", e.problems or ["none found"]),
    ]
    return "\n".join(lines)


def _lines(title: str, values: Sequence[str]) -> list[str]:
    return [f"{title if i == 0 else '':12}{value}" for i, value in enumerate(values)]


def places_table(places: Mapping[str, str]) -> Table:
    """The screen of `probe data`."""
    table = Table(box=None, pad_edge=False)
    for column in ("data", "where"):
        table.add_column(column, overflow="fold")
    for name, place in places.items():
        table.add_row(Text(name), Text(place))
    return table


def schedules_table(entries: Sequence[ScheduleEntry]) -> Group:
    """The screen of `probe schedulers`."""
    parts: list[Text] = []
    for entry in entries:
        arguments = ", ".join(f"{n}={v}" if v else n for n, v in entry.arguments.items())
        parts += [Text.assemble((entry.name, "bold"), f"  {entry.summary}")]
        parts += [Text(f"    {arguments}", "dim")] if arguments else []
    return Group(*parts)
