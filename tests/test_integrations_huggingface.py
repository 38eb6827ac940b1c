"""Hugging Face's Trainer decides as a plain loop does, and plans its steps and rate anew."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")
accelerate = pytest.importorskip("accelerate", reason="the extra huggingface is not installed")

from stability_probe.datasets import normalize  # noqa: E402
from stability_probe.errors import UsageError  # noqa: E402
from stability_probe.integrations import (  # noqa: E402
    AdaptiveBatch,
    AdaptiveBatchSampler,
    GradientMonitor,
)
from stability_probe.integrations.huggingface import AdaptiveBatchCallback  # noqa: E402
from stability_probe.models import make_model  # noqa: E402
from stability_probe.plain import to_plain  # noqa: E402
from stability_probe.records import EpochRecord  # noqa: E402
from tests.test_distributed import torchrun  # noqa: E402
from tests.test_integrations_adaptive import DEBA, Plain, comparable  # noqa: E402
from tests.tiny import blobs  # noqa: E402

EPOCHS = 12
pytestmark = pytest.mark.filterwarnings("ignore")


class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.data = blobs()

    def __len__(self) -> int:
        return len(self.data.train_labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.data.train_images[index], "labels": self.data.train_labels[index]}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        made: Any = make_model("tests.tiny:plain", num_classes=3, in_chans=3, img_size=8)
        self.net: nn.Module = made
        self.data = blobs()
        self.seen: list[list[int]] = [[]]

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.seen[-1] += [int(x) for x in images.flatten(1).double().sum(1)]
        return {"loss": F.cross_entropy(self.net(normalize(images, self.data)), labels)}


class Keep(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """What the Trainer goes through, after the callback under test."""

    def __init__(self, callback: AdaptiveBatchCallback) -> None:
        self.callback = callback
        self.records: list[EpochRecord] = []
        self.rates: list[float] = []
        self.max_steps: list[int] = []
        self.epochs: list[float] = []
        self.lengths: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        self.epochs.append(state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        adaptive = self.callback.adaptive
        assert adaptive is not None
        assert adaptive.record is not None
        self.records.append(adaptive.record)
        self.max_steps.append(state.max_steps)
        kwargs["model"].seen.append([])


def make_trainer(folder: Path, optimizer: Any = None, **args: Any) -> Any:
    model = Net()
    optimizer = optimizer or torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4
    )
    arguments = transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 16,
            "num_train_epochs": EPOCHS,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "seed": 0,
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            **args,
        }
    )
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Images(), optimizers=(optimizer, None)
    )


def train(folder: Path, arguments: dict[str, Any] | None = None, **args: Any) -> tuple[Keep, Any]:
    trainer = make_trainer(folder, **args)
    callback = AdaptiveBatchCallback(
        trainer,
        **{
            "scheduler": "deba",
            "window_epochs": 2,
            "max_batch_size": 64,
            "lr_rule": "linear",
            **(DEBA if arguments is None else arguments),
        },
    )
    keep = Keep(callback)
    trainer.add_callback(keep)
    trainer.train()
    return keep, trainer


def test_a_trainer_decides_as_a_plain_loop_does(tmp_path: Path) -> None:
    plain = Plain(blobs()).rest()
    told, trainer = train(tmp_path)
    assert len({e.batch_size for e in plain}) > 3
    assert [comparable(e) for e in told.records] == [comparable(e) for e in plain]
    everything = sorted(int(x) for x in blobs().train_images.flatten(1).double().sum(1))
    assert [sorted(seen) for seen in trainer.model.seen[:-1]] == [everything] * EPOCHS


class Scales(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Float16's loss scaling, which the Trainer itself only switches on where there is a card."""

    def __init__(self) -> None:
        self.unscaled = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerator = self.trainer.accelerator
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)  # type: ignore[attr-defined]
        unscale = scaler.unscale_

        def counted(optimizer: Any) -> None:
            unscale(optimizer)  # raises when called twice before a step
            self.unscaled += 1

        scaler.unscale_ = counted
        accelerator.native_amp, accelerator.scaler = True, scaler
        accelerator.state._mixed_precision = "fp16"
        (optimizer,) = accelerator._optimizers
        optimizer.scaler = scaler
        optimizer._accelerate_step_called = False
        optimizer._optimizer_original_step_method = optimizer.optimizer.step
        optimizer._optimizer_patched_step_method = accelerate.optimizer.patch_optimizer_step(
            optimizer, optimizer.optimizer.step
        )


@pytest.mark.parametrize("clip", [0.0, 1e6])
def test_a_scaled_loss_is_measured_unscaled(tmp_path: Path, clip: float) -> None:
    """A scale that is a power of two changes no bit of what is decided."""
    trainer = make_trainer(tmp_path, max_grad_norm=clip)
    scales = Scales()
    scales.trainer = trainer
    settings = {"window_epochs": 2, "max_batch_size": 64, "lr_rule": "linear", **DEBA}
    callback = AdaptiveBatchCallback(trainer, scheduler="deba", **settings)
    keep = Keep(callback)
    trainer.add_callback(keep)
    trainer.add_callback(scales)
    try:
        trainer.train()
    finally:
        trainer.accelerator.state._mixed_precision = "no"
    assert [comparable(e) for e in keep.records] == [comparable(e) for e in Plain(blobs()).rest()]
    assert scales.unscaled == sum(e.updates for e in keep.records)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_second_training_starts_from_the_first_batch_and_rate(
    tmp_path: Path, interrupted: bool
) -> None:
    """No hook, factor or batch of the first one is left, be it whole or cut by an error."""

    class Cut(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if callback.sampler.global_batch_size > 16:
                raise InterruptedError

    trainer = make_trainer(tmp_path)
    settings = {"window_epochs": 2, "max_batch_size": 64, "lr_rule": "linear", **DEBA}
    callback = AdaptiveBatchCallback(trainer, scheduler="deba", **settings)
    first = {n: v.clone() for n, v in trainer.model.state_dict().items()}
    if interrupted:
        trainer.add_callback(Cut)
        with pytest.raises(InterruptedError):
            trainer.train()
        trainer.remove_callback(Cut)
    else:
        trainer.train()
    assert callback.sampler.global_batch_size > 16
    trainer.model.load_state_dict(first)
    trainer.optimizer = torch.optim.SGD(
        trainer.model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4
    )
    keep = Keep(callback)
    trainer.add_callback(keep)
    trainer.train()
    assert [comparable(e) for e in keep.records] == [comparable(e) for e in Plain(blobs()).rest()]
    assert trainer.state.global_step == sum(e.updates for e in keep.records)


def test_no_hook_is_left_on_the_optimizer(tmp_path: Path) -> None:
    trainer = train(tmp_path)[1]
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_planned_steps_and_epochs_follow_the_batch(tmp_path: Path) -> None:
    told, trainer = train(tmp_path)
    updates = [e.updates for e in told.records]
    for epoch in range(1, EPOCHS):
        left = EPOCHS - epoch
        assert told.max_steps[epoch - 1] == sum(updates[:epoch]) + left * updates[epoch]
    assert trainer.state.global_step == trainer.state.max_steps == sum(updates)
    ends = [sum(updates[:n]) - 1 for n in range(1, EPOCHS + 1)]
    assert [told.epochs[i] for i in ends] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_the_rate_schedule_ends_with_the_epochs(tmp_path: Path, kind: str) -> None:
    warm = {"warmup_steps": 9} if kind == "constant_with_warmup" else {}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.01)
    rate = transformers.get_scheduler(kind, optimizer, warm.get("warmup_steps", 0), 6 * EPOCHS)
    reference = []
    for _ in range(6 * EPOCHS):  # what the Trainer does by itself with a fixed batch
        optimizer.step()
        rate.step()
        reference.append(optimizer.param_groups[0]["lr"])
    fixed, _ = train(tmp_path, {"scheduler": "fixed"}, lr_scheduler_type=kind, **warm)
    assert fixed.rates == reference
    told, _ = train(tmp_path, lr_scheduler_type=kind, **warm)
    at_ends = [reference[(epoch + 1) * 6 - 1] for epoch in range(EPOCHS)]
    ends = [sum(e.updates for e in told.records[: n + 1]) - 1 for n in range(EPOCHS)]
    assert [told.rates[i] for i in ends] == pytest.approx(at_ends)
    assert told.records[-1].updates < 6


def test_clipping_comes_after_the_measurement(tmp_path: Path) -> None:
    plain = Plain(blobs())
    plain.optimizer.register_step_pre_hook(
        lambda *_: nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1) and None
    )  # after the monitor's own hook
    by_hand = [plain.epoch() for _ in range(EPOCHS)]
    told, _ = train(tmp_path, max_grad_norm=0.1)
    for ours, theirs in zip(told.records, by_hand, strict=True):
        assert ours.batch_size == theirs.batch_size
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    assert min(e.grad_norm for e in told.records) > 0.2


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_make_one_update(tmp_path: Path, accumulate: int) -> None:
    plain = Plain(blobs()).rest()
    told, _ = train(
        tmp_path,
        per_device_train_batch_size=16 // accumulate,
        gradient_accumulation_steps=accumulate,
    )
    for ours, theirs in zip(told.records, plain, strict=True):
        assert (ours.batch_size, ours.updates) == (theirs.batch_size, theirs.updates)
        assert ours.samples == 97
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=2e-2)


def test_workers_that_persist_see_the_new_size(tmp_path: Path) -> None:
    told, _ = train(
        tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True, num_train_epochs=6
    )
    assert [e.batch_size for e in told.records] == [e.batch_size for e in Plain(blobs()).rest()[:6]]


NAMES = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
OWN_BATCHES: dict[str, Any] = (
    {"group_by_length": True}
    if "group_by_length" in NAMES
    else {"train_sampling_strategy": "sequential"}
)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_steps": 50}, "use num_train_epochs"),
    ({"auto_find_batch_size": True}, "auto_find_batch_size=False"),
    (OWN_BATCHES, "train_sampling_strategy='random'"),
    ({"arguments": {"reading": "literal"}, "per_device_train_batch_size": 32}, "no more steps"),
    ({"arguments": {"window_mode": "rescale"}}, "only probe's own loop"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_what_a_trainer_cannot_do_is_refused(
    tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        train(tmp_path, **arguments)


def test_resuming_is_refused(tmp_path: Path) -> None:
    train(tmp_path, save_strategy="epoch", num_train_epochs=2)
    trainer = make_trainer(tmp_path)
    AdaptiveBatchCallback(trainer)
    with pytest.raises(UsageError, match="cannot resume"):
        trainer.train(resume_from_checkpoint=True)


def test_another_rate_schedule_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.lr_scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 3)
    AdaptiveBatchCallback(trainer)
    with pytest.raises(UsageError, match="StepLR counts steps"):
        trainer.train()


def accelerated(share_twice: bool = False) -> list[EpochRecord]:
    """A plain loop with Accelerate: the loader is not prepared, or is, and loses samples."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    sampler = AdaptiveBatchSampler(97, 16)
    loader = DataLoader(Images(), batch_sampler=sampler)
    monitor = GradientMonitor(model, optimizer)
    adaptive = AdaptiveBatch(
        monitor, sampler, epochs=EPOCHS, window_epochs=2, max_batch_size=64,
        lr_rule="linear", **DEBA,
    )  # fmt: skip
    prepared, wrapped = accelerator.prepare(model, optimizer)
    if share_twice:
        loader = accelerator.prepare(loader)
    records = []
    for _ in range(EPOCHS):
        for batch in loader:
            loss = prepared(**batch)["loss"]
            accelerator.backward(loss)
            wrapped.step()
            wrapped.zero_grad()
            monitor.add_loss(loss, len(batch["labels"]))
        records.append(adaptive.step())
    return records


@pytest.mark.parametrize("prepare", [False, True])
def test_accelerate_decides_as_a_plain_loop_does(prepare: bool) -> None:
    plain = Plain(blobs()).rest()
    assert [comparable(e) for e in accelerated(prepare)] == [comparable(e) for e in plain]


WORKER = """
import json, os, sys, warnings
from pathlib import Path
from stability_probe.distributed import leave
from stability_probe.plain import to_plain
from tests.test_integrations_huggingface import accelerated, train

folder = Path(sys.argv[1])
told, trainer = train(folder, per_device_train_batch_size=8)
plain = accelerated()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        accelerated(share_twice=True)
    except ValueError as error:  # Accelerate 1.10 does not even prepare such a loader
        warnings.warn(str(error))
state = {
    "records": to_plain(told.records),
    "plain": to_plain(plain),
    "seen": trainer.model.seen[:-1],
    "warned": str(caught[0].message) if caught else "",
}
(folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(state))
leave()
"""


def test_two_processes_decide_as_one_and_lose_no_sample(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with torchrun(str(script), str(tmp_path), cwd=tmp_path) as process:
        _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    everything = sorted(int(x) for x in blobs().train_images.flatten(1).double().sum(1))
    for mine, others in zip(first["seen"], second["seen"], strict=True):
        assert sorted(mine + others) == everything
    alone = to_plain(Plain(blobs()).rest())
    for kind in ("records", "plain"):
        assert json.dumps(first[kind]) == json.dumps(second[kind])
        for ours, theirs in zip(alone, first[kind], strict=True):
            for name in ("batch_size", "updates", "samples", "lr"):
                assert ours[name] == theirs[name]
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-2)
    told = ("of 97 samples were seen", "the batch sampler has no batch size")
    assert any(words in first["warned"] for words in told)
