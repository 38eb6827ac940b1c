"""Memory: what is free, and what is foreseen to fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stability_probe import device
from stability_probe.device import is_out_of_memory, largest_that_fits, resolve_device
from stability_probe.errors import UsageError
from stability_probe.exits import explain
from stability_probe.memory import available_memory

CPU, OTHER = torch.device("cpu"), torch.device("meta")


def test_a_cpu_that_cannot_allocate_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**56, dtype=torch.uint8)
    assert is_out_of_memory(caught.value, CPU)


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (torch.OutOfMemoryError("no room"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("unsupported memory format option Preserve"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_what_a_smaller_batch_mends_is_out_of_memory(error: Exception, lacking: bool) -> None:
    assert is_out_of_memory(error, CPU) is lacking
    assert explain(error)[0].startswith("out of memory; use a smaller --batch-size") is lacking


@pytest.mark.parametrize(
    "words",
    [
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    ],
)
def test_a_library_without_room_is_out_of_memory_on_a_full_card_only(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words tell that there is no such kernel."""
    error = RuntimeError(words)
    assert not is_out_of_memory(error, CPU)
    # The card of the run, which need not be the current one.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: ((40, 1)[card.index], 80))
    for index, full in ((0, False), (1, True)):
        assert is_out_of_memory(error, torch.device("cuda", index)) is full


def write(folder: Path, **texts: object) -> None:
    """A file for each name, in which __ stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_available_memory_reads_the_system(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:       2048 kB")
    assert available_memory(tmp_path, tmp_path / "absent") == 2048 * 1024
    write(tmp_path, meminfo="MemTotal: 9 kB")
    assert available_memory(tmp_path, tmp_path / "absent") is None
    assert available_memory(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize("group", ["/", "/job/step", "/of/another/namespace", "/../../outside"])
def test_a_container_may_take_no_more_than_its_limit(tmp_path: Path, group: str) -> None:
    """Version 2. A path that is not there is the one outside the container, whose root is here."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc, meminfo="MemAvailable: 1000 kB")
    write(proc / "self", cgroup=f"0::{group}")
    write(cgroups, memory__max=900, memory__current=700, memory__stat="anon 5\ninactive_file 100")
    write(cgroups / "job", memory__max=800, memory__current=700, memory__stat="inactive_file 50")
    write(cgroups / "job/step", memory__max="max", memory__current=600)
    left = 150 if group == "/job/step" else 300
    assert available_memory(proc, cgroups) == left
    write(cgroups, memory__max=600)
    assert available_memory(proc, cgroups) == 0, "more is used than the new limit allows"
    for folder in (cgroups, cgroups / "job"):
        write(folder, memory__max="max")
    assert available_memory(proc, cgroups) == 1000 * 1024


def test_the_memory_controller_of_version_1_counts_too(tmp_path: Path) -> None:
    proc, memory = tmp_path / "proc", tmp_path / "cgroup" / "memory"
    write(proc, meminfo="MemAvailable: 1000 kB")
    write(proc / "self", cgroup="9:name=systemd:/\n5:cpuset,memory:/slurm/job_1\n2:cpu:/\n0::/")
    unlimited = {"memory__limit_in_bytes": 2**63 - 4096, "memory__usage_in_bytes": 10**9}
    write(memory, **unlimited)
    assert available_memory(proc, memory.parent) == 1000 * 1024
    write(
        memory / "slurm" / "job_1",
        memory__limit_in_bytes=4096,
        memory__usage_in_bytes=4000,
        memory__stat="inactive_file 1\ntotal_inactive_file 1000",
    )
    assert available_memory(proc, memory.parent) == 1096


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "unknown device 'gpu'; use auto, cuda, mps or cpu"),
        ("cpu:x", "'cpu:x' is no device; use cpu, or cpu:0"),
        ("cpu:1", "device 'cpu:1' is not here; use cpu:0"),
        ("cuda:2", "device 'cuda:2' is not here; use cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_here_is_refused(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1").index == 1
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert str(caught.value) == words


@given(
    peak=st.integers(1, 10**6), free=st.integers(0, 10**6), done=st.integers(1, 500),
    size=st.integers(1, 2000),
)  # fmt: skip
def test_what_fits_uses_no_more_than_is_free_and_all_of_it(
    peak: int, free: int, done: int, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "available_memory", lambda: float(free))
        largest = largest_that_fits(CPU, peak, done, size)
    if size <= done:
        assert largest == size
        return
    assert done <= largest <= size
    assert peak * (largest - done) <= free * done
    if largest < size:
        assert peak * (largest + 1 - done) > free * done


def test_a_cpu_has_no_number() -> None:
    """Its runs go by CPU seconds, whatever it was called."""
    assert str(resolve_device("cpu:0")) == "cpu"


def test_where_nothing_is_known_nothing_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 0.0)
    assert largest_that_fits(CPU, 100, 16, 32) == 16
    assert largest_that_fits(CPU, None, 16, 32) == 32
    assert largest_that_fits(OTHER, 100, 16, 32) == 32
    monkeypatch.setattr(device, "available_memory", lambda: None)
    assert largest_that_fits(CPU, 100, 16, 32) == 32
