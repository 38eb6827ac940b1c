"""Measures whether adaptive batch scheduling pays off for an architecture.

In a notebook::

    from stability_probe import Limits, characterize
    c = characterize("resnet18", epochs=20)   # a record that draws itself: tables and plots
    c.curve.points, c.metrics[0], c.to_dict()

    from predictor import predict
    predict(c, limits=Limits(max_accuracy_loss_pp=2)).reason

Full runs are `stability_probe.run.run`, side by side `stability_probe.compare.compare`; a batch
schedule for a training loop of your own is in `stability_probe.integrations`. Every error whose
message is meant for you is a `ProbeError`. Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stability_probe.config import RunConfig
    from stability_probe.errors import ProbeError
    from stability_probe.limits import Limits
    from stability_probe.probe import characterize
    from stability_probe.schedulers import make_scheduler
    from stability_probe.store import Store

    __version__: str

__all__ = ["Limits", "ProbeError", "RunConfig", "Store", "characterize", "make_scheduler"]

_MODULES = {
    "Limits": "limits",
    "ProbeError": "errors",
    "RunConfig": "config",
    "Store": "store",
    "characterize": "probe",
    "make_scheduler": "schedulers",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("stability-probe")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
