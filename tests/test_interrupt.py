"""SIGINT and SIGTERM: the step is finished, the state kept, the exit code the shell's."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stability_probe.config import RunConfig
from stability_probe.interrupt import Interrupted, Stop, raising, stopping
from stability_probe.probe import characterize
from stability_probe.progress import Quiet
from stability_probe.records import EpochRecord, RunResult
from stability_probe.run import run
from stability_probe.store import RunDirectory, Store
from tests.test_run import Notes, all_timeless, assert_same_state, load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = importlib.import_module("stability_probe.run")
CONFIG = RunConfig(
    model="tests.tiny:net",
    data="tests.tiny:blobs",
    device="cpu",
    epochs=4,
    window_epochs=2,
    channels_last="off",
    scheduler="timed",
    scheduler_args={"cooldown": 2},
    max_batch_size=48,
)
STEPS = 16
"""97 samples, the last one joined to its batch: 6 + 6 + 4 + 4 steps, and so many are asked."""


class StopAt(Stop):
    """Asks for an end when it is asked the n-th time."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self._left = asked

    def __call__(self) -> bool:
        self._left -= 1
        if self._left == 0:
            self.signum = signal.SIGTERM
        return super().__call__()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("whole"))
    run(CONFIG, store)
    return store


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_stopped_before_any_step_goes_on_to_the_very_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Store, step: int
) -> None:
    @contextlib.contextmanager
    def stop_at() -> Iterator[Stop]:
        yield StopAt(step)

    cut = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(RUN, "stopping", stop_at)
        with pytest.raises(Interrupted) as caught:
            run(CONFIG, cut)
    assert caught.value.exit_code == 143
    partial = load_checkpoint(cut, CONFIG)["partial"]
    assert partial["step"] == (step - 1 if step <= 12 else step - 13) % 6
    notes = Notes()
    assert all_timeless(run(CONFIG, cut, notes)) == all_timeless(whole.load(CONFIG.run_id()))
    assert f"step {partial['step']}" in notes.notes[0]
    assert_same_state(load_checkpoint(cut, CONFIG), load_checkpoint(whole, CONFIG))


@pytest.mark.parametrize("step", [4, 9])
def test_a_model_may_draw_from_python_and_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    @contextlib.contextmanager
    def stop_at() -> Iterator[Stop]:
        yield StopAt(step)

    config = dataclasses.replace(CONFIG, model="tests.tiny:drawn_elsewhere")
    first, second, cut = (Store(tmp_path / name) for name in ("first", "second", "cut"))
    whole = all_timeless(run(config, first))
    random.random()
    np.random.normal()
    assert all_timeless(run(config, second)) == whole
    with monkeypatch.context() as patch:
        patch.setattr(RUN, "stopping", stop_at)
        with pytest.raises(Interrupted):
            run(config, cut)
    random.random()
    np.random.normal()
    assert all_timeless(run(config, cut)) == whole
    assert_same_state(load_checkpoint(cut, config), load_checkpoint(first, config))


def test_a_signal_after_the_last_step_finishes_the_run_and_begins_no_other(tmp_path: Path) -> None:
    class Late(Quiet):
        def epoch(self, record: EpochRecord) -> None:
            if record.epoch == 3:
                signal.raise_signal(signal.SIGTERM)

    store = Store(tmp_path)
    with pytest.raises(Interrupted) as caught:
        characterize(CONFIG, seeds=(0, 1), store=store, progress=Late(), window_epochs=3)
    assert caught.value.exit_code == 143
    assert [(s.seed, s.status) for s in store.list()] == [(0, "finished")]


def test_a_signal_before_a_stored_result_is_told_begins_no_other_run(
    whole: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = RUN.RunDirectory.result

    def signalled(directory: RunDirectory) -> RunResult | None:
        signal.raise_signal(signal.SIGTERM)
        found: RunResult | None = load(directory)
        return found

    monkeypatch.setattr(RUN.RunDirectory, "result", signalled)
    with pytest.raises(Interrupted) as caught:
        run(CONFIG, whole)
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_while_a_checkpoint_is_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Store, signals: int
) -> None:
    """One waits until the file is there, a second ends at once; the older state is then used."""
    cut, fsync = Store(tmp_path), os.fsync
    synced: list[str] = []

    def signalled(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        if sum("checkpoint" in name for name in synced) == 2 and "checkpoint" in synced[-1]:
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", signalled)
        with pytest.raises(Interrupted) as caught:
            run(CONFIG, cut)
    assert caught.value.exit_code == 143
    assert not list((tmp_path / CONFIG.run_id()).glob(".*"))
    assert load_checkpoint(cut, CONFIG)["epoch"] == (2 if signals == 1 else 1)
    assert all_timeless(run(CONFIG, cut)) == all_timeless(whole.load(CONFIG.run_id()))
    assert_same_state(load_checkpoint(cut, CONFIG), load_checkpoint(whole, CONFIG))


def test_the_time_before_an_interrupt_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def stop_at() -> Iterator[Stop]:
        yield StopAt(4)

    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(RUN, "stopping", stop_at)
        with pytest.raises(Interrupted):
            run(CONFIG, store)
    path = tmp_path / CONFIG.run_id() / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    saved["partial"]["time_s"] += 1000.0
    saved["partial"]["cpu_s"] += 500.0
    torch.save(saved, path)
    first, second = run(CONFIG, store).epochs[:2]
    assert 1000 < first.time_s < 1010
    assert 500 < first.cpu_s < 510
    assert second.time_s < 10


def test_the_first_signal_waits_and_the_second_does_not() -> None:
    with stopping() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(Interrupted) as caught:
            stop.check()
        assert caught.value.exit_code == 143
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
        assert caught.value.exit_code == 130


def test_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stopping(), raising():
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] != before
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with stopping() as stop:
            seen.extend([stop(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


# --- real processes


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *args],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 120
    while not (found := list(path.glob(pattern))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[0]


ARGS = ["tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--window", "2"]
ARGS += ["--channels-last", "off"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_ends_in_one_line_and_goes_on(
    tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    args = ["run", *ARGS, "--epochs", "2000", "--scheduler", "timed"]
    process = start(tmp_path, *args)
    with process:
        wait_for(tmp_path, "probe-runs/*/checkpoint.pt", process)
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err == "probe: interrupted; what was measured is kept in probe-runs\n"
    (listed,) = Store(tmp_path / "probe-runs").list()
    assert listed.status == "unfinished"
    (checkpoint,) = tmp_path.glob("probe-runs/*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["epoch"] == listed.epochs_done


def test_an_interrupted_sweep_keeps_its_runs_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        "[base]\n"
        'model = "tests.tiny:net"\ndata = "tests.tiny:blobs"\ndevice = "cpu"\n'
        'epochs = 5000\nwindow_epochs = 2\nchannels_last = "off"\n'
        "[grid]\nseed = [0, 1, 2, 3]\n"
    )
    process = start(tmp_path, "sweep", "s.toml", "--jobs", "2", "-o", "runs")
    with process:
        wait_for(tmp_path, "runs/*-s0-*/checkpoint.pt", process)
        wait_for(tmp_path, "runs/*-s1-*/checkpoint.pt", process)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "probe: interrupted" in err
    assert "Traceback" not in err
    # Both runs have let go of their locks, so no process is left, and the others never started.
    assert len(list(tmp_path.glob("runs/*/config.json"))) == 2
    for seed in (0, 1):
        config = json.loads(next(tmp_path.glob(f"runs/*-s{seed}-*/config.json")).read_text())
        with Store(tmp_path / "runs").open(RunConfig.from_dict(config)) as directory:
            assert directory.records()
