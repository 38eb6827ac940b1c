"""Corpus rows from stored runs: which pairs become one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import cli
from predictor.build import own_rows
from predictor.corpus import load_corpus
from stability_probe.errors import UsageError
from stability_probe.plain import to_plain
from stability_probe.records import RunResult
from stability_probe.store import write_json
from stability_probe.sweep import curve_path, load_sweep
from tests.predictor_factories import CURVE
from tests.report_factories import keep_run, make_pair

SWEEP = """
[base]
model = "resnet10t"
epochs = 6
window_epochs = 2
channels_last = "off"

[grid]
seed = [0, 1]

[schedules]
fixed = {scheduler = "fixed"}
deba = {scheduler = "deba", scheduler_args = {reading = "mild"}}
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


def test_with_no_row_at_all_no_file_is_written(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    fixed, adaptive = make_pair(seed=0)
    file = keep_sweep(root, fixed, elsewhere(adaptive, device_name="another"))
    told, _, out = build(root, file)
    assert told.exit_code == 2
    assert not out.exists()
