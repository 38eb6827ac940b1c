"""Epochs go to a tracker, and a tracker that fails takes no run with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli import probe
from stability_probe import trackers
from stability_probe.errors import MissingError
from stability_probe.progress import Quiet
from stability_probe.records import NoiseScaleRecord
from stability_probe.store import Store
from stability_probe.trackers import TRACKERS, Tracked, make_opener, numbers_of
from tests.factories import make_epoch

RUN = ("run", "tests.tiny:net", "--data", "tests.test_trackers:arrays", "--epochs", "3")


def arrays() -> tuple[Any, Any, Any, Any]:
    """The data of `blobs`, as a user's callable returns it."""
    from tests.tiny import blobs

    data = blobs()
    return data.train_images, data.train_labels, data.test_images, data.test_labels


class Log:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.epochs: list[int] = []
        self.closed = 0

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.epochs.append(epoch)
        if self.fails == f"log {epoch}":
            raise ConnectionError("no route to host")

    def close(self) -> None:
        self.closed += 1
        if self.fails == "close":
            raise OSError("gone")


class Told(Quiet):
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.epochs: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, record: Any) -> None:
        self.epochs.append(record.epoch)


def test_one_run_a_stage_opened_with_its_first_epoch() -> None:
    opened: list[tuple[str, Log]] = []

    def open_run(stage: str) -> Log:
        opened.append((stage, Log()))
        return opened[-1][1]

    told = Told()
    tracked = Tracked(told, open_run)
    for stage, epochs in (("one", 2), ("throughput", 0), ("two", 1)):
        tracked.start(stage, epochs)
        for epoch in range(1, epochs + 1):
            tracked.epoch(make_epoch(epoch=epoch))
    tracked.close()
    assert [(stage, log.epochs, log.closed) for stage, log in opened] == [
        ("one", [1, 2], 1),
        ("two", [1], 1),
    ]
    assert told.epochs == [1, 2, 1]


@pytest.mark.parametrize("fails", ["open", "log 2", "close"])
def test_a_failing_tracker_is_told_once_and_left_out(fails: str) -> None:
    log = Log(fails)

    def open_run(stage: str) -> Log:
        if fails == "open":
            raise RuntimeError("no key\nset one")
        return log

    told = Told()
    tracked = Tracked(told, open_run)
    tracked.start("one", 3)
    for epoch in (1, 2, 3):
        tracked.epoch(make_epoch(epoch=epoch))
    tracked.start("two", 1)
    tracked.epoch(make_epoch(epoch=1))
    tracked.close()
    assert told.epochs == [1, 2, 3, 1]
    (note,) = told.notes
    assert note.startswith("no longer logged: ")
    assert "\n" not in note
    assert log.epochs == {"open": [], "log 2": [1, 2], "close": [1, 2, 3]}[fails]


def test_what_is_undefined_is_not_sent() -> None:
    noise = NoiseScaleRecord(
        trace_sigma=1.0, grad_sq_norm=0.5, noise_scale=2.0, num_samples=64, time_s=0.0
    )
    first = numbers_of(make_epoch(epoch=1, grad_norm_variation=None, noise=None))
    assert "grad_norm_variation" not in first
    assert "noise_scale" not in first
    sent = numbers_of(make_epoch(epoch=2, noise=noise, test_accuracy=0.25))
    assert (sent["noise_scale"], sent["test_accuracy"]) == (2.0, 0.25)
    assert all(isinstance(value, float) for value in sent.values())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"stability_probe.trackers.{name}", raising=False)
    with pytest.raises(MissingError, match=rf"{TRACKERS[name]} is not installed.*\[{name}\]"):
        make_opener(name, Path("x"))


def test_nothing_runs_where_the_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "stability_probe.trackers.wandb", raising=False)
    result = CliRunner().invoke(probe, [*RUN, "--log", "wandb", "-o", str(tmp_path / "runs")])
    assert result.exit_code == 4
    assert "'stability-probe[wandb]'" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_stage_cannot_lead_out_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        trackers.importlib,
        "import_module",
        lambda _: type("Module", (), {"open_run": lambda name, folder: seen.append(name)}),
    )
    make_opener("wandb", Path("x"))("../../etc/passwd deba seed 0")
    assert seen == ["etc-passwd-deba-seed-0"]


def logged(name: str, root: Path) -> None:
    result = CliRunner().invoke(probe, [*RUN, "--log", name, "-o", str(root)])
    assert result.exit_code == 0, result.output
    assert len(Store(root).list()) == 1


def test_tensorboard_events_hold_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged("tensorboard", tmp_path)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    run = Store(tmp_path).load(Store(tmp_path).list()[0].run_id)
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([e.loss for e in run.epochs])
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]


def test_mlflow_holds_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logged("mlflow", tmp_path)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("probe")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "batch_size")] == [1, 2, 3]


def test_wandb_offline_keeps_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged("wandb", tmp_path)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
