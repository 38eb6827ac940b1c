"""The pieces in a plain loop decide as probe's own loop does, and survive a checkpoint."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, normalize
from stability_probe.errors import UsageError
from stability_probe.integrations import AdaptiveBatch, AdaptiveBatchSampler, GradientMonitor
from stability_probe.loop import train
from stability_probe.models import make_model
from stability_probe.optim import learning_rate
from stability_probe.records import EpochRecord
from stability_probe.state import make_state
from tests.test_distributed import CONFIG as RUN
from tests.test_distributed import torchrun
from tests.tiny import blobs

CONFIG = dataclasses.replace(RUN, epochs=12)
DEBA = {"cooldown": 1, "min_calm_signals": 1}


class Plain:
    """A user's loop: model, loader and the three pieces, in one process of maybe several."""

    def __init__(
        self, data: Dataset, epochs: int = 12, scheduler: str = "deba", **arguments: Any
    ) -> None:
        torch.manual_seed(0)
        made: Any = make_model("tests.tiny:plain", num_classes=3, in_chans=3, img_size=8)
        self.model: nn.Module = made
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4
        )
        images = TensorDataset(data.train_images, data.train_labels)
        self.data, self.epochs = data, epochs
        self.sampler = AdaptiveBatchSampler(images, 16)
        self.loader = DataLoader(images, batch_sampler=self.sampler)
        self.monitor = GradientMonitor(self.model, self.optimizer)
        self.adaptive = AdaptiveBatch(
            self.monitor,
            self.sampler,
            scheduler,
            epochs=epochs,
            window_epochs=2,
            max_batch_size=64,
            **(arguments or ({**DEBA, "lr_rule": "linear"} if scheduler == "deba" else {})),
        )

    def epoch(self) -> EpochRecord:
        self.model.train()
        for images, labels in self.loader:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(normalize(images, self.data)), labels)
            loss.backward()
            self.optimizer.step()
            self.monitor.add_loss(loss, len(labels))
        return self.adaptive.step()

    def rest(self) -> list[EpochRecord]:
        done = self.adaptive.record.epoch if self.adaptive.record else 0
        return [self.epoch() for _ in range(done, self.epochs)]


def comparable(record: EpochRecord) -> dict[str, Any]:
    """All of a record but clocks, evaluation and the noise scale."""
    off = {"time_s", "cpu_s", "eval_s", "peak_memory_bytes", "test_loss", "test_accuracy", "noise"}
    return {n: v for n, v in dataclasses.asdict(record).items() if n not in off}


def test_a_plain_loop_decides_as_our_own_loop_does() -> None:
    """Same order, same formulas, same schedule: every number and reason is the same to the bit."""
    data = blobs()
    ours = list(train(make_state(CONFIG, data), data, CONFIG))
    plain = Plain(data).rest()
    assert len({e.batch_size for e in ours}) > 3
    assert [comparable(e) for e in plain] == [comparable(e) for e in ours]


def test_interrupted_is_uninterrupted() -> None:
    """Through torch.load with weights_only, into objects made anew."""
    data = blobs()
    whole = Plain(data).rest()
    first = Plain(data)
    begun = [first.epoch() for _ in range(5)]
    buffer = io.BytesIO()
    parts = ("model", "optimizer", "adaptive")
    torch.save({part: getattr(first, part).state_dict() for part in parts}, buffer)
    buffer.seek(0)
    kept = torch.load(buffer, weights_only=True)
    second = Plain(data)
    for part in parts:
        getattr(second, part).load_state_dict(kept[part])
    assert [comparable(e) for e in begun + second.rest()] == [comparable(e) for e in whole]


def test_a_state_before_the_first_epoch_and_that_of_another_schedule() -> None:
    state = Plain(blobs()).adaptive.state_dict()
    other = Plain(blobs())
    other.adaptive.load_state_dict(state)
    assert other.epoch().epoch == 1
    timed = Plain(blobs(), scheduler="timed", cooldown=1)
    with pytest.raises(UsageError, match="of scheduler 'deba', this schedule of 'timed'"):
        timed.adaptive.load_state_dict(state)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.001),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "cyclic": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.02, total_steps=13, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_rate_scheduler_undoes_the_rate_rule(name: str) -> None:
    """The rate of a step is schedule x batch ratio; the weights show the rate really used."""

    def rates(scheduler: str, **arguments: Any) -> list[tuple[int, float, float]]:
        plain = Plain(blobs(), scheduler=scheduler, **arguments)
        for group in plain.optimizer.param_groups:
            group.update(momentum=0.0, weight_decay=0.0)
        rate = SCHEDULERS[name](plain.optimizer)
        told = []
        for _ in range(8):
            before: list[torch.Tensor] = []
            weight = next(plain.model.parameters())
            handle = plain.optimizer.register_step_pre_hook(
                lambda *_, weight=weight, before=before: before.append(weight.detach().clone())
            )
            record = plain.epoch()
            handle.remove()
            gradient = weight.grad
            assert gradient is not None
            step = (before[-1] - weight.detach()).norm() / gradient.norm()
            told.append((record.batch_size, record.lr, step.item()))
            rate.step()
        return told

    sizes = [16, 24, 40, 32, 16, 24, 24, 16]
    fixed = rates("fixed")
    scaled = rates("replay", batch_sizes=sizes, lr_rule="linear")
    # A replay may go down too: at the initial batch the rate is the schedule's again.
    assert [size for size, _, _ in scaled] == [16, 24, 40, 32, 16, 24, 24, 16]
    for (size, lr, used), (_, base, _) in zip(scaled, fixed, strict=True):
        assert lr == pytest.approx(base * size / 16)
        assert used == pytest.approx(lr, rel=1e-3)


def test_the_rate_a_user_sees_stays_the_schedules() -> None:
    plain = Plain(blobs(), scheduler="replay", batch_sizes=[16, 32, 32], lr_rule="linear")
    assert [plain.epoch().lr for _ in range(3)] == [0.01, 0.02, 0.02]
    assert plain.optimizer.param_groups[0]["lr"] == 0.01
    config = RunConfig(model="m", lr_rule="linear", lr=0.01)
    assert learning_rate(config, 2, 32) == 0.02


def test_a_step_that_raised_leaves_no_scaled_rate_behind() -> None:
    plain = Plain(blobs(), scheduler="replay", batch_sizes=[16, 32], lr_rule="linear")
    plain.epoch()
    weight = next(plain.model.parameters())
    saved = weight.grad
    handle = plain.optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plain.optimizer.step()
    handle.remove()
    weight.grad = saved
    plain.optimizer.step()
    assert plain.optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"scheduler": "noise_scale"}, "only probe's own loop measures"),
        ({"scheduler": "deba", "window_mode": "rescale"}, "only probe's own loop measures"),
        ({"scheduler": "debra"}, "unknown scheduler"),
        ({"scheduler": "deba", "windw": 3}, "unknown argument of deba"),
        ({"lr_rule": "sqrt"}, "no sqrt learning-rate rule is known for sgd"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Plain(blobs(), **arguments)


def test_evaluation_is_recorded_and_the_hooks_come_off() -> None:
    plain = Plain(blobs())
    record = plain.epoch()
    assert math.isnan(record.test_loss)
    for images, labels in plain.loader:
        loss = F.cross_entropy(plain.model(normalize(images, plain.data)), labels)
        loss.backward()
        plain.optimizer.step()
        plain.monitor.add_loss(loss, len(labels))
    assert plain.adaptive.step(test_loss=0.5, test_accuracy=0.9).test_accuracy == 0.9
    plain.adaptive.close()
    assert not plain.optimizer._optimizer_step_pre_hooks
    assert not plain.optimizer._optimizer_step_post_hooks


def test_a_batch_never_falls_below_two_samples_a_part() -> None:
    plain = Plain(blobs(), scheduler="fixed")
    plain.adaptive.close()
    plain.monitor.close()
    plain.sampler = AdaptiveBatchSampler(97, 64, accumulate=12)
    plain.loader = DataLoader(plain.loader.dataset, batch_sampler=plain.sampler)
    plain.monitor = GradientMonitor(plain.model, plain.optimizer)
    plain.adaptive = AdaptiveBatch(
        plain.monitor, plain.sampler, "replay", epochs=4, batch_sizes=[64, 16, 16, 16]
    )
    assert [plain.epoch().batch_size for _ in range(4)] == [64, 24, 24, 24]


WORKER = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from stability_probe.distributed import leave
from stability_probe.plain import to_plain
from tests.test_integrations_adaptive import Plain
from tests.tiny import blobs

dist.init_process_group("gloo")
rank = dist.get_rank()
plain = Plain(blobs())
plain.model = DistributedDataParallel(plain.model)
seen = []
records = []
for _ in range(plain.epochs):
    epoch = []
    for batch in plain.sampler:
        epoch.append(batch)
    seen.append(epoch)
    records.append(to_plain(plain.epoch()))
state = plain.adaptive.state_dict()
told = {"records": records, "seen": seen, "scheduler": state["scheduler"]}
Path(sys.argv[1], f"rank{rank}.json").write_text(json.dumps(told))
leave()
"""


def test_two_processes_decide_as_one(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with torchrun(str(script), str(tmp_path), cwd=tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    assert json.dumps(first["records"]) == json.dumps(second["records"])  # the leader's
    for mine, others in zip(first["seen"], second["seen"], strict=True):
        assert len(mine) == len(others)
        assert sorted(i for b in mine + others for i in b) == list(range(97))
    alone = Plain(blobs()).rest()
    assert len({e.batch_size for e in alone}) > 3
    for ours, theirs in zip(alone, first["records"], strict=True):
        assert (ours.batch_size, ours.updates, ours.samples, ours.lr) == (
            *(theirs["batch_size"], theirs["updates"], theirs["samples"], theirs["lr"]),
        )
        # An odd last batch is shared by one sample more here than there.
        assert theirs["loss"] == pytest.approx(ours.loss, rel=1e-2)
        assert theirs["grad_norm"] == pytest.approx(ours.grad_norm, rel=2e-2)
