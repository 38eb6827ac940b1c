"""Output: results on stdout; on stderr a bar on a terminal, plain lines in a log, else notes."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from stability_probe.errors import RunError
from stability_probe.exits import RESULT_STREAM
from stability_probe.launch import follows
from stability_probe.progress import Progress, Quiet
from stability_probe.records import EpochRecord
from stability_probe.settings import SCHEMA_VERSION

DELAY_S = 2.0
"""Work that is done sooner shows no bar."""

_RECENT = 5
"""Units whose mean duration gives the time left: few, because a growing batch speeds up."""


class TerminalProgress:
    """A bar on stderr that disappears when the work is done; notes stay."""

    def __init__(self, console: Console | None = None, delay_s: float | None = None) -> None:
        self._bar = Bar(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False, table_column=Column(ratio=1)),
            console=console or Console(stderr=True),
            transient=True,
            expand=True,
        )
        # Importing and loading take seconds before the first stage is known.
        self._task: TaskID = self._bar.add_task("preparing", total=None, info="")
        self._within: dict[str, TaskID] = {}
        self._remaining = 0
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False
        # A thread of its own, so that the bar also appears during a long first epoch.
        self._timer = threading.Timer(DELAY_S if delay_s is None else delay_s, self._show)
        self._timer.daemon = True
        self._timer.start()

    def start(self, stage: str, total: int) -> None:
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(stage, total=total, info="")
        self._remaining = total
        self._durations.clear()
        self._last = time.monotonic()

    def epoch(self, record: EpochRecord) -> None:
        # A resumed run reports its old epochs at once: their own times tell what is to come.
        self._advance(_describe(record), record.time_s)

    def step(self, text: str) -> None:
        self._advance(text, time.monotonic() - self._last)

    def within(self, name: str, done: int, total: int) -> None:
        if done >= total:
            if name in self._within:
                self._bar.remove_task(self._within.pop(name))
            return
        if name not in self._within:
            self._within[name] = self._bar.add_task(f"  {name}", total=total, info="")
        self._bar.update(self._within[name], completed=done)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away; nothing is shown after this."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            self._bar.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._closed:
                self._bar.start()

    def _advance(self, text: str, duration_s: float) -> None:
        self._last = time.monotonic()
        self._durations.append(duration_s)
        self._remaining -= 1
        left_s = max(0, self._remaining) * sum(self._durations) / len(self._durations)
        info = f"{text}, {format_duration(left_s)} left"
        self._bar.update(self._task, advance=1, info=info)


class LogProgress:
    """One plain line an epoch, for a log file."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = 0
        self._done = 0

    def start(self, stage: str, total: int) -> None:
        self._total, self._done = total, 0
        self._write(stage)

    def epoch(self, record: EpochRecord) -> None:
        self._done += 1
        line = f"epoch {record.epoch}/{self._total}: {_describe(record)}, {record.time_s:.1f} s"
        self._write(f"{line}; {record.reason}" if record.reason else line)

    def step(self, text: str) -> None:
        self._done += 1
        self._write(f"{self._done}/{self._total}: {text}")

    def within(self, name: str, done: int, total: int) -> None:
        """A log has one line a finished unit."""

    def note(self, text: str) -> None:
        self._write(text)

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class NotesOnly(Quiet):
    """Lines on stderr for what a person must know, and none for how far the work is."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def make_progress(
    quiet: bool = False, no_progress: bool = False, verbose: bool = False
) -> Progress:
    """What suits stderr: a bar on a terminal; elsewhere lines if `verbose`, else notes alone."""
    if quiet or follows():
        return Quiet()
    if no_progress:
        return NotesOnly()
    if sys.stderr.isatty():
        return TerminalProgress()
    return LogProgress() if verbose else NotesOnly()


@contextmanager
def watching(options: Mapping[str, Any]) -> Iterator[Progress]:
    """`make_progress` of a command's options, gone before a result or an error is printed.

    With the option `log`, epochs also go to that tracker.
    """
    progress = make_progress(options["quiet"], options["no_progress"], options["verbose"])
    tracked = None
    if options.get("log") and not follows():
        from stability_probe.trackers import Tracked, make_opener

        tracked = Tracked(progress, make_opener(options["log"], Path(options["output"])))
    try:
        yield tracked or progress
    finally:
        if tracked is not None:
            tracked.close()
        if isinstance(progress, TerminalProgress):
            progress.close()


def print_result(
    as_json: bool, values: Callable[[], Mapping[str, Any]], shown: Callable[[], Any]
) -> None:
    """The result on stdout: one JSON object, or what a person reads. Of several processes the
    first prints.

    Raises `RunError` for a number that JSON does not have.
    """
    if follows():
        return
    if as_json:
        try:
            told = {"schema_version": SCHEMA_VERSION, **values()}
            text = json.dumps(told, allow_nan=False, indent=2)
        except ValueError as error:
            raise RunError(f"the result holds a number that is not finite ({error})") from error
        print(text, file=_result_stream(), flush=True)
        return
    # Names are the user's: [brackets] and :colons: in them are no markup.
    result = shown()
    stream = _result_stream()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that has no arrow still gets the result
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    console.print(result, soft_wrap=isinstance(result, str))
    stream.flush()


def _result_stream() -> TextIO:
    """Stdout as it was when the command began."""
    context = click.get_current_context(silent=True)
    kept: dict[str, TextIO] = {} if context is None else context.meta
    return kept.get(RESULT_STREAM) or sys.stdout


def format_duration(seconds: float) -> str:
    """``42 s``, ``3:05`` or ``2:03:05``.

    >>> format_duration(185)
    '3:05'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _describe(record: EpochRecord) -> str:
    accuracy = f"{100 * record.test_accuracy:.1f} %"
    return f"loss {record.loss:.4f}, accuracy {accuracy}, batch {record.batch_size}"
