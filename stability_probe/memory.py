"""Memory of the machine: what is free, and which errors tell that there was too little.

Needs no torch, so that an error can be told by whoever meets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_NO_MEMORY = (
    "out of memory",  # CUDA and MPS
    "can't allocate memory",  # the allocator of a CPU, which has two words for it
    "not enough memory",
    "alloc_failed",  # cuBLAS, cuDNN
    "allocation_failed",
    "could not create a memory",  # oneDNN
)
"""Words of errors that a smaller batch may mend."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error tells by itself that memory was lacking.

    Only torch's own allocators for a device raise a type of their own. Of other errors the words
    tell, and not the word alone: an "illegal memory access" is a bug that no smaller batch mends.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(w in words for w in _NO_MEMORY)


def available_memory(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Bytes that can still be taken, None where the system does not tell.

    Of the machine, and of the control groups that this process is in: a container or a batch job
    is killed at its own limit, however much the machine has free.
    """
    known = [*_left_on_machine(proc / "meminfo"), *_left_in_groups(proc / "self/cgroup", cgroups)]
    return min(known, default=None)


def _left_on_machine(meminfo: Path) -> Iterator[float]:
    values = dict(line.split(":", 1) for line in _lines(meminfo) if ":" in line)
    if "MemAvailable" in values:
        yield float(values["MemAvailable"].split()[0]) * 1024


def _left_in_groups(membership: Path, cgroups: Path) -> Iterator[float]:
    """Of each group that has a limit, from the process's own up (man 7 cgroups)."""
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the one outside; what is not there is passed over.
        group = root / path.lstrip("/")
        while group.is_relative_to(root):
            yield from _left_in_group(group, *names)
            group = group.parent


def _left_in_group(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[float]:
    try:
        free = int((group / limit).read_text()) - int((group / usage).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return
    # Files that were read and may be forgotten count as used; Docker and Kubernetes take them off.
    statistics = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
    yield float(max(0, free + int(statistics.get(reclaimable, 0))))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
