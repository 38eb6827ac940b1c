"""The throughput curve: sizes, choice of format, and what happens when memory runs out."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stability_probe import device, throughput
from stability_probe.errors import MissingError
from stability_probe.state import make_state
from stability_probe.throughput import (
    MemoryFormatChoice,
    choose_memory_format,
    curve_batch_sizes,
    measure_throughput,
)
from tests.test_loop import CONFIG, with_fields
from tests.tiny import Hungry, blobs

CHOICE = MemoryFormatChoice(memory_format="contiguous", reason="as asked")


@given(st.integers(1, 512), st.integers(1, 8))
def test_sizes_double_up_to_the_largest(batch_size: int, factor: int) -> None:
    sizes = curve_batch_sizes(batch_size, batch_size * factor)
    assert sizes[0] == batch_size
    assert sizes[-1] == batch_size * factor
    assert sizes == sorted(set(sizes))
    assert all(b <= 2 * a for a, b in itertools.pairwise(sizes))


def fake_clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, list[float]]) -> None:
    """Let timings be what the test says: one list of rounds a batch size."""
    rounds = {size: iter(values) for size, values in seconds.items()}
    monkeypatch.setattr(throughput, "_time_step", lambda _s, _d, _c, size: next(rounds[size]))
    monkeypatch.setattr(throughput, "_steps", lambda *_: 0.0)


def test_the_median_round_counts_and_a_spread_means_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, {16: [0.1, 0.2, 0.4, 0.2, 0.3], 32: [0.2, 0.2]})
    curve = measure_throughput(CONFIG, blobs(), [16, 32], CHOICE)
    assert [p.samples_per_s for p in curve.points] == [pytest.approx(80), pytest.approx(160)]
    assert curve.points[0].spread == pytest.approx(1.5)  # the median is 0.2
    assert curve.busy
    fake_clock(monkeypatch, {16: [0.1, 0.1], 32: [0.2, 0.2]})
    assert not measure_throughput(CONFIG, blobs(), [16, 32], CHOICE).busy


def test_a_size_is_timed_until_its_timings_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks have no more to give: one timing too many would raise."""
    seconds = {16: [0.100, 0.104], 32: [0.2, 0.22, 0.24, 0.23, 0.23], 64: [0.3, 0.3]}
    fake_clock(monkeypatch, seconds)
    curve = measure_throughput(CONFIG, blobs(), [16, 32, 64], CHOICE)
    assert [p.samples_per_s for p in curve.points] == [
        pytest.approx(16 / 0.102),
        pytest.approx(32 / 0.23),
        pytest.approx(64 / 0.3),
    ]
    assert curve.points[1].spread == pytest.approx(0.04 / 0.23)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_ends_the_curve_not_the_probe(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    fake_clock(monkeypatch, {16: [0.1] * 3, 32: [0.1] * 3})

    def steps(_state: Any, _data: Any, _config: Any, size: int, _count: int) -> float:
        if size > 32:
            raise error
        return 0.0

    monkeypatch.setattr(throughput, "_steps", steps)
    curve = measure_throughput(CONFIG, blobs(), [16, 32, 64, 128], CHOICE)
    assert [p.batch_size for p in curve.points] == [16, 32]
    assert curve.stopped_by == "out of memory at batch 64"


def test_another_error_and_a_first_size_that_does_not_fit_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(*_: Any) -> float:
        raise RuntimeError(message)

    monkeypatch.setattr(throughput, "_steps", steps)
    for message in ("a bug", "out of memory"):
        with pytest.raises(RuntimeError, match=message):
            measure_throughput(CONFIG, blobs(), [16, 32], CHOICE)


def test_a_batch_that_would_exhaust_the_machine_is_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 1e6)
    fake_clock(monkeypatch, {16: [0.1] * 3})
    curve = measure_throughput(CONFIG, blobs(), [16, 32], CHOICE)
    assert [p.batch_size for p in curve.points] == [16]
    assert curve.stopped_by is not None
    assert curve.stopped_by.startswith("batch 32 might not fit")


@pytest.mark.parametrize(
    ("on", "off", "chosen"), [(0.1, 0.2, "channels_last"), (0.1, 0.101, "contiguous")]
)
def test_the_faster_format_wins_when_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, on: float, off: float, chosen: str
) -> None:
    monkeypatch.setattr(throughput, "_steps", lambda *_: 0.0)

    def time_step(state: Any, *_: Any) -> float:
        return on if state.memory_format == torch.channels_last else off

    monkeypatch.setattr(throughput, "_time_step", time_step)
    choice = choose_memory_format(with_fields(channels_last="auto"), blobs())
    assert choice.memory_format == chosen
    assert "x at 16" in choice.reason


def test_a_format_that_was_asked_for_is_not_measured() -> None:
    assert choose_memory_format(with_fields(channels_last="on"), blobs()) == MemoryFormatChoice(
        memory_format="channels_last", reason="as asked"
    )


def test_no_convolution_no_channels_last() -> None:
    config = with_fields(channels_last="auto", model="tests.tiny:plain")
    assert "no convolution" in choose_memory_format(config, blobs()).reason


def test_a_store_keeps_its_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two formats of nearly one speed would else take turns, and stored runs not be found."""
    config = with_fields(channels_last="auto")
    names = iter(["channels_last", "contiguous"])

    def faster(*_: Any) -> MemoryFormatChoice:
        return MemoryFormatChoice(memory_format=next(names), reason="timed")

    monkeypatch.setattr(throughput, "_faster_format", faster)
    first = choose_memory_format(config, blobs(), tmp_path)
    other_seed = dataclasses.replace(config, seed=7, lr=0.5)
    assert choose_memory_format(other_seed, blobs(), tmp_path) == first
    other_model = dataclasses.replace(config, model="tests.tiny:plain")
    assert choose_memory_format(other_model, blobs(), tmp_path).memory_format == "contiguous"
    (path,) = tmp_path.glob("memory_formats/*tiny-net*.json")
    path.write_text("{}")
    with pytest.raises(MissingError, match=r"is damaged.*delete it"):
        choose_memory_format(config, blobs(), tmp_path)


def test_a_real_curve_has_a_point_for_each_size() -> None:
    curve = measure_throughput(CONFIG, blobs(), [16, 64, 128], CHOICE)
    assert [p.batch_size for p in curve.points] == [16, 64, 128]
    assert all(p.samples_per_s > 0 for p in curve.points)
    assert curve.time_s > 0
    assert curve.device_name == device.cpu_name()


@pytest.mark.parametrize(
    ("limit", "told", "steps"),
    [
        (64, {8, 32}, 0),
        (31, {8}, 1),
        (7, set(), 1),
    ],
)
def test_a_format_is_chosen_at_the_sizes_that_fit(
    monkeypatch: pytest.MonkeyPatch, limit: int, told: set[int], steps: int
) -> None:
    monkeypatch.setattr(Hungry, "LIMIT", limit)
    monkeypatch.setattr(Hungry, "failures", 0)
    config = with_fields(
        model="tests.tiny:hungry_conv", batch_size=8, max_batch_size=64, channels_last="auto"
    )
    choice = choose_memory_format(config, blobs())
    assert {int(size) for size in re.findall(r"x at (\d+)", choice.reason)} == told
    assert Hungry.failures == steps
    if not told:
        assert choice.memory_format == "contiguous"
        assert "not enough memory" in choice.reason


def test_a_format_is_not_chosen_by_a_batch_that_no_schedule_may_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Hungry, "LIMIT", 64)
    shared = {"model": "tests.tiny:hungry_conv", "batch_size": 8, "channels_last": "auto"}
    for largest, told in ((20, ["8", "20"]), (8, ["8"])):
        choice = choose_memory_format(with_fields(max_batch_size=largest, **shared), blobs())
        assert re.findall(r"x at (\d+)", choice.reason) == told


def test_a_format_is_not_tried_at_a_size_that_the_kernel_might_kill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "largest_that_fits", lambda _d, _p, _done, size: size - 1)
    config = with_fields(
        model="tests.tiny:hungry_conv", batch_size=8, max_batch_size=64, channels_last="auto"
    )
    choice = choose_memory_format(config, blobs())
    assert re.fullmatch(r"channels_last [\d.]+x at 8", choice.reason)


def test_two_runs_begun_at_once_choose_one_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two formats of nearly one speed each would choose its own, and the runs not pair."""
    names = iter(["channels_last", "contiguous"])

    def measure(*_: Any) -> MemoryFormatChoice:
        name = next(names)
        time.sleep(0.3)
        return MemoryFormatChoice(memory_format=name, reason="measured")

    monkeypatch.setattr(throughput, "_faster_format", measure)
    config, data = with_fields(channels_last="auto"), blobs()
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(choose_memory_format, config, data, tmp_path) for _ in range(2)]
        chosen = {future.result().memory_format for future in begun}
    assert chosen == {"channels_last"}


CLOCK = [0.0]


class Forgetful(nn.Module):
    """Sets itself up anew, for 0.4 s, whenever the size of the batch has changed, and
    takes 0.2 s for any step, by a clock of its own: one step alone fills a timing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(192, 3)
        self.size = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        CLOCK[0] += 0.2 if len(images) == self.size else 0.6
        self.size = len(images)
        logits: torch.Tensor = self.net(images.flatten(1)[:, :192])
        return logits


def forgetful() -> Forgetful:
    return Forgetful()


def test_what_is_set_up_anew_at_a_change_of_size_is_off_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: CLOCK[0]))
    config = with_fields(model="tests.test_throughput:forgetful")
    curve = measure_throughput(config, blobs(), [16, 32], CHOICE)
    assert [p.batch_size / p.samples_per_s for p in curve.points] == pytest.approx([0.2, 0.2])
    assert [p.spread for p in curve.points] == pytest.approx([0.0, 0.0])


def test_the_clock_runs_from_an_idle_device_to_an_idle_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def clock() -> float:
        told.append("clock")
        return float(len(told))

    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(throughput, "synchronize", lambda _: told.append("wait"))
    monkeypatch.setattr(throughput, "train_step", lambda *_, **__: told.append("step"))
    throughput._steps(make_state(CONFIG, blobs()), blobs(), CONFIG, 16, 2)
    assert told == ["wait", "clock", "step", "step", "wait", "clock"]


def test_a_timing_is_the_mean_of_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def steps(_state: Any, _data: Any, _config: Any, _size: int, count: int) -> float:
        counts.append(count)
        # The one before the clock is slow, as a first step after a change of size may be.
        return 9.0 if len(counts) == 1 else count * 0.01

    monkeypatch.setattr(throughput, "_steps", steps)
    monkeypatch.setattr(throughput, "MIN_TIMING_S", 0.055)
    state: Any = None
    assert throughput._time_step(state, blobs(), CONFIG, 16) == pytest.approx(0.01)
    assert counts == [1, 1, 5]


def test_a_timed_step_augments_as_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataclasses.replace(blobs(), augment=True)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        throughput, "train_step", lambda _state, _data, images, *_, **__: seen.append(images)
    )
    throughput._steps(make_state(CONFIG, data), data, CONFIG, 16, 1)
    assert seen[0].shape == data.train_images[:16].shape
    assert not torch.equal(seen[0], data.train_images[:16])
