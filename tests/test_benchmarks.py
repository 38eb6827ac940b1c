"""The benchmark of cards works where there is none; what it tells has the right shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import advisories, gpu, watched
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


GROWS = """
import subprocess, sys, time
job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9)"])
kept = []
for _ in range(20):
    kept.append((open("/dev/null"), b"x" * 2**22))
    time.sleep(0.1)
job.kill()
sys.exit(3)
"""


@pytest.mark.skipif(not watched.PROC.exists(), reason="reads /proc")
def test_what_grows_is_seen_in_a_command_that_is_watched(tmp_path: Path) -> None:
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "result.json").write_bytes(b"x" * 2**20)
    samples = watched.watch([sys.executable, "-c", GROWS], tmp_path, every_s=0.1)
    found = watched.summary(samples)
    assert found["exit_code"] == 3
    assert found["open_files"][1] >= found["open_files"][0] + 5
    assert found["resident_mib"][1] >= found["resident_mib"][0] + 20
    assert found["mib_an_hour"] > 1000
    assert found["jobs"] == [1, 1]
    assert found["finished"] == [1, 1]
    assert found["mib_a_finished_run"] == [1, 1]


def test_an_index_without_advisories_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(version: str, *advisories: str) -> dict[str, object]:
        return {"info": {"version": version}, "vulnerabilities": [{"id": a} for a in advisories]}

    pages = {"pycrypto": told("2.6.1", "PYSEC-1"), "new": told("2.0"), "bad": told("3", "GHSA-1")}
    monkeypatch.setattr(advisories, "page", pages.get)
    found = advisories.audit([("new", "2.0+cpu"), ("bad", "1.0"), ("mine", "0.1")])
    assert found == {
        "newest": ["new 2.0+cpu"],
        "older": ["bad 1.0"],
        "unknown": ["mine"],
        "vulnerable": {"bad 3": ["GHSA-1"]},
    }
    pages["pycrypto"] = told("2.6.1")
    with pytest.raises(OSError, match="tells no advisories"):
        advisories.audit([("new", "2.0")])
