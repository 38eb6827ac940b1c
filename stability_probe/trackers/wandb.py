"""Weights & Biases, as its own environment variables say. The only file that imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wandb

PROJECT = "probe"


class WandbRun:
    """One run of the project `PROJECT`, or of that of WANDB_PROJECT."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self._run.log(numbers, step=epoch)

    def close(self) -> None:
        self._run.finish()


def open_run(name: str, folder: Path) -> WandbRun:
    """A new run; what it keeps on the disk goes below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(project=PROJECT, name=name, dir=folder, settings=settings, reinit="create_new")
    return WandbRun(run)
