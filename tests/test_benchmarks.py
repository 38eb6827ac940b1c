"""The benchmark of cards works where there is none; what it tells has the right shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
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


@pytest.mark.skipif(not watched.PROC.exists(), reason="reads /proc")
def test_a_sample_sees_files_threads_memory_jobs_and_runs(tmp_path: Path) -> None:
    before = watched.sample(os.getpid(), tmp_path)
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "result.json").write_bytes(b"x" * 2**20)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    job = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with ExitStack() as stack:
            kept = [stack.enter_context(open(os.devnull)) for _ in range(10)], b"x" * 2**26
            after = watched.sample(os.getpid(), tmp_path)
    finally:
        end.set()
        job.kill()
        job.communicate()
    assert after["open_files"] == before["open_files"] + len(kept[0]) + 1  # the job's pipe
    assert after["system_threads"] == before["system_threads"] + 1
    assert after["resident_mib"] > before["resident_mib"] + 50
    assert after["jobs"] == before["jobs"] + 1
    assert after["job_resident_mib"] > 0
    assert (before["finished"], after["finished"], after["mib_of_finished"]) == (0, 1, 1)


@pytest.mark.skipif(not watched.PROC.exists(), reason="reads /proc")
def test_a_command_is_watched_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys, time; time.sleep(2); sys.exit(3)"]
    *samples, end = watched.watch(command, tmp_path, every_s=0.2)
    assert samples
    assert end == {"exit_code": 3}
    with pytest.raises(SystemExit, match="shorter --every"):
        watched.summary(watched.watch([sys.executable, "-c", ""], tmp_path, every_s=60))


def test_growth_is_that_of_the_samples_after_the_first_tenth() -> None:
    state = dict.fromkeys(("open_files", "system_threads", "jobs"), 2.0)
    samples = [
        {"minutes": m, "resident_mib": 100.0 + m, "finished": m, "mib_of_finished": 3 * m, **state}
        for m in map(float, range(1, 101))
    ]
    samples[0]["resident_mib"] = 5000.0
    found = watched.summary([*samples, {"exit_code": 0}])
    assert found["mib_an_hour"] == 60
    assert found["resident_mib"] == [115.0, 196.0]  # of 11 to 19 minutes, and of 92 to 100
    assert found["open_files"] == [2, 2]
    assert found["mib_a_finished_run"] == [3, 3]


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
