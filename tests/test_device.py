"""Memory: what is free, and what is foreseen to fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stability_probe import device
from stability_probe.device import available_memory, is_out_of_memory, largest_that_fits

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


def test_available_memory_reads_the_system(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 9 kB\nMemAvailable:       2048 kB\n")
    assert available_memory(file) == 2048 * 1024
    file.write_text("MemTotal: 9 kB\n")
    assert available_memory(file) is None
    assert available_memory(tmp_path / "absent") is None


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


def test_where_nothing_is_known_nothing_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 0.0)
    assert largest_that_fits(CPU, 100, 16, 32) == 16
    assert largest_that_fits(CPU, None, 16, 32) == 32
    assert largest_that_fits(OTHER, 100, 16, 32) == 32
    monkeypatch.setattr(device, "available_memory", lambda: None)
    assert largest_that_fits(CPU, 100, 16, 32) == 32
