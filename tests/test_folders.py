"""Where things are kept: PROBE_HOME, else the XDG folders, else below the home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.corpus import own_corpus_path
from stability_probe import dataset_files
from stability_probe.folders import cache_home, data_home


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PROBE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_below_the_home_folder_by_default(tmp_path: Path) -> None:
    assert data_home() == tmp_path / ".local/share/stability-probe"
    assert cache_home() == tmp_path / ".cache/stability-probe"


def test_xdg_folders_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert (data_home(), cache_home()) == (Path("/d/stability-probe"), Path("/c/stability-probe"))


def test_one_variable_moves_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.setenv("PROBE_HOME", "~/here")
    assert (data_home(), cache_home()) == (tmp_path / "here", tmp_path / "here/cache")
    assert own_corpus_path() == tmp_path / "here/corpus.csv"
    assert dataset_files._cache_dir() == tmp_path / "here/cache/data"
    monkeypatch.setenv("PROBE_HOME", "")
    assert data_home() == Path("/d/stability-probe")
