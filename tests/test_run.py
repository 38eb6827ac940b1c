"""Runs that are stored as they go: repeated, cut short, killed, diverged, damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from stability_probe.config import RunConfig
from stability_probe.device import cpu_name
from stability_probe.errors import MissingError, UsageError
from stability_probe.paired import compare_runs, machine_of, same_machine
from stability_probe.progress import Quiet
from stability_probe.records import EpochRecord, RunResult
from stability_probe.run import _read_checkpoint, run
from stability_probe.store import Store, read_records
from tests.launcher import Launcher, launching, wait_for_lines

RUN = importlib.import_module("stability_probe.run")
CONFIG = RunConfig(
    model="tinynet:make",
    limit=120,
    img_size=8,
    epochs=6,
    window_epochs=2,
    lr_schedule="cosine",
    device="cpu",
    channels_last="off",
    threads=1,
)
DEBA = dataclasses.replace(
    CONFIG,
    scheduler="deba",
    scheduler_args={"cooldown": 2, "tolerance": 3.0},
    lr_rule="linear",
    max_batch_size=64,
)

TINYNET = """
import torch
from torch import nn


def make(num_classes, in_chans):
    return nn.Sequential(
        nn.Conv2d(in_chans, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, num_classes),
    )


class Fuse(nn.Module):
    '''Lets 40 training steps pass, then gives only NaN.'''

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return x * (float("nan") if self.steps > 40 else 1.0)


def make_fused(num_classes, in_chans):
    return nn.Sequential(make(num_classes, in_chans), Fuse())


class BadTest(nn.Module):
    '''Trains well, but its test loss is infinite.'''

    def forward(self, x):
        return x if self.training or len(x) == 2 else x * 0 + float("inf")


def make_bad_test(num_classes, in_chans):
    return nn.Sequential(make(num_classes, in_chans), BadTest())
"""


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the user's own module of models in it."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "tinynet.py").write_text(TINYNET)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("tinynet", None)


class Notes(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def timeless(record: EpochRecord, **fields: Any) -> EpochRecord:
    """`record` without its times, whose names all end in _s."""
    times = {f.name: 0.0 for f in dataclasses.fields(record) if f.name.endswith("_s")}
    assert {"time_s", "cpu_s"} <= times.keys()
    noise = dataclasses.replace(record.noise, time_s=0.0) if record.noise else None
    return dataclasses.replace(record, **times, noise=noise, peak_memory_bytes=None, **fields)


def all_timeless(result: RunResult, **fields: Any) -> list[EpochRecord]:
    return [timeless(e, **fields) for e in result.epochs]


def load_checkpoint(store: Store, config: RunConfig) -> dict[str, Any]:
    path = store.root / config.run_id() / "checkpoint.pt"
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return saved


def assert_same_state(left: Any, right: Any) -> None:
    """Every tensor of two checkpoints is the same to the bit, every number equal."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            if str(key).endswith("_s") or key == "peak_memory_bytes":
                continue  # of the machine, not of the run
            assert_same_state(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same_state(one, other)
    else:
        assert left == right


class StopNow(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """Let `name` of the run module fail instead of making call number `calls`."""
    real: Callable[..., Any] = getattr(RUN, name)
    count = 0

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise StopNow
        return real(*args)

    monkeypatch.setattr(RUN, name, counted)


# --- a finished run ----------------------------------------------------------------------------


def test_a_run_is_stored_as_it_is_returned(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    result = run(DEBA, store)
    assert result.status == "finished"
    assert result.run_id == DEBA.run_id()
    assert RunConfig.from_dict(result.config) == DEBA
    assert [e.epoch for e in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert (result.num_train, result.memory_format) == (120, "contiguous_format")
    assert max(result.batch_sizes) > 16
    assert all(a.next_batch_size == b.batch_size for a, b in pairwise(result.epochs))
    assert store.load(result.run_id) == result
    assert tuple(read_records(store.root / result.run_id / "epochs.jsonl")) == result.epochs
    names = {p.name for p in (store.root / result.run_id).iterdir()}
    files = {"config.json", "epochs.jsonl", "checkpoint.pt", "result.json", "summary.json", "lock"}
    assert names == files


def test_a_finished_run_is_reported_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "runs")
    first = run(CONFIG, store)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    # The data are looked at: they, and the model, may have been edited since.
    for name in ("train", "make_state"):
        monkeypatch.setattr(RUN, name, fail)
    notes = Notes()
    assert run(CONFIG, store, notes) == first
    assert "not run again" in notes.notes[0]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    first = run(dataclasses.replace(CONFIG, max_epochs=1), store)
    second = run(dataclasses.replace(CONFIG, max_epochs=1, seed=1), store)
    assert first.epochs[0].loss != second.epochs[0].loss
    assert len(store.list()) == 2


# --- a window is the beginning of a full run ---------------------------------------------------


def test_a_window_is_the_beginning_of_the_fixed_and_of_the_deba_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    window = run(dataclasses.replace(CONFIG, max_epochs=2), store)
    fixed = run(CONFIG, store)
    assert (len(window.epochs), len(fixed.epochs)) == (2, 6)
    assert window.epochs[1].noise is not None
    assert all_timeless(window) == all_timeless(fixed)[:2]
    deba = run(dataclasses.replace(DEBA, lr_rule="none"), store)
    assert max(deba.batch_sizes) > 16
    told: dict[str, Any] = {"reason": "", "evidence": (), "cooldown_left": 0}
    assert all_timeless(window, **told) == all_timeless(deba, **told)[:2]


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour an epoch: times come from clocks that nobody can set."""
    expected = run(DEBA, Store(tmp_path / "whole"))
    now = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    result = run(DEBA, Store(tmp_path / "back"))
    assert all_timeless(result) == all_timeless(expected)
    assert all(0 < e.time_s < 60 and 0 < e.cpu_s < 60 for e in result.epochs)


# --- an interrupted run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "calls", "recorded", "resumed_after"),
    [
        ("write_bytes", 1, 1, None),
        ("write_bytes", 3, 3, 2),
        ("write_bytes", 6, 6, 5),
        ("_checkpoint", 4, 4, 3),
        ("_result", 1, 6, 6),
    ],
)
def test_a_run_stopped_between_two_writes_goes_on_as_if_it_had_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    calls: int,
    recorded: int,
    resumed_after: int | None,
) -> None:
    """Between record and checkpoint, the record is ahead; before the result, nothing is left."""
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    expected = run(DEBA, whole)
    with monkeypatch.context() as patch:
        stop_after(patch, name, calls)
        with pytest.raises(StopNow):
            run(DEBA, cut)
    unfinished = cut.load(DEBA.run_id())
    assert (unfinished.status, len(unfinished.epochs)) == ("unfinished", recorded)
    notes = Notes()
    result = run(DEBA, cut, notes)
    assert any(n.endswith(f"after epoch {resumed_after}") for n in notes.notes) == (
        resumed_after is not None
    )
    assert result.status == "finished"
    assert all_timeless(result) == all_timeless(expected)
    journal = read_records(cut.root / DEBA.run_id() / "epochs.jsonl")
    assert tuple(journal) == result.epochs
    assert_same_state(load_checkpoint(cut, DEBA), load_checkpoint(whole, DEBA))


def test_a_run_that_goes_on_elsewhere_names_both_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for name in ("first", "first", "second"):
        with monkeypatch.context() as patch:
            patch.setattr(RUN, "describe_environment", lambda _, name=name: {"device_name": name})
            stop_after(patch, "write_bytes", 2)
            with pytest.raises(StopNow):
                run(DEBA, store)
    result = run(DEBA, store)
    assert result.status == "finished"
    names = result.environment["device_name"].split(", then ")
    assert names == ["first", "second", cpu_name()]
    assert machine_of(result.environment).startswith(f"first, then second, then {cpu_name()}, ")


def test_other_threads_and_another_torch_are_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One processor throughout, so that its name does not tell."""
    store = Store(tmp_path)
    stop_after(monkeypatch, "write_bytes", 2)
    with pytest.raises(StopNow):
        run(dataclasses.replace(DEBA, threads=2), store)
    elsewhere = run(dataclasses.replace(DEBA, threads=1), store)
    assert elsewhere.environment["device_name"] == cpu_name()
    assert re.findall(r"(\d) thread", machine_of(elsewhere.environment)) == ["2", "1"]
    whole = run(CONFIG, store)
    for one, other in ((whole, elsewhere), (elsewhere, whole), (elsewhere, elsewhere)):
        assert not same_machine(one, other)
    with pytest.raises(UsageError, match="is a run of one machine after another"):
        compare_runs(elsewhere, elsewhere)


def test_a_checkpoint_of_an_earlier_version_tells_the_devices_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, names in (("here", [cpu_name()]), ("there", ["first"])):
        store = Store(tmp_path / folder)
        with monkeypatch.context() as patch:
            stop_after(patch, "write_bytes", 2)
            with pytest.raises(StopNow):
                run(DEBA, store)
        path = store.root / DEBA.run_id() / "checkpoint.pt"
        saved = torch.load(path, weights_only=True)
        del saved["environments"]
        torch.save({**saved, "device_names": names}, path)
        told = run(DEBA, store).environment
        assert ("machines" in told) == (names != [cpu_name()])
        assert told["device_name"].split(", then ") == list(dict.fromkeys([*names, cpu_name()]))


SEQUENCE = [16, 16, 24, 40, 16, 16]


@pytest.mark.parametrize(
    ("scheduler", "args"),
    [
        ("timed", {"cooldown": 2}),
        ("adabatch", {"every": 2}),
        ("noise_scale", {"every": 1, "smoothing": 0.3, "multiple": 1.0}),
        ("norm_test", {"every": 1}),
        ("replay", {"batch_sizes": SEQUENCE}),
        ("random", {"batch_sizes": SEQUENCE}),
        ("deba", {"reading": "literal", "min_calm_signals": 1, "spike": 9.0, "cooldown": 1}),
        ("deba", {"window_mode": "rescale", "cooldown": 1, "tolerance": 3.0}),
        ("deba", {"window_mode": "restart", "window": None, "cooldown": 1, "tolerance": 3.0}),
    ],
)
def test_every_schedule_resumes_as_if_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, args: dict[str, Any]
) -> None:
    config = dataclasses.replace(DEBA, scheduler=scheduler, scheduler_args=args)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    expected = run(config, whole)
    assert len(set(expected.batch_sizes)) > 1, [e.reason for e in expected.epochs]
    with monkeypatch.context() as patch:
        stop_after(patch, "write_bytes", 4)
        with pytest.raises(StopNow):
            run(config, cut)
    assert all_timeless(run(config, cut)) == all_timeless(expected)
    assert_same_state(load_checkpoint(cut, config), load_checkpoint(whole, config))


def test_buffers_outside_a_models_state_and_of_another_shape_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, model="tests.tiny:remembering")
    expected = run(config, Store(tmp_path / "whole"))
    cut = Store(tmp_path / "cut")
    with monkeypatch.context() as patch:
        stop_after(patch, "write_bytes", 3)
        with pytest.raises(StopNow):
            run(config, cut)
    assert all_timeless(run(config, cut)) == all_timeless(expected)


def test_replaying_a_run_with_its_seed_repeats_it_exactly(tmp_path: Path) -> None:
    """The signals act through the batch sequence alone, so a control needs another seed."""
    store = Store(tmp_path)
    deba = run(DEBA, store)
    args = {"batch_sizes": list(deba.batch_sizes)}
    replayed = run(dataclasses.replace(DEBA, scheduler="replay", scheduler_args=args), store)
    told: dict[str, Any] = {"reason": "", "evidence": (), "cooldown_left": 0}
    last = {"action": "", "next_batch_size": 0}
    assert all_timeless(deba, **told)[:-1] == all_timeless(replayed, **told)[:-1]
    assert all_timeless(deba, **told, **last)[-1] == all_timeless(replayed, **told, **last)[-1]


def test_a_noise_schedule_pays_for_its_measurements_on_the_clock(tmp_path: Path) -> None:
    config = dataclasses.replace(DEBA, scheduler="norm_test", scheduler_args={"every": 2})
    result = run(config, Store(tmp_path))
    measured = [e.epoch for e in result.epochs if e.noise is not None]
    assert measured == [2, 4, 6]
    for epoch in result.epochs:
        if epoch.noise is not None:
            assert epoch.time_s > epoch.noise.time_s > 0


def test_a_checkpoint_of_another_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = interrupted(tmp_path, monkeypatch)
    saved = torch.load(path, weights_only=True)
    layer = next(iter(saved["model"]))
    changes: dict[str, Any] = {
        "scheduler": {"num_seen": 3},
        "model": {f"new.{n}" if n == layer else n: w for n, w in saved["model"].items()},
        "optimizer": {"state": {}, "param_groups": []},
        "previous": {"epoch": 4},
    }
    for name, other in changes.items():
        torch.save({**saved, name: other}, path)
        with pytest.raises(MissingError, match=r"another version of probe or of .* delete it"):
            run(DEBA, store)
    del saved["batch_size"]
    torch.save(saved, path)
    with pytest.raises(MissingError, match=r"KeyError: 'batch_size'"):
        run(DEBA, store)


@pytest.fixture
def launcher(user_folder: Path) -> Iterator[Callable[[RunConfig], Launcher]]:
    with contextlib.ExitStack() as stack:
        yield lambda config: stack.enter_context(launching(config, user_folder))


@pytest.mark.parametrize(
    ("signum", "count", "code"),
    [
        (signal.SIGKILL, 30, -signal.SIGKILL),
        (signal.SIGTERM, 10, 143),
        (signal.SIGINT, 10, 130),
    ],
)
def test_a_run_ended_at_random_instants_goes_on_to_the_very_same_end(
    tmp_path: Path,
    launcher: Callable[[RunConfig], Launcher],
    signum: signal.Signals,
    count: int,
    code: int,
) -> None:
    """Real processes; records and weights are those of an uninterrupted run."""
    config = dataclasses.replace(DEBA, epochs=70, scheduler_args={"cooldown": 8, "tolerance": 3.0})
    runs = launcher(config)
    whole, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    chance = random.Random()
    within = 0
    for epochs in sorted(chance.sample(range(50), count)):
        pid = runs.start(killed.root)
        wait_for_lines(killed.root / config.run_id() / "epochs.jsonl", epochs)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(pid, signum)
        ended = runs.exit_code()
        # Before the handler is there, at the start of a run, Python's own one ends the process.
        assert ended in (code, -signum, 1)
        if ended == 1:
            assert signum == signal.SIGINT
        if ended == code and signum != signal.SIGKILL:
            within += load_checkpoint(killed, config)["partial"] is not None
    assert within > 0 or signum == signal.SIGKILL
    summary = killed.list()[0]
    assert summary.status == "unfinished"
    assert 0 < summary.epochs_done < 70
    for store in (killed, whole):
        runs.start(store.root)
        assert runs.exit_code() == 0
    result, expected = (s.load(config.run_id()) for s in (killed, whole))
    assert (result.status, len(result.epochs)) == ("finished", 70)
    assert len(set(expected.batch_sizes)) > 2
    assert all_timeless(result) == all_timeless(expected)
    assert_same_state(load_checkpoint(killed, config), load_checkpoint(whole, config))


# --- a run that diverges -----------------------------------------------------------------------


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def assert_strict_json(folder: Path) -> None:
    for line in (folder / "epochs.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=no_constant)
    json.loads((folder / "result.json").read_text(), parse_constant=no_constant)


@pytest.mark.parametrize(
    ("fields", "kept"), [({"lr": 1e9}, 0), ({"model": "tinynet:make_fused"}, 5)]
)
def test_a_diverged_run_is_stored_with_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kept: int
) -> None:
    store = Store(tmp_path / "runs")
    config = dataclasses.replace(CONFIG, lr_schedule="fixed", **fields)
    result = run(config, store)
    assert (result.status, len(result.epochs)) == ("diverged", kept)
    assert store.load(config.run_id()) == result
    assert [(s.status, s.epochs_done) for s in store.list()] == [("diverged", kept)]
    assert_strict_json(store.root / config.run_id())
    monkeypatch.setattr(RUN, "train", None)
    assert run(config, store) == result


def test_a_test_loss_that_is_not_finite_is_a_diverged_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    # A rate at which a net barely diverges does so on one processor and not on another.
    config = dataclasses.replace(CONFIG, lr_schedule="fixed", model="tinynet:make_bad_test")
    result = run(config, store)
    assert result.status == "diverged"
    assert all(math.isfinite(e.test_loss) for e in result.epochs)
    assert_strict_json(store.root / config.run_id())


# --- checkpoints -------------------------------------------------------------------------------


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Path]:
    """A run with four epochs in its checkpoint."""
    store = Store(tmp_path / "runs")
    with monkeypatch.context() as patch:
        stop_after(patch, "_checkpoint", 5)
        with pytest.raises(StopNow):
            run(DEBA, store)
    return store, store.root / DEBA.run_id() / "checkpoint.pt"


def test_a_checkpoint_loads_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = interrupted(tmp_path, monkeypatch)
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 4
    assert saved["previous"]["epoch"] == 4
    calls: list[dict[str, Any]] = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda f, **kw: (calls.append(kw), real(f, **kw))[1])
    assert run(DEBA, store).status == "finished"
    assert calls
    assert all(c["weights_only"] for c in calls)


OWN_RULES = """
import numpy as np
from stability_probe.schedulers import Proposal


class Mean:
    # The batch follows a mean that is kept as NumPy gives it.

    def __init__(self):
        self.mean = None

    def propose(self, record):
        self.mean = np.mean([record.loss, self.mean or record.loss])
        return Proposal(batch_size=record.batch_size * 2, reason="so")

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class Plain(Mean):
    def state_dict(self):
        return {"mean": float(self.mean)}
"""


def test_a_schedule_whose_state_could_not_be_read_back_is_named_at_its_first_epoch(
    tmp_path: Path, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user_folder / "ownrules.py").write_text(OWN_RULES)
    store = Store(tmp_path)
    config = dataclasses.replace(CONFIG, scheduler="ownrules:Mean", max_batch_size=64)
    with pytest.raises(UsageError, match=r"'mean': np.float64\(.*use plain numbers \(float"):
        run(config, store)
    assert len(read_records(tmp_path / config.run_id() / "epochs.jsonl")) == 1
    plain = dataclasses.replace(config, scheduler="ownrules:Plain")
    with monkeypatch.context() as patch:
        stop_after(patch, "_checkpoint", 3)
        with pytest.raises(StopNow):
            run(plain, store)
    resumed, whole = run(plain, store), run(plain, Store(tmp_path / "whole"))
    assert all_timeless(resumed) == all_timeless(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:4],
        lambda content: bytes(len(content)),
        lambda content: bytes(64) + content[64:],
        pytest.param(
            lambda content: b"",
        ),
        pytest.param(
            lambda content: b"hello",
        ),
    ],
    ids=["half", "last byte", "first bytes", "zeros", "head zeroed", "empty", "text"],
)
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    store, path = interrupted(tmp_path, monkeypatch)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MissingError) as caught:
        run(DEBA, store)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.load(DEBA.run_id()).status == "unfinished"


def test_no_flipped_bit_of_a_checkpoint_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found, or it lies where nothing is kept: in dates and padding."""
    _, path = interrupted(tmp_path, monkeypatch)
    whole, saved = path.read_bytes(), _read_checkpoint(path)
    chance, found = random.Random(0), 0
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            read = _read_checkpoint(path)
        except MissingError as error:
            found += "is damaged" in str(error)
        else:
            assert same_bits(read, saved)
    assert found > 100


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and bool(a == b)


def test_no_flipped_bit_of_a_journal_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, checkpoint = interrupted(tmp_path, monkeypatch)
    path = checkpoint.with_name("epochs.jsonl")
    whole, records = path.read_bytes(), read_records(path)
    chance = random.Random(0)
    for _ in range(500):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        # The last line feed is what tells a whole line from a cut one.
        with contextlib.suppress(MissingError):
            assert read_records(path) == records[: -1 if content[-1] != 10 else None]


def test_following_the_advice_on_a_damaged_checkpoint_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = interrupted(tmp_path, monkeypatch)
    path.unlink()
    result = run(DEBA, store)
    assert result.status == "finished"
    assert all_timeless(result) == all_timeless(run(DEBA, Store(tmp_path / "whole")))


def test_a_journal_shorter_than_its_checkpoint_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = interrupted(tmp_path, monkeypatch)
    journal = path.with_name("epochs.jsonl")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(MissingError, match="lacks records"):
        run(DEBA, store)
