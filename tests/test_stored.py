"""What a name stands for, and the runs that belong to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.records import RunResult, Study
from stability_probe.run import run
from stability_probe.store import Store
from stability_probe.stored import (
    Probed,
    as_stored,
    finished_run,
    fixed_twin,
    load_drawable,
    load_stored,
)
from tests.report_factories import STUDIES, config_of, keep_probe, keep_run, make_pair, probed


def test_every_kind_is_known_by_what_it_holds(tmp_path: Path) -> None:
    run = make_pair()[0]
    name = keep_run(tmp_path, run)
    for way in (name, str(tmp_path / name), str(tmp_path / name / "result.json")):
        assert load_stored(way, tmp_path) == run
    assert isinstance(load_stored(str(keep_probe(tmp_path, probed())), tmp_path), Probed)
    assert isinstance(load_stored(str(STUDIES / "compare-test_vit.json"), tmp_path), Study)


def test_a_run_without_an_epoch_is_loaded_but_not_drawn(tmp_path: Path) -> None:
    name = keep_run(tmp_path, dataclasses.replace(make_pair()[0], epochs=()), done=False)
    found = load_stored(name, tmp_path)
    assert isinstance(found, RunResult)
    assert found.status == "unfinished"
    with pytest.raises(UsageError, match="no finished epoch"):
        load_drawable(name, tmp_path, tmp_path)


def test_the_twin_is_the_same_in_all_else(tmp_path: Path) -> None:
    fixed, adaptive = make_pair()
    assert fixed_twin(adaptive, tmp_path) is None
    for changed in ({"seed": 1}, {"lr": 0.5}, {"data": "crops"}, {"lr_schedule": "cosine"}):
        keep_run(tmp_path, make_pair(**changed)[0])
    assert fixed_twin(adaptive, tmp_path) is None
    keep_run(tmp_path, fixed)
    assert fixed_twin(adaptive, tmp_path) == fixed
    assert fixed_twin(fixed, tmp_path) is None


def test_the_twin_of_a_run_with_emptied_moments_has_nothing_to_empty(tmp_path: Path) -> None:
    keep_run(tmp_path, make_pair()[0])
    emptied = make_pair(reset_moments=True)[1]
    assert fixed_twin(emptied, tmp_path) == make_pair()[0]


def test_a_memory_format_has_two_names(tmp_path: Path) -> None:
    """A run has torch's, contiguous_format, and a curve contiguous."""
    config = RunConfig(
        model="tests.tiny:net", data="tests.tiny:blobs", device="cpu", epochs=2, window_epochs=1
    )
    made = run(dataclasses.replace(config, channels_last="off"), Store(tmp_path))
    for name in ("contiguous", made.memory_format):
        assert finished_run(config, tmp_path, name) == made
        assert finished_run(config, tmp_path, "channels_last") is None
    named = dataclasses.replace(config, channels_last="off")
    assert as_stored(named, tmp_path).run_id() == made.run_id
    other = dataclasses.replace(config, channels_last="on")
    assert as_stored(other, tmp_path) == other


@pytest.mark.parametrize("asked", ["auto", "off"])
@pytest.mark.parametrize("stored", ["auto", "off"])
def test_a_memory_format_may_have_been_asked_for_or_measured(
    tmp_path: Path, asked: str, stored: str
) -> None:
    fixed = make_pair(channels_last=stored)[0]
    keep_run(tmp_path, fixed)
    config = config_of(make_pair(channels_last=asked)[0])
    assert finished_run(config, tmp_path, "contiguous") == fixed
    assert finished_run(config, tmp_path, "channels_last") is None


def test_only_a_finished_run_counts(tmp_path: Path) -> None:
    fixed = make_pair()[0]
    keep_run(tmp_path, dataclasses.replace(fixed, status="diverged"))
    assert finished_run(config_of(fixed), tmp_path, "contiguous") is None
    other = make_pair(seed=1)[0]
    keep_run(tmp_path, other, done=False)
    assert finished_run(config_of(other), tmp_path, "contiguous") is None


def test_the_folder_one_is_in_is_a_run_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_pair()[0]
    monkeypatch.chdir(tmp_path / keep_run(tmp_path, run))
    assert load_stored(".", tmp_path) == run
