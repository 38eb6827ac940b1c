"""Compiled training: the same numbers, nothing compiled on the clock, no silent way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from stability_probe import compiled, loop, step
from stability_probe.config import RunConfig
from stability_probe.distributed import World
from stability_probe.errors import RunError, UsageError
from stability_probe.loop import train
from stability_probe.order import batch_lengths
from stability_probe.state import make_state
from stability_probe.throughput import MemoryFormatChoice, measure_throughput
from tests.test_loop import CONFIG, train_all
from tests.tiny import blobs

CHOICE = MemoryFormatChoice(memory_format="contiguous", reason="as asked")
GROWING = dataclasses.replace(
    CONFIG, scheduler="timed", scheduler_args={"cooldown": 1}, max_batch_size=40, epochs=6
)
COMPILED = dataclasses.replace(GROWING, compile=True)


@pytest.fixture(autouse=True)
def _forget_compilations() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def broken(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    """Its forward pass cannot be one graph."""

    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().forward(x.flatten(1))

    return Broken(in_chans * img_size**2, num_classes)


def by_size(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    """Its code looks the batch size up, so that every size is compiled apart."""
    table = [1 / (1 + size) for size in range(100)]

    class BySize(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)) + table[len(x)]

    return BySize(in_chans * img_size**2, num_classes)


def test_a_compiled_run_is_the_eager_one_to_rounding() -> None:
    """BatchNorm's statistics too, so that warming up has left them alone."""
    plain = dataclasses.replace(GROWING, model="tests.tiny:net_without_dropout")
    eager = make_state(plain, blobs())
    whole = make_state(dataclasses.replace(plain, compile=True), blobs())
    expected = list(train(eager, blobs(), plain))
    got = list(train(whole, blobs(), dataclasses.replace(plain, compile=True)))
    assert [r.batch_size for r in got] == [r.batch_size for r in expected]
    assert len({r.batch_size for r in got}) >= 3
    for name in ("loss", "grad_norm", "test_loss"):
        assert [getattr(r, name) for r in got] == pytest.approx(
            [getattr(r, name) for r in expected], rel=1e-4
        )
    for mine, theirs in zip(whole.model.buffers(), eager.model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_nothing_is_compiled_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model is compiled for each size apart."""
    seen = []
    original = loop.train_step

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        before = counters["stats"]["unique_graphs"]
        loss = original(*args, **kwargs)
        seen.append(counters["stats"]["unique_graphs"] - before)
        return loss

    monkeypatch.setattr(loop, "train_step", watched)
    for model in ("tests.tiny:net", "tests.test_compiled:by_size"):
        counters.clear()
        records = train_all(dataclasses.replace(COMPILED, model=model), blobs())
        assert set(seen) == {0}
        assert counters["stats"]["unique_graphs"] >= 1
        assert records[0].compile_s > 0
        # An epoch at sizes that were met before compiles nothing.
        assert records[-1].batch_size == records[-2].batch_size
        assert records[-1].compile_s == 0


def test_eager_training_compiles_nothing() -> None:
    counters.clear()
    assert all(r.compile_s == 0 for r in train_all(GROWING, blobs()))
    assert counters["stats"]["unique_graphs"] == 0


def test_a_model_that_cannot_be_one_graph_is_refused() -> None:
    config = dataclasses.replace(COMPILED, model="tests.test_compiled:broken")
    with pytest.raises(RunError, match=r"test_compiled:broken cannot be compiled.*--compile"):
        train_all(config, blobs())
    with pytest.raises(RunError, match="cannot be compiled"):
        measure_throughput(config, blobs(), [16], CHOICE)


def test_too_many_compilations_are_an_error_and_not_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_MOST_COMPILATIONS", 2)
    config = dataclasses.replace(COMPILED, model="tests.test_compiled:by_size")
    with pytest.raises(RunError, match=r"cannot be compiled: .*[Rr]ecompile"):
        train_all(config, blobs())


def test_a_batch_that_exceeds_the_memory_is_split_while_warming_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = step.backward

    def limited(forward: Any, state: Any, data: Any, images: Tensor, *args: Any) -> Tensor:
        if len(images) > 20:
            raise torch.OutOfMemoryError("no memory for so many samples")
        return whole(forward, state, data, images, *args)

    monkeypatch.setattr(step, "backward", limited)
    records = train_all(dataclasses.replace(COMPILED, model="tests.tiny:plain"), blobs())
    assert records[-1].batch_size > 20
    assert all(r.micro_batch_size <= 20 for r in records)
    assert all(r.updates == len(batch_lengths(97, r.batch_size)) for r in records)


def test_several_processes_train_eagerly() -> None:
    with pytest.raises(UsageError, match="--compile"):
        make_state(COMPILED, blobs(), World(rank=0, size=2))


def test_compile_is_yes_or_no_and_part_of_what_a_run_is() -> None:
    with pytest.raises(UsageError, match="compile is 'max'"):
        RunConfig(model="resnet18", compile="max")  # type: ignore[arg-type]
    assert COMPILED.run_id() != GROWING.run_id()


def test_one_graph_serves_every_batch_from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself torch compiles the first size for itself, and only the second for all."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    counters.clear()
    forward = compiled.compile_model(nn.Linear(3, 2))
    for size in (16, 24, 40):
        assert forward(torch.zeros(size, 3)).shape == (size, 2)
    assert counters["stats"]["unique_graphs"] == 1
