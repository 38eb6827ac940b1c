"""Lightning's Trainer decides as a plain loop does, resumes, and is refused where it could not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stability_probe.datasets import normalize
from stability_probe.errors import UsageError
from stability_probe.integrations import AdaptiveBatchSampler
from stability_probe.models import make_model
from stability_probe.plain import to_plain
from stability_probe.records import EpochRecord
from tests.test_distributed import torchrun
from tests.test_integrations_adaptive import DEBA, Plain, comparable
from tests.tiny import blobs

pl = pytest.importorskip("lightning.pytorch", reason="the extra lightning is not installed")

from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from stability_probe.integrations.lightning import AdaptiveBatchCallback  # noqa: E402

EPOCHS = 12
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("_quiet"),
]


@pytest.fixture
def _quiet() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, interval: str | None = None, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        made: Any = make_model("tests.tiny:plain", num_classes=3, in_chans=3, img_size=8)
        self.net: nn.Module = made
        self.data = blobs()
        self.interval = interval
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, index: int) -> Any:
        images, labels = batch
        return F.cross_entropy(self.net(normalize(images, self.data)), labels)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val", self.training_step(batch, index))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        if self.interval is None:
            return optimizer
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rate, "interval": self.interval},
        }


class Keep(pl.Callback):  # type: ignore[misc, name-defined]
    """The records, and the samples of every batch, as the Trainer goes through them."""

    def __init__(self, callback: AdaptiveBatchCallback) -> None:
        self.callback = callback
        self.records: list[EpochRecord] = []
        self.seen: list[list[int]] = []
        self.epoch: list[int] = []
        self.trainer: Any = None

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        self.epoch += [int(x) for x in batch[0].flatten(1).double().sum(1)]

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        adaptive = self.callback.adaptive
        assert adaptive is not None
        assert adaptive.record is not None
        self.records.append(adaptive.record)
        self.seen.append(self.epoch)
        self.epoch = []


def fit(
    folder: Path,
    *,
    module: Any = None,
    resume: Path | None = None,
    epochs: int = EPOCHS,
    validate: bool = False,
    accumulate: int = 1,
    sampler: AdaptiveBatchSampler | None = None,
    arguments: dict[str, Any] | None = None,
    workers: int = 0,
    callbacks: tuple[Any, ...] = (),
    **trainer: Any,
) -> Keep:
    data = blobs()
    images = TensorDataset(data.train_images, data.train_labels)
    sampler = sampler or AdaptiveBatchSampler(images, 16, accumulate=accumulate)
    loader = DataLoader(
        images, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    callback = AdaptiveBatchCallback(
        sampler,
        "deba",
        window_epochs=2,
        max_batch_size=64,
        epochs=EPOCHS,
        **(arguments or {**DEBA, "lr_rule": "linear"}),
    )
    keep = Keep(callback)
    made = pl.Trainer(
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": epochs,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "reload_dataloaders_every_n_epochs": 1,
            "accumulate_grad_batches": accumulate,
            "callbacks": [callback, keep, *callbacks],
            "enable_checkpointing": bool(callbacks),
            **trainer,
        }
    )
    held_out = DataLoader(TensorDataset(data.test_images, data.test_labels), batch_size=20)
    keep.trainer = made
    made.fit(
        module or Net(), loader, held_out if validate else None, ckpt_path=resume, weights_only=True
    )
    return keep


def test_lightning_decides_as_a_plain_loop_does(tmp_path: Path) -> None:
    plain = Plain(blobs()).rest()
    told = fit(tmp_path, validate=True)
    assert len({e.batch_size for e in plain}) > 3
    assert [comparable(e) for e in told.records] == [comparable(e) for e in plain]
    everything = sorted(int(x) for x in blobs().train_images.flatten(1).double().sum(1))
    assert all(sorted(seen) == everything for seen in told.seen)


def test_workers_that_persist_see_the_new_size(tmp_path: Path) -> None:
    told = fit(tmp_path, workers=1, epochs=6)
    plain = Plain(blobs()).rest()
    assert [comparable(e) for e in told.records] == [comparable(e) for e in plain[:6]]


@pytest.mark.parametrize("when", ["no validation", "before validation", "after validation"])
def test_resumed_is_uninterrupted(tmp_path: Path, when: str) -> None:
    """From a checkpoint of every epoch, with the rate in epochs too."""

    def run(folder: Path, resume: Path | None = None) -> list[EpochRecord]:
        saving = ModelCheckpoint(
            folder,
            "{epoch}",
            save_top_k=-1,
            every_n_epochs=1,
            save_on_train_epoch_end=when != "after validation",
        )
        validate = when != "no validation"
        return fit(
            folder, module=Net("epoch"), resume=resume, validate=validate, callbacks=(saving,)
        ).records

    whole = run(tmp_path / "whole")
    assert whole[-1].lr < whole[-1].batch_size / 16 * 0.005  # the cosine came through
    for epoch in (0, 4, 7):
        rest = run(tmp_path / f"rest{epoch}", tmp_path / "whole" / f"epoch={epoch}.ckpt")
        # After validation Lightning may end the epoch of the checkpoint once more.
        if when == "after validation" and rest[0].epoch == epoch + 1:
            assert comparable(rest.pop(0)) == comparable(whole[epoch])
        assert [comparable(e) for e in rest] == [comparable(e) for e in whole[epoch + 1 :]]


def test_a_fit_that_had_ended_goes_on(tmp_path: Path) -> None:
    """At its end the Trainer counts the batches of the next epoch before it begins."""
    whole = fit(tmp_path).records
    first = fit(tmp_path, epochs=7)
    assert first.trainer is not None
    first.trainer.save_checkpoint(tmp_path / "end.ckpt")
    rest = fit(tmp_path, resume=tmp_path / "end.ckpt").records
    assert [comparable(e) for e in rest] == [comparable(e) for e in whole[7:]]


def test_the_rate_of_a_schedule_in_epochs_is_schedule_times_batch(tmp_path: Path) -> None:
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(reference, EPOCHS)
    for record in fit(tmp_path, module=Net("epoch")).records:
        scheduled = reference.param_groups[0]["lr"]
        assert record.lr == pytest.approx(scheduled * record.batch_size / 16)
        reference.step()
        rate.step()


def test_clipping_comes_after_the_measurement(tmp_path: Path) -> None:
    plain = Plain(blobs())
    handle = plain.optimizer.register_step_pre_hook(
        lambda *_: nn.utils.clip_grad_norm_(plain.model.parameters(), 0.1) and None
    )  # after the monitor's own hook
    by_hand = [plain.epoch() for _ in range(3)]
    handle.remove()
    told = fit(tmp_path, epochs=3, gradient_clip_val=0.1).records
    assert [comparable(e) for e in told] == [comparable(e) for e in by_hand]
    assert min(e.grad_norm for e in told) > 1


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_make_one_update(tmp_path: Path, accumulate: int) -> None:
    told = fit(tmp_path, accumulate=accumulate, epochs=6).records
    plain = Plain(blobs()).rest()
    for ours, theirs in zip(told, plain, strict=False):
        assert (ours.batch_size, ours.updates) == (theirs.batch_size, theirs.updates)
        assert ours.samples == 97
        # Parts of unequal size count alike, here as in every loop that accumulates.
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=2e-2)
    assert told[-1].micro_batch_size == -(-told[-1].batch_size // accumulate)


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_is_measured_unscaled(tmp_path: Path, fused: bool) -> None:
    class Half(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9, fused=fused)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    one = fit(tmp_path, module=Half(), epochs=1, plugins=[plugin]).records[0]
    plain = Plain(blobs()).epoch()
    assert one.grad_norm == pytest.approx(plain.grad_norm, rel=0.05)
    assert one.loss == pytest.approx(plain.loss, rel=0.02)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"reload_dataloaders_every_n_epochs": 0}, "reload_dataloaders_every_n_epochs=1"),
    ({"max_steps": 50}, "without max_steps"),
    ({"epochs": -1}, "without max_steps"),
    ({"val_check_interval": 2, "validate": True}, "fraction"),
    ({"accumulate_grad_batches": 2}, "accumulate=2"),
    ({"module": Net(manual=True)}, "automatic optimization"),
    ({"module": Net("step")}, "interval='epoch'"),
    ({"arguments": {"window_mode": "rescale"}}, "only probe's own loop"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_a_trainer_that_could_not_follow_is_refused(
    tmp_path: Path, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        fit(tmp_path, **arguments)


def test_another_loader_is_refused(tmp_path: Path) -> None:
    data = blobs()
    images = TensorDataset(data.train_images, data.train_labels)
    callback = AdaptiveBatchCallback(AdaptiveBatchSampler(images, 16))
    made = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, max_epochs=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        reload_dataloaders_every_n_epochs=1, callbacks=[callback],
    )  # fmt: skip
    with pytest.raises(UsageError, match="batch_sampler=sampler"):
        made.fit(Net(), DataLoader(images, batch_size=16))


def test_a_checkpoint_within_an_epoch_is_refused(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=4)
    fit(tmp_path, epochs=2, callbacks=(saving,))
    with pytest.raises(UsageError, match="within an epoch"):
        fit(tmp_path, resume=tmp_path / "step=4.ckpt")


WORKER = """
import json, os, sys
from pathlib import Path
from stability_probe.distributed import leave
from stability_probe.errors import UsageError
from stability_probe.plain import to_plain
from tests.test_integrations_lightning import fit

folder = Path(sys.argv[1])
both = dict(devices=2, strategy="ddp")
try:
    fit(folder, **both)
    refused = ""
except UsageError as error:
    refused = str(error)
told = fit(folder, use_distributed_sampler=False, **both)
rank = os.environ["RANK"]
state = {"records": to_plain(told.records), "seen": told.seen, "refused": refused}
(folder / f"rank{rank}.json").write_text(json.dumps(state))
leave()
"""


def test_two_processes_decide_as_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with torchrun(str(script), str(tmp_path), cwd=tmp_path) as process:
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    assert "use_distributed_sampler=False" in first["refused"]
    assert json.dumps(first["records"]) == json.dumps(second["records"])
    everything = sorted(int(x) for x in blobs().train_images.flatten(1).double().sum(1))
    for mine, others in zip(first["seen"], second["seen"], strict=True):
        assert sorted(mine + others) == everything
        assert mine
        assert others
    alone = to_plain(Plain(blobs()).rest())
    for ours, theirs in zip(alone, first["records"], strict=True):
        for name in ("batch_size", "updates", "samples", "lr"):
            assert ours[name] == theirs[name]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-2)
