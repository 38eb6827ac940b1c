"""What torchrun tells each process it starts, by environment variables; needs no torch."""

from __future__ import annotations

import os

from stability_probe.errors import DivergedError

_LEADERS = "_stability_probe_of_leader"
_LOST = ("connection closed by peer", "connection reset by peer", "ncclremoteerror")
"""Words of Gloo and NCCL."""
_joined = False


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    launched = "RANK" in os.environ and "LOCAL_RANK" in os.environ
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1


def follows() -> bool:
    """Whether this process is one of several and not the first, which speaks for all."""
    return processes() > 1 and rank() != 0


def rank() -> int:
    """Which of the processes this is."""
    return int(os.environ["RANK"])


def mark_as_leaders(error: Exception) -> None:
    """Note that an error came from the first process, which tells it."""
    error.__dict__[_LEADERS] = True


def is_leaders(error: BaseException) -> bool:
    """Whether the first process tells of an error that was raised in this one."""
    return _LEADERS in error.__dict__


def note_joined() -> None:
    """From here on the processes work together; what failed before, such as an option that no run
    can have, failed in all of them."""
    global _joined
    _joined = True


def is_common(error: BaseException) -> bool:
    """Whether the first process tells of an error for all: it met every process, or the first."""
    of_all = isinstance(error, (KeyboardInterrupt, DivergedError)) or not _joined
    return of_all or is_leaders(error) or lost_another(error)


def lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process has ended, which tells why."""
    words = str(error).lower() if isinstance(error, RuntimeError) else ""
    return processes() > 1 and any(w in words for w in _LOST)
