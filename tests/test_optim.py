"""Learning rate and optimizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.optim import learning_rate, lr_factor, make_optimizer, scale_lr


def test_rules_by_hand() -> None:
    assert scale_lr("none", "adamw", 4.0) == 1.0
    assert scale_lr("linear", "sgd", 4.0) == 4.0
    assert scale_lr("sqrt", "adamw", 4.0) == 2.0


@pytest.mark.parametrize(("rule", "optimizer"), [("linear", "adamw"), ("sqrt", "sgd")])
def test_no_rule_is_invented(rule: str, optimizer: str) -> None:
    with pytest.raises(UsageError, match=f"no {rule} learning-rate rule is known for {optimizer}"):
        scale_lr(rule, optimizer, 2.0)


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_rollback_restores_the_rate_exactly(initial: int, grown: int) -> None:
    config = RunConfig(model="m", batch_size=initial, lr_rule="linear", lr=0.1)
    before = learning_rate(config, 3, initial)
    learning_rate(config, 4, initial * grown)
    assert learning_rate(config, 5, initial) == before


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for epoch in range(1, 21):
        assert lr_factor("cosine", epoch, 20) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_step_is_torchs() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[10, 15])
    for epoch in range(1, 21):
        assert lr_factor("step", epoch, 20) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_the_rate_multiplies_schedule_and_batch() -> None:
    config = RunConfig(
        model="m", batch_size=16, lr=0.1, lr_rule="linear", lr_schedule="step", epochs=20
    )
    assert learning_rate(config, 11, 64) == pytest.approx(0.1 * 0.1 * 4)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_leave_frozen_parameters_alone(name: str, kind: type) -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, RunConfig(model="m", optimizer=name, momentum=0.8))
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert [p is model.weight for p in group["params"]] == [True]
    assert group["weight_decay"] == 5e-4
    if name == "sgd":
        assert group["momentum"] == 0.8
