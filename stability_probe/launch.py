"""What torchrun tells each process it starts, by environment variables; needs no torch."""

from __future__ import annotations

import os


def processes() -> int:
    """How many processes torchrun started; 1 without it."""
    launched = "RANK" in os.environ and "LOCAL_RANK" in os.environ
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1


def follows() -> bool:
    """Whether this process is one of several and not the first, which alone speaks."""
    return processes() > 1 and os.environ["RANK"] != "0"
