"""Several processes on one run, with real ones: torchrun and Gloo on the CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import cli
from stability_probe.config import RunConfig
from stability_probe.distributed import World, joined
from stability_probe.errors import DivergedError, RunError, UsageError
from stability_probe.exits import complain, explain
from stability_probe.launch import is_common, is_leaders
from stability_probe.order import epoch_batches
from stability_probe.records import RunResult
from stability_probe.run import run
from stability_probe.run_summary import split_epochs
from stability_probe.state import make_state
from stability_probe.store import Store
from tests.test_run import all_timeless
from tests.tiny import blobs

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = RunConfig(
    model="tests.tiny:plain",
    data="tests.tiny:blobs",
    device="cpu",
    epochs=6,
    window_epochs=2,
    channels_last="off",
    scheduler="deba",
    scheduler_args={"cooldown": 1, "min_calm_signals": 1},
    max_batch_size=64,
    lr_rule="linear",
)

WORKER = """
import json, os, sys
from pathlib import Path
import torch
from stability_probe import loop, step
from stability_probe.config import RunConfig
from stability_probe.plain import to_plain
from stability_probe.run import run
from stability_probe.store import Store

config, root, told = sys.argv[1:]
rank = os.environ["RANK"]
Path(told, f"pid{rank}").write_text(str(os.getpid()))
seen, seeds, buffers = [], [], []
original, evaluate = step._backward_share, loop.evaluate

def spy(state, data, images, labels, precision):
    seen.append([int(x) for x in state.world.share(images).flatten(1).double().sum(1)])
    seeds.append(torch.initial_seed())
    return original(state, data, images, labels, precision)

def spy_evaluate(state, *rest):
    buffers.append([b.tolist() for b in state.model.buffers()])
    return evaluate(state, *rest)

step._backward_share, loop.evaluate = spy, spy_evaluate
result = run(RunConfig.from_dict(json.loads(config)), Store(Path(root)))
told_of = {"result": to_plain(result), "seen": seen, "seeds": seeds, "buffers": buffers}
Path(told, f"rank{rank}.json").write_text(json.dumps(told_of))
"""


def torchrun(*args: str, cwd: Path, count: int = 2) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        # A port of its own, so that tests may run side by side.
        [*launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *args],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_by_two(config: RunConfig, root: Path, folder: Path) -> list[dict[str, Any]]:
    """What each of two processes says of the run."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    args = (str(script), json.dumps(config.to_dict()), str(root), str(folder))
    with torchrun(*args, cwd=folder) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def wait_until_free(store: Store, config: RunConfig) -> None:
    """A killed process lets go of its lock when the kernel has buried it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with store.open(config):
                return
        except RunError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def close(left: RunResult, right: RunResult) -> None:
    """The same run up to the order in which sums are taken."""
    assert left.batch_sizes == right.batch_sizes
    for one, other in zip(left.epochs, right.epochs, strict=True):
        assert (one.updates, one.samples, one.lr) == (other.updates, other.samples, other.lr)
        for name in ("loss", "grad_norm", "test_loss", "test_accuracy", "grad_component_variance"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """No BatchNorm, no dropout: losses, norms of the whole gradient and batches are the same."""
    alone = run(CONFIG, Store(tmp_path / "alone"))
    assert len(set(alone.batch_sizes)) > 2
    first, second = run_by_two(CONFIG, tmp_path / "two", tmp_path)
    stored = Store(tmp_path / "two").load(CONFIG.run_id())
    close(stored, alone)
    assert stored.environment["processes"] == "2"
    assert [e.micro_batch_size for e in stored.epochs] == [b // 2 for b in stored.batch_sizes]
    assert split_epochs(stored) == [], "it is no lack of memory that shares a batch"
    # Both ranks went through the same records, times included: they are the leader's.
    assert first["result"]["epochs"] == second["result"]["epochs"]
    # Every sample once an epoch, over both; the last epoch's batches end the list.
    everything = sorted(int(x) for x in blobs().train_images.flatten(1).double().sum(1))
    updates = [e.updates for e in stored.epochs]
    shares = [first["seen"], second["seen"]]
    assert [len(s) for s in shares] == [sum(updates)] * 2
    start = 0
    for count in updates:
        both = [x for s in shares for batch in s[start : start + count] for x in batch]
        assert sorted(both) == everything
        start += count


def test_processes_draw_apart_and_are_evaluated_alike(tmp_path: Path) -> None:
    """Each its own dropout, and BatchNorm's statistics of the leader, as theirs differ."""
    config = dataclasses.replace(CONFIG, model="tests.tiny:net", epochs=2)
    first, second = run_by_two(config, tmp_path / "two", tmp_path)
    assert len(first["buffers"]) == 2
    assert first["buffers"] == second["buffers"]
    pairs = set(zip(first["seeds"], second["seeds"], strict=True))
    assert len(pairs) == 2, "one an epoch"
    assert all(one != other for one, other in pairs)


def test_a_card_by_its_number_is_not_for_several_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"use --device cuda$"):
        run(dataclasses.replace(CONFIG, device="cuda:0"), Store(tmp_path))
    assert not list(tmp_path.iterdir())


def test_two_processes_resume_what_two_began(tmp_path: Path) -> None:
    """BatchNorm and dropout too: killed, then resumed, to the same end bit for bit."""
    config = dataclasses.replace(CONFIG, model="tests.tiny:net", epochs=40)
    run_by_two(config, tmp_path / "whole", tmp_path)
    script = (str(tmp_path / "worker.py"), json.dumps(config.to_dict()), str(tmp_path / "cut"))
    with torchrun(*script, str(tmp_path), cwd=tmp_path) as process:
        journal = tmp_path / "cut" / config.run_id() / "epochs.jsonl"
        deadline = time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        for rank in range(2):
            os.kill(int((tmp_path / f"pid{rank}").read_text()), signal.SIGKILL)
    wait_until_free(Store(tmp_path / "cut"), config)
    (listed,) = Store(tmp_path / "cut").list()
    assert listed.status == "unfinished"
    # One process cannot take it up: it would see other batches.
    with pytest.raises(UsageError, match="begun by 2 processes"):
        run(config, Store(tmp_path / "cut"))
    run_by_two(config, tmp_path / "cut", tmp_path)
    cut, whole = (Store(tmp_path / n).load(config.run_id()) for n in ("cut", "whole"))
    assert all_timeless(cut) == all_timeless(whole)


ARGS = ["tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--window", "2"]
ARGS += ["--channels-last", "off"]


def test_the_command_under_torchrun_speaks_once_and_stops_when_told(tmp_path: Path) -> None:
    with torchrun("-m", "cli", "run", *ARGS, "--epochs", "3", "--json", cwd=tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = json.loads(out)  # one object, not two
    assert told["environment"]["processes"] == "2"
    with torchrun("-m", "cli", "run", *ARGS, "--epochs", "100000", cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("probe-runs/*/checkpoint.pt"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert err.count("probe: interrupted") == 1
    unfinished = [s for s in Store(tmp_path / "probe-runs").list() if s.status == "unfinished"]
    config = json.loads(
        (tmp_path / "probe-runs" / unfinished[0].run_id / "config.json").read_text()
    )
    store = Store(tmp_path / "probe-runs")
    wait_until_free(store, RunConfig.from_dict(config))
    with store.open(RunConfig.from_dict(config)) as directory:
        saved = torch.load(directory.checkpoint, weights_only=True)
        assert saved["epoch"] == len(directory.records())


def test_an_error_of_the_leader_is_told_once(tmp_path: Path) -> None:
    with torchrun("-m", "cli", "run", *ARGS, "-b", "3", cwd=tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("probe: batch 3 leaves 2 processes fewer than 2 samples each") == 1


OWN = """
import os
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.used, self.unused = nn.Linear(192, num_classes), nn.Linear(3, 3)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps > 9 and os.environ["RANK"] == "1":
            raise KeyError("a bad node")
        return self.used(x.flatten(1))
"""


def test_an_error_of_a_follower_is_told_by_it(tmp_path: Path) -> None:
    """Met in a late step, since a layer that no step uses is no error."""
    (tmp_path / "ownrank.py").write_text(OWN)
    with torchrun("-m", "cli", "run", "ownrank:Net", *ARGS[1:], cwd=tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("probe: process 1: your own code raised KeyError: 'a bad node'") == 1, err
    assert err.count("a bad node") == 1
    assert "internal error" not in err


def test_a_follower_is_silent_on_what_the_leader_tells_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leaders = RunError("the disk is full")
    monkeypatch.setattr(
        "torch.distributed.broadcast_object_list",
        lambda answer, src: answer.__setitem__(0, (None, leaders)),
    )
    with pytest.raises(RunError) as caught:
        World(rank=1, size=2).lead(lambda: 3)
    assert is_leaders(caught.value)
    assert not is_leaders(RunError("the disk is full"))
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    lost = RuntimeError("[tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1948")
    assert explain(lost) == ("another process of the run ended; it says why", 3)
    for error, told in ((caught.value, ""), (lost, ""), (RunError("x"), "probe: process 1: x\n")):
        monkeypatch.setattr("stability_probe.launch._joined", True)
        complain(explain(error)[0], common=is_common(error))
        assert capsys.readouterr().err == told
        # What fails before the processes work together fails in each.
        monkeypatch.setattr("stability_probe.launch._joined", False)
        assert is_common(error)
    monkeypatch.setattr("stability_probe.launch._joined", True)
    assert is_common(DivergedError(1)), "all see the same loss"
    sent = pickle.loads(pickle.dumps(DivergedError(3)))
    assert (str(sent), sent.epoch) == (str(DivergedError(3)), 3)
    assert not is_common(RunError("x"))


def test_more_processes_than_cards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "2"), ("LOCAL_RANK", "2"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="use --nproc-per-node 2"), joined("auto"):
        pass


def test_only_runs_are_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(cli.probe, ["characterize", *ARGS])
    assert told.exit_code == 2
    assert "torchrun starts one run only" in told.stderr
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(cli.probe, ["characterize", *ARGS]).stderr == ""


@given(st.integers(4, 400), st.integers(4, 64), st.integers(1, 8), st.integers(0, 3))
def test_every_process_gets_two_samples_of_every_batch(
    samples: int, batch_size: int, size: int, seed: int
) -> None:
    if min(samples, batch_size) < 2 * size:
        return
    generator = torch.Generator().manual_seed(seed)
    batches = epoch_batches(samples, batch_size, generator, 2 * size)
    worlds = [World(rank=rank, size=size) for rank in range(size)]
    shares = [world.share(batch) for batch in batches for world in worlds]
    assert min(map(len, shares)) >= 2
    assert sorted(torch.cat(shares).tolist()) == list(range(samples))


def test_one_process_is_a_world_of_its_own() -> None:
    world = World()
    assert world.leader
    assert world.lead(lambda: 3) == 3
    state = make_state(CONFIG, blobs())
    assert state.forward is state.model
