"""Corpus rows from stored runs: which pairs become one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import cli
from predictor.build import keep_known_curves, own_rows, without_known
from predictor.corpus import CORPUS_READING, CorpusRow, format_corpus, load_corpus
from stability_probe.config import RunConfig, with_memory_format
from stability_probe.device import describe_environment
from stability_probe.errors import UsageError
from stability_probe.files import write_json
from stability_probe.plain import to_plain
from stability_probe.records import RunResult, ThroughputCurve
from stability_probe.sweep import SweepRun, curve_path, load_sweep, measure_curves, stored_curve
from tests.predictor_factories import CURVE, make_corpus_row
from tests.report_factories import keep_run, make_pair

SWEEP = f"""
[base]
model = "resnet10t"
epochs = 6
window_epochs = 2
channels_last = "off"

[grid]
seed = [0, 1]

[schedules]
fixed = {{scheduler = "fixed"}}
deba = {{scheduler = "deba", scheduler_args = {{reading = "{CORPUS_READING["reading"]}"}}}}
"""


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli.probe, args)


def elsewhere(run: RunResult, **environment: str) -> RunResult:
    return dataclasses.replace(run, environment={**run.environment, **environment})


def keep_sweep(root: Path, *runs: RunResult) -> Path:
    """A sweep file whose curve and runs are stored in `root`."""
    root.mkdir()
    file = root / "sweep.toml"
    file.write_text(SWEEP)
    path = curve_path(root, load_sweep(file)[0].baseline)
    path.parent.mkdir()
    write_json(path, to_plain(CURVE))
    for run in runs:
        keep_run(root, run)
    return file


def build(root: Path, file: Path) -> tuple[Result, Any, Path]:
    out = root / "rows.csv"
    told = invoke("corpus", "build", str(file), "--runs", str(root), "-o", str(out), "--json")
    return told, json.loads(told.stdout or "null"), out


def test_a_run_beside_its_fixed_run_is_a_row_and_one_alone_is_none(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    pair = make_pair(seed=0)
    file = keep_sweep(root, *pair, make_pair(seed=1)[0])
    told, answer, out = build(root, file)
    assert (told.exit_code, told.stderr) == (0, "")
    assert (answer["rows"], answer["other_machine"]) == (1, [])
    (row,) = load_corpus(out)
    assert (row.fixed_run_id, row.adaptive_run_id) == tuple(run.run_id for run in pair)
    assert row.time_saved_pct == pytest.approx(25.0)


@pytest.mark.parametrize("changed", [{"device_name": "another"}, {"torch": "2.15.0"}])
def test_runs_of_two_machines_make_no_row(tmp_path: Path, changed: dict[str, str]) -> None:
    """Half the time of a pair would be that of the other machine."""
    root = tmp_path / "runs"
    fixed, adaptive = make_pair(seed=1)
    file = keep_sweep(root, *make_pair(seed=0), fixed, elsewhere(adaptive, **changed))
    told, answer, out = build(root, file)
    assert told.exit_code == 0
    assert answer["other_machine"] == [adaptive.run_id]
    assert told.stderr.startswith("1 left out")
    assert adaptive.run_id in told.stderr
    assert [row.seed for row in load_corpus(out)] == [0]
    with pytest.raises(UsageError, match=rf"{adaptive.run_id} is a run of another machine"):
        own_rows([adaptive.run_id], root)


def test_both_runs_of_another_machine_make_a_row(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    file = keep_sweep(root, *(elsewhere(run, device_name="another") for run in make_pair(seed=0)))
    told, answer, _ = build(root, file)
    assert (told.exit_code, answer["rows"], answer["other_machine"]) == (0, 1, [])


@pytest.mark.parametrize("busy", [False, True])
def test_rows_with_the_curve_of_a_busy_machine_are_told(tmp_path: Path, busy: bool) -> None:
    root = tmp_path / "runs"
    file = keep_sweep(root, *make_pair(seed=0), *make_pair(seed=1))
    for path in (root / "curves").iterdir():
        write_json(path, to_plain(dataclasses.replace(CURVE, busy=busy)))
    told, answer, _ = build(root, file)
    assert answer["busy"] == (2 if busy else 0)
    assert ("2 with a throughput curve of a busy machine" in told.stderr) is busy


def test_with_no_row_at_all_no_file_is_written(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    fixed, adaptive = make_pair(seed=0)
    file = keep_sweep(root, fixed, elsewhere(adaptive, device_name="another"))
    told, _, out = build(root, file)
    assert told.exit_code == 2
    assert not out.exists()


def grid(root: Path) -> tuple[Path, list[SweepRun]]:
    """A sweep of two points, of three runs each."""
    file = root / "grid.toml"
    file.write_text(SWEEP + 'timed = {scheduler = "timed"}\n')
    return file, load_sweep(file)


def row_of(run: SweepRun, memory_format: str) -> CorpusRow:
    """A row of the run beside its baseline, from a machine that chose this format."""
    fixed, adaptive = (with_memory_format(c, memory_format) for c in (run.baseline, run.config))
    return make_corpus_row(fixed_run_id=fixed.run_id(), adaptive_run_id=adaptive.run_id())


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_sweep_leaves_out_what_rows_of_any_machine_compare(
    tmp_path: Path, memory_format: str
) -> None:
    _, runs = grid(tmp_path)
    _, deba, timed, *second = runs
    assert without_known(runs, []) == runs
    # The fixed run is needed as long as one comparison with it is missing.
    assert without_known(runs, [row_of(deba, memory_format)]) == [runs[0], timed, *second]
    both = [row_of(deba, memory_format), row_of(timed, memory_format)]
    assert without_known(runs, both) == second
    assert without_known(runs, [row_of(r, memory_format) for r in runs]) == []


def made_here(row: CorpusRow, **fields: Any) -> CorpusRow:
    here = describe_environment(torch.device("cpu"))
    device = {"device_name": here["device_name"], "torch": here["torch"]}
    return dataclasses.replace(row, **{**device, **fields})


def test_a_sweep_takes_the_curves_of_rows_from_this_kind_of_device(tmp_path: Path) -> None:
    """Of two data sets alike: what is shared by a model is one measurement."""
    _, runs = grid(tmp_path)
    path = curve_path(tmp_path, runs[0].baseline)
    row = made_here(row_of(runs[1], "channels_last"), memory_format="channels_last")
    assert keep_known_curves(runs, [row], tmp_path) == [path]
    curve = stored_curve(runs[-1], tmp_path)
    assert curve is not None
    assert curve.points == row.curve.points
    assert (curve.memory_format, curve.busy) == ("channels_last", False)
    assert curve.device_name == row.device_name
    measure_curves([r.baseline for r in runs], tmp_path)
    assert stored_curve(runs[0], tmp_path) == curve, "it is not measured again"


@pytest.mark.parametrize("changed", [
    {"device_name": "another"},
    {"torch": "2.15.0"},
    {"curve_busy": True},
    {"adaptive_run_id": "of-another-sweep"},
])  # fmt: skip
def test_a_curve_of_another_device_or_a_busy_one_is_not_taken(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    _, runs = grid(tmp_path)
    row = made_here(row_of(runs[1], "contiguous"), **changed)
    assert keep_known_curves(runs, [row], tmp_path) == []
    assert stored_curve(runs[0], tmp_path) is None


def test_rows_do_not_tell_their_threads_so_only_one_thread_takes_their_curve(
    tmp_path: Path,
) -> None:
    _, runs = grid(tmp_path)
    row = made_here(row_of(runs[1], "contiguous"))
    by_two = [
        dataclasses.replace(r, baseline=dataclasses.replace(r.baseline, threads=2)) for r in runs
    ]
    assert keep_known_curves(by_two, [row], tmp_path) == []


@pytest.mark.parametrize("busy", [False, True])
def test_a_quiet_curve_stays_and_a_busy_one_gives_way_to_that_of_a_row(
    tmp_path: Path, busy: bool
) -> None:
    file = keep_sweep(tmp_path / "runs", *make_pair(seed=0))
    runs, root = load_sweep(file), tmp_path / "runs"
    path = curve_path(root, runs[0].baseline)
    mine = dataclasses.replace(CURVE, busy=busy, memory_format_reason="measured here")
    write_json(path, to_plain(mine))
    rows = tmp_path / "rows.csv"
    rows.write_text(format_corpus([made_here(row_of(r, "contiguous")) for r in runs]))
    line = ("sweep", str(file), "-o", str(root), "--corpus", str(rows), "-q")
    assert invoke(*line, "--dry-run").exit_code == 0
    assert stored_curve(runs[0], root) == mine, "a plan writes nothing"
    assert invoke(*line).exit_code == 0
    assert (stored_curve(runs[0], root) == mine) is not busy


def test_a_run_that_nothing_is_compared_with_is_never_known(tmp_path: Path) -> None:
    file = tmp_path / "alone.toml"
    file.write_text(SWEEP.split("[schedules]", maxsplit=1)[0])
    runs = load_sweep(file)
    assert without_known(runs, [make_corpus_row()]) == runs


def test_a_sweep_is_asked_for_what_a_file_of_rows_lacks(tmp_path: Path) -> None:
    file, runs = grid(tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text(format_corpus([row_of(r, "contiguous") for r in runs[1:3]]))
    ask = ("sweep", str(file), "--corpus", str(rows), "--dry-run", "-o", str(tmp_path / "runs"))
    told = invoke(*ask)
    assert told.exit_code == 0
    assert told.stderr == f"3 of 6 runs are not needed, their rows are in {rows}\n"
    assert told.stdout.startswith("3 runs: 0 done, 3 to do")
    quiet = invoke(*ask, "--json")
    assert (json.loads(quiet.stdout)["runs"], quiet.stderr) == (3, "")


def test_rows_of_earlier_runs_stay_in_the_file(tmp_path: Path) -> None:
    """A corpus grows over machines: the runs behind its older rows are not here."""
    root = tmp_path / "runs"
    file = keep_sweep(root, *make_pair(seed=0))
    before = make_corpus_row(model="measured before")
    (root / "rows.csv").write_text(format_corpus([before]))
    told, answer, out = build(root, file)
    assert (told.exit_code, answer["built"], answer["rows"]) == (0, 1, 2)
    assert before in load_corpus(out)
    # Built again, the same row takes the place of its earlier self.
    assert build(root, file)[1]["rows"] == 2


def test_the_fixed_run_is_found_as_a_report_finds_it(tmp_path: Path) -> None:
    """A fixed run has no moments to empty, and its memory format was measured or named."""
    root = tmp_path / "runs"
    fixed = make_pair(seed=0, channels_last="auto")[0]
    keep_sweep(root, fixed)
    adaptive = make_pair(seed=0, channels_last="off", reset_moments=True)[1]
    keep_run(root, adaptive)
    (row,) = own_rows([adaptive.run_id], root)
    assert row.pair_id == (fixed.run_id, adaptive.run_id)


def test_the_curve_of_own_rows_has_the_threads_of_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    asked: list[int | None] = []

    def measure(configs: Sequence[RunConfig], root: Path) -> dict[Path, ThroughputCurve]:
        asked.extend(config.threads for config in configs)
        return {curve_path(root, config): CURVE for config in configs}

    monkeypatch.setattr("predictor.build.measure_curves", measure)
    monkeypatch.setattr("predictor.build._require_made_on", lambda run, device: None)
    for run in make_pair(seed=0):
        keep_run(root, elsewhere(run, threads="3"))
    own_rows([make_pair(seed=0)[1].run_id], root)
    assert asked == [3]


def test_rows_of_another_machine_than_the_curve_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time saved follows from the curve: that of one machine is none of another."""
    root = tmp_path / "runs"
    pair = [elsewhere(run, device_name="another") for run in make_pair(seed=0)]
    file = keep_sweep(root, *pair)
    path = curve_path(root, load_sweep(file)[0].baseline)
    path.unlink()
    monkeypatch.setattr("predictor.build.measure_curves", None)  # nothing is measured in vain
    with pytest.raises(UsageError, match="was made on another, and the throughput curve would be"):
        own_rows([pair[1].run_id], root)
    monkeypatch.undo()
    write_json(path, to_plain(dataclasses.replace(CURVE, device_name="a third one")))
    with pytest.raises(UsageError, match="that of a third one; use probe corpus add on the"):
        own_rows([pair[1].run_id], root)
    assert build(root, file)[0].exit_code == 2
    write_json(path, to_plain(dataclasses.replace(CURVE, device_name="another")))
    assert len(own_rows([pair[1].run_id], root)) == 1
    assert len(own_rows([pair[1].run_id] * 2, root)) == 1, "one run"
    assert build(root, file)[1]["built"] == 1


def test_what_is_added_says_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        make_corpus_row(seed=0, adaptive_run_id="counts"),
        make_corpus_row(seed=1, adaptive_run_id="timed", scheduler="timed", scheduler_args="{}"),
        make_corpus_row(seed=2, adaptive_run_id="busy", curve_busy=True),
        make_corpus_row(seed=3, adaptive_run_id="stuck", profile_losses=(2.3,) * 4),
    ]
    monkeypatch.setattr("predictor.build.own_rows", lambda run_ids, root: rows)
    told = invoke("corpus", "add", "counts", "timed", "busy")
    assert told.exit_code == 0
    assert told.stdout.startswith("4 added, 4 rows in ")
    words = " ".join(told.stdout.split())
    assert "predictions count the 1 of DEBA as the corpus reads it, and none whose" in words
    answer = json.loads(invoke("corpus", "add", "counts", "--json").stdout)
    assert "and none whose fixed run learned nothing" in words
    assert (answer["rows"], answer["counted"]) == (4, 1)
    monkeypatch.setattr("predictor.build.own_rows", lambda run_ids, root: rows[:1])
    assert "none whose" not in invoke("corpus", "add", "counts").stdout
