"""The gradient that a monitor sees against the true one, written out by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stability_probe import gradients as gradients_module
from stability_probe.distributed import World
from stability_probe.errors import RunError, UsageError
from stability_probe.integrations import GradientMonitor

OPTIMIZERS = [
    pytest.param({}, id="plain"),
    pytest.param({"fused": True}, id="fused"),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int = 12, size: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield (
            torch.randn(size, 6, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )


def true_signals(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Loss, norm and component variance of the flat gradient, from a copy."""
    model = copy.deepcopy(model)
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.item(), flat.norm().item(), flat.var(correction=0).item()


def check(monitor: GradientMonitor, truth: list[tuple[float, float, float]]) -> dict[str, Any]:
    measured = monitor.finish_epoch(World())
    losses, norms, variances = zip(*truth, strict=True)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert measured["num_measured_steps"] == len(truth)
    assert measured["loss"] == pytest.approx(mean(losses), rel=1e-5)
    assert measured["grad_norm"] == pytest.approx(mean(norms), rel=1e-5)
    assert measured["grad_norm_last"] == pytest.approx(norms[-1], rel=1e-5)
    assert measured["grad_component_variance"] == pytest.approx(mean(variances), rel=1e-4)
    return measured


def test_a_plain_loop_zeroing_before_or_after() -> None:
    for early in (True, False):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor, truth = GradientMonitor(model, optimizer), []
        for x, y in batches():
            truth.append(true_signals(model, x, y))
            if early:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if not early:
                optimizer.zero_grad()
            monitor.add_loss(loss, len(y))
        measured = check(monitor, truth)
        assert (measured["updates"], measured["samples"], measured["lr"]) == (12, 120, 0.1)


@pytest.mark.parametrize("fused", OPTIMIZERS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_scaled_gradient_is_measured_unscaled(fused: dict[str, bool], clip: bool) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, **fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    monitor, truth = GradientMonitor(model, optimizer), []
    for x, y in batches():
        truth.append(true_signals(model, x, y))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            monitor.measure()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        monitor.add_loss(loss, len(y))
    assert scaler.get_scale() > 2.0**12  # it changed on the way
    check(monitor, truth)


@pytest.mark.parametrize("fused", OPTIMIZERS)
@pytest.mark.parametrize("explicit", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(
    fused: dict[str, bool], explicit: bool
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    monitor, truth = GradientMonitor(model, optimizer), []
    for index, (x, y) in enumerate(batches()):
        overflows = index in (0, 5)
        if not overflows:
            truth.append(true_signals(model, x, y))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        if overflows:
            next(model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
        if explicit:
            scaler.unscale_(optimizer)
            monitor.measure()
        scaler.step(optimizer)
        scaler.update()
        if not overflows:
            monitor.add_loss(loss, len(y))
    check(monitor, truth)


def test_clipping_is_measured_around_or_found_out() -> None:
    def epoch(monitor: GradientMonitor, explicit: bool, limit: float) -> list[Any]:
        truth = []
        for x, y in batches():
            truth.append(true_signals(model, x, y))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if explicit:
                monitor.measure()
            nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            monitor.add_loss(loss, len(y))
        return truth

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = GradientMonitor(model, optimizer)
    check(monitor, epoch(monitor, explicit=True, limit=0.1))
    monitor.start_epoch(12)
    # From the second epoch on a run is worth more than its signals: a warning.
    epoch(monitor, explicit=False, limit=0.1)
    with pytest.warns(UserWarning, match=r"12 of 12 .* are all 0\.1: .* before clipping"):
        monitor.finish_epoch(World())
    monitor.start_epoch(12)
    truth = epoch(monitor, explicit=False, limit=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(monitor, truth)  # clipping that never bites changes nothing
    monitor.close()
    fresh = GradientMonitor(model, optimizer)
    epoch(fresh, explicit=False, limit=0.1)
    with pytest.raises(UsageError, match="clipped before it is measured"):
        fresh.finish_epoch(World())


def test_accumulation_gives_one_whole_gradient_an_update() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor, truth = GradientMonitor(model, optimizer), []
    for x, y in batches():
        truth.append(true_signals(model, x, y))
        optimizer.zero_grad()
        for xs, ys in zip(x.chunk(5), y.chunk(5), strict=True):
            loss = F.cross_entropy(model(xs), ys)
            (loss / 5).backward()
            monitor.add_loss(loss, len(ys))
        optimizer.step()
    assert check(monitor, truth)["updates"] == 12


def test_a_closure_measures_where_it_knows_the_gradient() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor, truth = GradientMonitor(model, optimizer), []
    tells = True

    for x, y in batches():

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if tells:
                monitor.measure()
                monitor.add_loss(loss, len(y))
            return loss

        truth.append(true_signals(model, x, y))
        optimizer.step(closure)
    check(monitor, truth)
    monitor.start_epoch(12)
    tells = False
    with pytest.raises(UsageError, match=r"call monitor\.measure\(\) between backward and step"):
        optimizer.step(closure)


def test_a_stride_of_the_steps_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients_module, "MEASURED_STEPS_PER_EPOCH", 4)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor, norms = GradientMonitor(model, optimizer), []
    monitor.start_epoch(12)
    for x, y in batches():
        norms.append(true_signals(model, x, y)[1])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        monitor.add_loss(loss, len(y))
    measured = monitor.finish_epoch(World())
    assert (measured["num_measured_steps"], measured["updates"]) == (4, 12)
    assert measured["grad_norm"] == pytest.approx(sum(norms[::3]) / 4, rel=1e-5)


def test_frozen_parameters_have_no_components() -> None:
    model = net()
    model[0].requires_grad_(False)  # type: ignore[index]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    monitor, truth = GradientMonitor(model, optimizer), []
    for x, y in batches(3):
        truth.append(true_signals(model, x, y))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        monitor.add_loss(loss, len(y))
    check(monitor, truth)


def test_what_was_not_seen_is_told() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = GradientMonitor(model, optimizer)
    with pytest.raises(UsageError, match="no optimizer step was seen"):
        monitor.finish_epoch(World())
    (x, y) = next(batches())
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    with pytest.raises(UsageError, match=r"call monitor\.add_loss"):
        monitor.finish_epoch(World())
    monitor.add_loss(float("nan"), 10)
    with pytest.raises(RunError, match="not finite"):
        monitor.finish_epoch(World())


def test_nothing_is_synchronised_before_the_end_of_an_epoch() -> None:
    """Tensors on the meta device have no value: any sync on the way would raise."""
    model = net().to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = GradientMonitor(model, optimizer)
    x, y = (tensor.to("meta") for tensor in next(batches()))
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    monitor.measure()
    optimizer.step()
    monitor.add_loss(loss, len(y))
    with pytest.raises((RuntimeError, NotImplementedError)):
        monitor.finish_epoch(World())


def test_sharded_parameters_are_refused() -> None:
    class FullyShardedDataParallel(nn.Sequential):
        """By name, as the monitor knows it: the real one needs a process group."""

    sharded = FullyShardedDataParallel(net())
    optimizer = torch.optim.SGD(sharded.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="these parameters are sharded"):
        GradientMonitor(sharded, optimizer)


def test_one_gradient_that_is_not_finite_ends_the_epoch() -> None:
    """A NaN must not hide behind a larger number."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = GradientMonitor(model, optimizer)
    for index, (x, y) in enumerate(batches(3)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if index == 1:
            next(model.parameters()).grad.fill_(torch.nan)  # type: ignore[union-attr]
        optimizer.step()
        monitor.add_loss(1.0, len(y))
        for parameter in model.parameters():
            parameter.data.nan_to_num_()
    with pytest.raises(RunError, match="not finite"):
        monitor.finish_epoch(World())
