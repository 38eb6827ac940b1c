"""Measures whether adaptive batch scheduling pays off for an architecture.

In a notebook: ``from stability_probe import characterize``. Nothing heavy is imported before a
name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stability_probe.config import RunConfig
    from stability_probe.probe import characterize
    from stability_probe.store import Store

__all__ = ["RunConfig", "Store", "characterize"]

_MODULES = {"RunConfig": "config", "Store": "store", "characterize": "probe"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
