"""What is shown while work goes on, and where."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from stability_probe import terminal
from stability_probe.errors import RunError
from stability_probe.progress import Progress, Quiet
from stability_probe.terminal import (
    LogProgress,
    NotesOnly,
    TerminalProgress,
    format_duration,
    make_progress,
    print_result,
    watching,
)
from tests.factories import make_epoch

SILENT = {"quiet": False, "no_progress": False, "verbose": False}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_bar(delay_s: float) -> tuple[TerminalProgress, io.StringIO]:
    screen = Terminal()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    return TerminalProgress(console, delay_s), screen


def work(progress: Progress) -> None:
    progress.start("resnet18 [fixed] seed 0", 3)
    progress.epoch(make_epoch(epoch=1, loss=1.25, test_accuracy=0.5, batch_size=16, time_s=60.0))
    progress.epoch(make_epoch(epoch=2, loss=0.75, test_accuracy=0.625, batch_size=24, time_s=30.0))


def wait_for(screen: io.StringIO, text: str) -> str:
    end = time.monotonic() + 10
    while text not in screen.getvalue() and time.monotonic() < end:
        time.sleep(0.02)
    return screen.getvalue()


def test_bar_shows_stage_epoch_loss_accuracy_batch_and_time_left() -> None:
    bar, screen = make_bar(delay_s=0)
    try:
        work(bar)
        shown = wait_for(screen, "left")
    finally:
        bar.close()
    assert "resnet18 [fixed] seed 0" in shown
    assert "2/3" in shown
    # One epoch is left; the two before took 45 s on average.
    assert "loss 0.7500, accuracy 62.5 %, batch 24, 45 s left" in shown


def test_bar_describes_steps_that_are_no_epochs() -> None:
    bar, screen = make_bar(delay_s=0)
    try:
        bar.start("throughput", 4)
        bar.step("batch 16: 100 samples/s")
        shown = wait_for(screen, "batch 16: 100 samples/s, 0 s left")
    finally:
        bar.close()
    assert "1/4" in shown


def test_short_work_shows_no_bar_but_its_notes() -> None:
    bar, screen = make_bar(delay_s=60)
    work(bar)
    bar.note("goes on after epoch 2 [of 3]")
    bar.close()
    assert screen.getvalue() == "goes on after epoch 2 [of 3]\n"


def test_bar_does_not_come_back_after_the_end() -> None:
    bar, screen = make_bar(delay_s=0.05)
    bar.start("stage", 1)
    bar.close()
    bar.close()
    time.sleep(0.15)
    assert screen.getvalue() == ""


def test_bar_without_a_stage_ignores_epochs() -> None:
    bar, _ = make_bar(delay_s=60)
    bar.epoch(make_epoch())
    bar.start("more epochs than announced", 0)
    bar.epoch(make_epoch())
    bar.close()


def test_log_is_one_plain_line_an_epoch() -> None:
    stream = io.StringIO()
    log = LogProgress(stream)
    work(log)
    log.start("throughput", 2)
    log.step("batch 16: 100 samples/s")
    log.note("resumed")
    assert stream.getvalue().splitlines() == [
        "resnet18 [fixed] seed 0",
        "epoch 1/3: loss 1.2500, accuracy 50.0 %, batch 16, 60.0 s",
        "epoch 2/3: loss 0.7500, accuracy 62.5 %, batch 24, 30.0 s",
        "throughput",
        "1/2: batch 16: 100 samples/s",
        "resumed",
    ]


@pytest.mark.parametrize(
    ("on_terminal", "options", "expected"),
    [
        (True, {}, TerminalProgress),
        (True, {"verbose": True}, TerminalProgress),
        (True, {"quiet": True}, Quiet),
        (True, {"no_progress": True}, NotesOnly),
        (False, {}, NotesOnly),
        (False, {"verbose": True}, LogProgress),
        (False, {"verbose": True, "quiet": True}, Quiet),
        (False, {"verbose": True, "no_progress": True}, NotesOnly),
    ],
)
def test_where_progress_goes(
    monkeypatch: pytest.MonkeyPatch, on_terminal: bool, options: dict[str, bool], expected: type
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if on_terminal else io.StringIO())
    progress = make_progress(**options)
    assert type(progress) is expected
    if isinstance(progress, TerminalProgress):
        progress.close()


def test_bar_is_gone_when_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(terminal, "DELAY_S", 0)

    def interrupted() -> None:
        with watching(SILENT) as progress:
            progress.start("stage", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = screen.getvalue()
    time.sleep(0.2)
    assert screen.getvalue() == before


def test_result_is_one_json_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(True, lambda: {"a": 1, "b": None}, lambda: pytest.fail("drew a table"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema_version": 1, "a": 1, "b": None}
    assert err == ""


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_only_finite_numbers(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="not finite"):
        print_result(True, lambda: {"a": [number]}, lambda: "")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shown", ["[bold]x" + "y" * 300, Text("[bold]x")])
def test_text_for_people_is_neither_markup_nor_broken(
    shown: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(False, lambda: pytest.fail("made JSON"), lambda: shown)
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (3600, "1:00:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(60, 10**6))
def test_duration_can_be_read_back(seconds: int) -> None:
    total = 0
    for part in format_duration(seconds).split(":"):
        total = 60 * total + int(part)
    assert total == seconds


def test_runs_under_way_have_bars_of_their_own() -> None:
    bar, screen = make_bar(0.0)
    bar.start("runs", 3)
    bar.within("some-run", 3, 10)
    assert "some-run" in wait_for(screen, "3/10")
    bar.within("some-run", 10, 10)
    bar.within("never-seen", 10, 10)
    assert [task.description for task in bar._bar.tasks] == ["runs"]
    bar.close()


def test_a_note_is_told_where_nothing_else_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = NotesOnly()
    progress.start("runs", 3)
    progress.step("one is done")
    progress.note("it was finished before")
    assert capsys.readouterr() == ("", "it was finished before\n")
