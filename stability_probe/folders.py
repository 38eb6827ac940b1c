"""Where the tool keeps what outlives a command."""

from __future__ import annotations

import os
from pathlib import Path

RUNS_FOLDER = "probe-runs"
"""The folder of runs where none is named."""


def data_home() -> Path:
    """For what cannot be made again: $PROBE_HOME, else $XDG_DATA_HOME/stability-probe."""
    return _home("XDG_DATA_HOME", Path(".local") / "share")


def cache_home() -> Path:
    """For what can: $PROBE_HOME/cache, else $XDG_CACHE_HOME/stability-probe."""
    cache = _home("XDG_CACHE_HOME", Path(".cache"))
    return cache / "cache" if os.environ.get("PROBE_HOME") else cache


def output_flags(root: Path) -> list[str]:
    """The flag that names a folder of runs again; none where it is the usual one."""
    return [] if root.resolve() == Path(RUNS_FOLDER).resolve() else ["-o", str(root)]


def _home(variable: str, below_home: Path) -> Path:
    own = os.environ.get("PROBE_HOME")
    if own:
        return Path(own).expanduser()
    given = os.environ.get(variable)
    return (Path(given) if given else Path.home() / below_home) / "stability-probe"
