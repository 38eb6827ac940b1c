"""What this machine offers, for a person who wonders or reports a problem."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

import stability_probe
from stability_probe.dataset_files import FILES, find_files
from stability_probe.datasets import DATASETS
from stability_probe.device import cpu_name, package_version
from stability_probe.errors import MissingError
from stability_probe.folders import cache_home, data_home
from stability_probe.memory import available_memory

PACKAGES = (
    *("torch", "torchvision", "timm", "scikit-learn", "mapie", "scipy", "numpy"),
    *("matplotlib", "click", "rich"),
)
EXTRAS = ("ray", "lightning", "transformers", "accelerate", "tensorboard", "mlflow-skinny", "wandb")
MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Facts about the machine; nothing was measured and nothing changed."""

    python: str
    platform: str
    probe: str
    packages: dict[str, str]
    """Versions; "missing" where a package is not installed."""
    extras: dict[str, str]
    """The same of what is optional."""
    devices: tuple[str, ...]
    """What --device auto would take comes first."""
    threads: int
    """CPU threads that torch uses by itself."""
    cores: int
    """CPU cores that this process may use."""
    memory_gib: float | None
    """That can still be taken; None where the system does not tell."""
    compiler: str | None
    """The C++ compiler that --compile needs on a CPU; None where there is none."""
    data: dict[str, str]
    """Where each named data set lies."""
    folders: dict[str, str]
    """What is kept where."""
    disk_gib: float
    """Free where the runs are stored."""
    problems: tuple[str, ...]
    """What will not work, and what to do."""


def examine(root: Path, data_dir: str | None = None) -> Examination:
    """Look at the machine; `root` is the folder of the stored runs."""
    packages = {name: package_version(name) or MISSING for name in PACKAGES}
    disk = shutil.disk_usage(_existing(root)).free / 2**30
    memory = available_memory()
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    return Examination(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        probe=stability_probe.__version__,
        packages=packages,
        extras={name: package_version(name) or MISSING for name in EXTRAS},
        devices=_devices(),
        threads=torch.get_num_threads(),
        cores=_cores(),
        memory_gib=None if memory is None else memory / 2**30,
        compiler=compiler,
        data=data_places(data_dir),
        folders={
            "runs": str(root.resolve()),
            "own rows": str(data_home()),
            "fits and downloads": str(cache_home()),
        },
        disk_gib=disk,
        problems=_problems(packages, root, disk),
    )


def _devices() -> tuple[str, ...]:
    cards = [
        f"cuda:{i} {torch.cuda.get_device_name(i)}, "
        f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB, "
        f"CUDA {torch.version.cuda}"
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return (*cards, *mps, f"cpu {cpu_name()}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def data_places(data_dir: str | None = None) -> dict[str, str]:
    """Where each named data set lies, or what to do."""
    return {name: _place(name, data_dir) for name in DATASETS}


def _place(name: str, data_dir: str | None) -> str:
    if name not in FILES:
        return "embedded"
    try:
        folder = find_files(name, data_dir)
    except MissingError as error:
        return str(error)
    return "not here; it is downloaded when asked for" if folder is None else str(folder)


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())


def _problems(packages: dict[str, str], root: Path, disk_gib: float) -> tuple[str, ...]:
    found = [
        f"{name} is missing; pip install stability-probe"
        for name, version in packages.items()
        if version == MISSING
    ]
    if not os.access(_existing(root), os.W_OK):
        found.append(f"cannot write to {root}; use another -o")
    if disk_gib < 1:
        found.append(f"{disk_gib:.1f} GiB free for runs; use another -o")
    return tuple(found)
