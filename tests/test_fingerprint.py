"""Runs of the user's own code are never reported for, or paired with, what was edited since."""

from __future__ import annotations

import dataclasses
import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stability_probe import fingerprint
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset
from stability_probe.errors import UsageError
from stability_probe.executors import LocalProcesses
from stability_probe.files import read_json, write_json
from stability_probe.fingerprint import require_unchanged
from stability_probe.probe import characterize
from stability_probe.randomness import seed_everything
from stability_probe.run import run
from stability_probe.store import Store
from stability_probe.sweep import measure_curves, run_all
from tests.tiny import blobs

SOURCE = """
import torch
from torch import nn
from stability_probe.schedulers.base import Proposal

def make(num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, num_classes)
    )

class Grow:
    def propose(self, record):
        wanted = 2 * record.batch_size  # as fast as it may
        return Proposal(batch_size=wanted, reason="always")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


Edit = Callable[..., None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Write the module `mine` with one text replaced by another, as an editor would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(old: str = "", new: str = "") -> None:
        assert old in SOURCE
        (tmp_path / "mine.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        # Two edits within a second look alike to the cache of source lines.
        importlib.import_module("linecache").clearcache()

    write()
    return write


CONFIG = RunConfig(
    model="mine:make", data="tests.tiny:blobs", device="cpu", epochs=2, window_epochs=2,
    channels_last="off",
)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("nn.Linear(192, 8)", "nn.Linear(192, 8, bias=False)", "layers"),
        ("nn.Dropout(0.1)", "nn.Dropout(0.2)", "layers"),
        ("nn.Tanh()", "nn.ReLU()", "layers"),
        ("return nn.Seq", "torch.manual_seed(1)\n    return nn.Seq", "loss"),
    ],
)
def test_an_edited_model_is_no_longer_that_of_its_runs(
    edit: Edit, tmp_path: Path, old: str, new: str, what: str
) -> None:
    store = Store(tmp_path / "runs")
    run(CONFIG, store)
    assert run(CONFIG, store).status == "finished"  # the same: the stored result
    edit(old, new)
    for seed in (0, 1):  # neither the old result nor a pair for it
        with pytest.raises(UsageError, match=rf"mine:make is no longer the model .*other {what}"):
            run(dataclasses.replace(CONFIG, seed=seed), store)
    assert len(store.list()) == 1
    assert run(CONFIG, Store(tmp_path / "others")).status == "finished"
    edit()
    assert run(CONFIG, store).status == "finished"


def test_what_a_forward_pass_does_in_training_alone_shows(edit: Edit, tmp_path: Path) -> None:
    head = "def make(num_classes):\n    return nn.Sequential("
    drops = (
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        x = torch.nn.functional.dropout(x, 0.1, self.training)\n"
        "        return super().forward(x)\n\n"
        "def make(num_classes):\n    return Net("
    )
    edit(head, drops)
    for _ in range(2):
        require_unchanged(CONFIG, blobs(), tmp_path)
    edit(head, drops.replace("0.1", "0.8"))
    with pytest.raises(UsageError, match=r"no longer the model .*\(other training loss\)"):
        require_unchanged(CONFIG, blobs(), tmp_path)
    # An earlier version did not look at it.
    (kept,) = tmp_path.glob("fingerprints/model-*.json")
    before = read_json(kept)
    del before["training_loss"]
    write_json(kept, before)
    require_unchanged(CONFIG, blobs(), tmp_path)


def test_a_model_that_is_another_each_time_is_told_from_an_edited_one(
    edit: Edit, tmp_path: Path
) -> None:
    edit("return nn.Seq", "torch.seed()\n    return nn.Seq")
    require_unchanged(CONFIG, blobs(), tmp_path)
    with pytest.raises(UsageError, match=r"gives another model each time it is called .*loss"):
        require_unchanged(CONFIG, blobs(), tmp_path)


def test_a_module_may_keep_what_is_no_tensor(edit: Edit, tmp_path: Path) -> None:
    extra = (
        "class Net(nn.Sequential):\n"
        "    def get_extra_state(self):\n        return {'epoch': 3}\n"
        "    def set_extra_state(self, state):\n        pass\n\n"
        "def make(num_classes):\n    return Net("
    )
    head = "def make(num_classes):\n    return nn.Sequential("
    edit(head, extra)
    assert run(CONFIG, Store(tmp_path / "runs")).status == "finished"
    edit(head, extra.replace("{'epoch': 3}", "print"))
    with pytest.raises(UsageError, match=r"cannot be stored .* let get_extra_state\(\) give"):
        run(CONFIG, Store(tmp_path / "others"))


def test_a_forward_pass_shows_in_loss_and_gradient(edit: Edit, tmp_path: Path) -> None:
    wrapped = (
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return 1.01 * super().forward(x)\n\n"
        "def make(num_classes):\n    return Net("
    )
    plain = wrapped.replace("1.01 * ", "")
    head = "def make(num_classes):\n    return nn.Sequential("
    edit(head, plain)
    require_unchanged(CONFIG, blobs(), tmp_path)
    edit(head, wrapped)
    with pytest.raises(UsageError, match=r"\(other (loss, )?gradient\)"):
        require_unchanged(CONFIG, blobs(), tmp_path)


def _one_pixel(data: Dataset) -> None:
    data.train_images[5, 0, 0, 0] += 1


def _one_label(data: Dataset) -> None:
    data.test_labels[0] = (data.test_labels[0] + 1) % 3


@pytest.mark.parametrize(
    ("change", "what"), [(_one_pixel, "training images"), (_one_label, "test labels")]
)
def test_edited_data_are_no_longer_those_of_the_runs(
    tmp_path: Path,
    change: Callable[[Dataset], None],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(CONFIG, model="tests.tiny:net")
    require_unchanged(config, blobs(), tmp_path)
    require_unchanged(config, blobs(), tmp_path)
    edited = blobs()
    change(edited)
    monkeypatch.setattr(fingerprint, "load_dataset", lambda *_, **__: edited)
    with pytest.raises(UsageError, match=rf"no longer the data .*\(other {what}\)"):
        require_unchanged(config, edited, tmp_path)
    # What comes out otherwise each time is not edited, and another -o would not help.
    monkeypatch.setattr(fingerprint, "load_dataset", lambda *_, **__: blobs())
    with pytest.raises(UsageError, match=r"gives another data each time .* seed what it draws"):
        require_unchanged(config, edited, tmp_path)
    # Of another subset nothing is known yet.
    require_unchanged(dataclasses.replace(config, limit=50), edited, tmp_path)


def test_an_edited_schedule_but_not_a_comment_of_it(edit: Edit, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, model="tests.tiny:net", scheduler="mine:Grow")
    store = Store(tmp_path / "runs")
    run(config, store)
    edit("  # as fast as it may", "")
    assert run(config, store).status == "finished"
    edit("2 * record", "3 * record")
    with pytest.raises(UsageError, match=r"mine:Grow is no longer the scheduler .*other source"):
        run(config, store)


def test_named_models_and_data_keep_no_fingerprint(tmp_path: Path) -> None:
    named = RunConfig(model="test_resnet", data="digits", scheduler="deba")
    require_unchanged(named, blobs(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_neither_window_nor_curve_nor_sweep_takes_an_edited_model(
    edit: Edit, tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    run(CONFIG, store)
    edit("nn.Tanh()", "nn.ReLU()")
    with pytest.raises(UsageError, match="no longer the model"):
        characterize(CONFIG, store=store)
    with pytest.raises(UsageError, match="no longer the model"):
        measure_curves([CONFIG], store.root)
    with pytest.raises(UsageError, match="no longer the model"):
        run_all([CONFIG], store.root, LocalProcesses(1))
    assert not list((store.root / "curves").glob("*.json"))


def test_the_random_state_of_a_run_is_not_touched(edit: Edit, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    require_unchanged(CONFIG, blobs(), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_folder_that_is_a_run_is_left_as_it_is(edit: Edit, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    inside = Store(store.root / run(CONFIG, store).run_id)
    with pytest.raises(UsageError, match="is itself a run"):
        run(CONFIG, inside)
    assert not (inside.root / "fingerprints").exists()


def test_a_fingerprint_leaves_every_generator_as_it_was(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, model="tests.tiny:drawn_elsewhere")
    drawn = []
    for _ in range(2):
        seed_everything(7)
        require_unchanged(config, blobs(), tmp_path)
        drawn.append((random.random(), np.random.normal(), torch.rand(1).item()))
    seed_everything(7)
    assert drawn == 2 * [(random.random(), np.random.normal(), torch.rand(1).item())]
