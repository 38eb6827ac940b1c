"""The machine a run is on: device, threads, clocks and versions."""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from stability_probe.errors import UsageError
from stability_probe.memory import available_memory, lacks_memory

_NO_MEMORY_OR_KERNEL = (
    "unable to find an engine",  # cuDNN
    "valid cudnn algorithm",
    "cudnn_status_not_supported",
    "cublas_status_not_initialized",
)
"""Words of libraries that found no room for their workspace, or no kernel at all."""
_FULL = 0.1
"""A card with less of its memory free than this is why."""


def resolve_device(name: str) -> torch.device:
    """The device that auto, cuda, mps or cpu stands for. Raises `UsageError` if it is absent."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if kind not in available:
        raise UsageError(f"unknown device {name!r}; use auto, cuda, mps or cpu")
    if not available[kind]:
        raise UsageError(f"device {name!r} is not available here; use --device auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device; use {kind}, or {kind}:0") from None
    count = torch.get_device_module(kind).device_count()
    if device.index is not None and device.index >= count:
        last = f" to {kind}:{count - 1}" if count > 1 else ""
        raise UsageError(f"device {name!r} is not here; use {kind}:0{last}")
    return torch.device("cpu") if kind == "cpu" else device  # cpu:0 is no other


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock reads finished work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def send(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU, on the device, without waiting for what that still computes.

    From pageable memory a copy to a card waits for all that was launched before it.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def is_out_of_memory(error: BaseException, device: torch.device) -> bool:
    """Whether an operation on `device` failed for lack of memory: by its words, or a full card."""
    if lacks_memory(error):
        return True
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(w in words for w in _NO_MEMORY_OR_KERNEL) and _is_full_card(device)


def _is_full_card(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    return free < _FULL * total


def free_memory(device: torch.device) -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new maximum for `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        # Linux: 5 resets the process's high-water mark (man 5 proc). Elsewhere it stays.
        with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes: allocated on a CUDA device, resident of this process on a CPU; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def largest_that_fits(device: torch.device, peak: int | None, done: int, size: int) -> int:
    """`size`, or fewer samples at once where those would not fit into the memory of a CPU.

    A device of its own raises an error when its memory is full; on a CPU the kernel would kill
    the process, so that a step must not even be tried. `peak` bytes were used with `done` samples
    at once: scaled by the batch, an upper bound, the growth must fit into what is available.
    """
    if device.type != "cpu" or peak is None or size <= done:
        return size
    available = available_memory()
    if available is None:
        return size
    return min(size, done + done * int(available) // peak)  # a quotient of floats may fall short


@contextmanager
def use_threads(threads: int | None) -> Iterator[None]:
    """Let torch compute on this many CPU threads for a while; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """CPU threads that torch takes where none are asked for."""
    return torch.get_num_threads()


def describe_environment(device: torch.device) -> dict[str, str]:
    """Versions, device and threads, for the record of a measurement."""
    return {
        "device_name": device_name(device),
        "threads": str(torch.get_num_threads()),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of its own, which no checkpoint may name
        "cuda": torch.version.cuda or "" if device.type == "cuda" else "",
        **{name: package_version(name) or "unknown" for name in ("torchvision", "timm")},
        "probe": package_version("stability-probe") or "unknown",
    }


def device_name(device: torch.device) -> str:
    """Of the card, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """As the system calls it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def package_version(package: str) -> str | None:
    """Of an installed distribution; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
