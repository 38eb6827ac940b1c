"""Where the tool keeps what outlives a command, apart from the runs themselves."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """For what cannot be made again: $PROBE_HOME, else $XDG_DATA_HOME/stability-probe."""
    return _home("XDG_DATA_HOME", Path(".local") / "share")


def cache_home() -> Path:
    """For what can: $PROBE_HOME/cache, else $XDG_CACHE_HOME/stability-probe."""
    cache = _home("XDG_CACHE_HOME", Path(".cache"))
    return cache / "cache" if os.environ.get("PROBE_HOME") else cache


def _home(variable: str, below_home: Path) -> Path:
    own = os.environ.get("PROBE_HOME")
    if own:
        return Path(own).expanduser()
    given = os.environ.get(variable)
    return (Path(given) if given else Path.home() / below_home) / "stability-probe"
