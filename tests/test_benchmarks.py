"""The benchmark of cards works where there is none; what it tells has the right shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu
from tests.benchmarks.interleaved import ratio, take_turns

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_cards_runs_on_a_cpu() -> None:
    command = "--device cpu --models test_vit,test_resnet --batch-sizes 2,4 --budget-s 0 --json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["not_reached"] == ["test_resnet"]
    row = told["models"]["test_vit"]
    assert set(row["images_per_s"]) == {"2", "4"}
    assert row["headroom"] >= 1
    assert row["waits_for_device"] is False
    assert "graph_headroom" not in row
    assert told["environment"]["torch"]


def test_a_curve_ends_before_the_first_size_that_does_not_fit() -> None:
    def time_of(size: int) -> float:
        if size > 32:
            raise RuntimeError("CUDA out of memory")
        return 0.5

    assert gpu.curve(time_of, [16, 32, 64, 128]) == {16: 32, 32: 64}
    assert gpu.headroom({16: 32, 32: 64, 64: 60}) == 2
    with pytest.raises(RuntimeError):
        gpu.curve(time_of, [64])


def test_arms_take_turns_and_ratios_are_of_the_same_round() -> None:
    order: list[str] = []

    def arm(name: str, seconds: list[float]) -> float:
        order.append(name)
        return seconds.pop(0)

    one, other = [9.0, 1.0, 20.0, 3.0], [9.0, 2.0, 10.0, 6.0]
    taken = take_turns({"a": lambda: arm("a", one), "b": lambda: arm("b", other)}, rounds=3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert taken == {"a": [1.0, 20.0, 3.0], "b": [2.0, 10.0, 6.0]}
    assert ratio(taken["a"], taken["b"]).median == 0.5
