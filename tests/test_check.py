"""Corpus rows proved from their runs, and a user's own rows beside the shipped ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import cli
from predictor.check import check_corpus, contradictions, differing_fields, num_updates
from predictor.corpus import (
    CorpusRow,
    corpus_path,
    known_paths,
    load_corpus,
    make_row,
    own_corpus_path,
)
from stability_probe.order import epoch_batches
from stability_probe.plain import to_plain
from stability_probe.records import RunResult
from tests.predictor_factories import CURVE, make_run, make_size

SIZE = make_size()

GIVEN = {
    "arm",
    "max_batch_size",
    "family",
    "curve_batch_sizes",
    "curve_busy",
    "num_params",
    "num_macs",
}
GIVEN |= {"num_tensors", "num_norm_layers", "normalization"}
GIVEN |= {"curve_samples_per_s", "fixed_run_id", "adaptive_run_id", "model"}
"""Fields that no record tells again, or that name the runs."""


def make_pair() -> tuple[RunResult, RunResult]:
    """1000 samples: 63 updates at 16, 32 at 32."""
    fixed = make_run(
        batch_sizes=(16, 16, 16),
        accuracies=(0.5, 0.6, 0.7),
        cpu_s=(3.0, 3.1, 2.9),
        updates=(63, 63, 63),
        norms=(1.0, 1.2, 1.1),
    )
    adaptive = make_run(
        batch_sizes=(16, 16, 32),
        accuracies=(0.5, 0.6, 0.75),
        cpu_s=(3.0, 3.1, 2.0),
        updates=(63, 63, 32),
        norms=(1.0, 1.2, 1.0),
        scheduler="timed",
    )
    return fixed, adaptive


def store(root: Path, *runs: RunResult) -> None:
    for run in runs:
        (root / run.run_id).mkdir(parents=True, exist_ok=True)
        (root / run.run_id / "result.json").write_text(json.dumps(to_plain(run)))


@pytest.fixture
def row(tmp_path: Path) -> CorpusRow:
    fixed, adaptive = make_pair()
    store(tmp_path, fixed, adaptive)
    return make_row(fixed, adaptive, CURVE, arm="timed", size=SIZE, max_batch_size=64)


def test_a_row_of_stored_runs_is_proved(tmp_path: Path, row: CorpusRow) -> None:
    found = check_corpus([row], tmp_path)
    assert (found.rows, found.recomputed, found.problems) == (1, 1, ())
    elsewhere = check_corpus([row], tmp_path / "elsewhere")
    assert (elsewhere.recomputed, elsewhere.problems) == (0, ())


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(CorpusRow) if f.name not in GIVEN]
)
def test_every_changed_number_is_found(tmp_path: Path, row: CorpusRow, field: str) -> None:
    changed = dataclasses.replace(row, **{field: changed_value(getattr(row, field))})
    assert differing_fields(changed, tmp_path) == [field]
    (problem, *_) = [p for p in check_corpus([changed], tmp_path).problems if field in p]
    assert problem.startswith("line 2 (")


def changed_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return (changed_value(value[0]), *value[1:])
    if isinstance(value, str):
        return value + "x"
    return 0.5 if value is None else value + 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fixed_batch_sizes": (16, 16)}, "unequal numbers"),
        ({"epochs": 4}, "finished after 3 of 4 epochs"),
        ({"adaptive_status": "diverged"}, "diverged after 3 of 3"),
        ({"adaptive_updates": 157}, "do not follow from its batch sizes"),
        ({"fixed_accuracies": (0.5, 0.6, 1.2)}, "no fraction of 400"),
        ({"fixed_accuracies": (0.5, 0.6, 0.701)}, "no fraction of 400"),
        ({"adaptive_cpu_s": (3.0, 0.0, 1.0)}, "took no time"),
        ({"max_batch_size": 24}, "exceeds its bound of 24"),
        ({"curve_batch_sizes": (32, 16)}, "not in rising order"),
        ({"fixed_batch_sizes": (16, 16, 24)}, "the batch of the fixed run changes"),
        ({"num_macs": 0}, "without parameters or work"),
        ({"profile_losses": (1.0, 1.0)}, "has not 3 epochs"),
    ],
)
def test_contradictions_within_a_row(row: CorpusRow, fields: dict[str, Any], words: str) -> None:
    assert not list(contradictions(row))
    told = list(contradictions(dataclasses.replace(row, **fields)))
    assert any(words in problem for problem in told), told


@given(st.integers(2, 500), st.integers(2, 64))
def test_updates_are_those_of_the_loop(samples: int, batch_size: int) -> None:
    import torch

    batches = epoch_batches(samples, batch_size, torch.Generator().manual_seed(0))
    assert num_updates(samples, batch_size) == len(batches)


def test_the_shipped_corpus_contradicts_nothing(tmp_path: Path) -> None:
    found = check_corpus(load_corpus(), tmp_path)
    assert found.problems == ()
    assert found.rows >= 72


# --- a user's own rows


TINY = ["tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--epochs", "4"]
TINY += ["--window", "2", "--threads", "1"]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli.probe, args)


def test_own_runs_become_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    timed = json.loads(
        invoke("run", *TINY, "--scheduler", "timed", "--max-batch-size", "48", "--json").stdout
    )
    early = invoke("corpus", "add", timed["run_id"])
    assert (early.exit_code, early.stderr.count("\n")) == (2, 1)
    assert "probe run tests.tiny:net --scheduler fixed" in early.stderr
    assert not own_corpus_path().exists()
    fixed = json.loads(invoke("run", *TINY, "--max-batch-size", "48", "--json").stdout)
    refused = invoke("corpus", "add", fixed["run_id"])
    assert (refused.exit_code, "itself a fixed run" in refused.stderr) == (2, True)
    for _ in range(2):  # the second time replaces the row
        told = invoke("corpus", "add", timed["run_id"], "--json")
        assert told.exit_code == 0, told.output
        assert json.loads(told.stdout)["rows"] == 1
    (own,) = load_corpus(own_corpus_path())
    assert (own.arm, own.adaptive_run_id) == ("timed", timed["run_id"])
    assert known_paths() == [corpus_path(), own_corpus_path()]
    checked = invoke("corpus", "check", "--corpus", str(own_corpus_path()))
    assert checked.exit_code == 0, checked.output
    assert "1 computed again from their runs, 0 contradictions" in checked.stdout
    text = own_corpus_path().read_text().replace(",4,2,48,", ",4,3,48,")
    own_corpus_path().write_text(text)
    assert invoke("corpus", "check", "--corpus", str(own_corpus_path())).exit_code == 1


def test_a_stored_characterization_is_predicted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured = invoke("characterize", *TINY, "--json")
    assert measured.exit_code == 0, measured.output
    (stored,) = Path("probe-runs/characterizations").iterdir()
    again = invoke("predict", str(stored), "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(measured.stdout)
    missing = invoke("predict", "nowhere.json")
    assert (missing.exit_code, missing.stderr.count("\n")) == (4, 1)
