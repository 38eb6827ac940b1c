"""Experiment trackers, off by default: what a run reports is also sent to one of them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from stability_probe.errors import MissingError
from stability_probe.progress import Progress
from stability_probe.records import EpochRecord
from stability_probe.user_code import one_line

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""Names for --log, and the package each needs; modules of this package are named alike."""

_MEASURED = (
    *("loss", "test_loss", "test_accuracy", "batch_size", "lr", "updates", "time_s"),
    *("grad_norm", "grad_component_variance", "grad_norm_variation", "loss_variation"),
)


class Tracker(Protocol):
    """One run of a tracker."""

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        """Numbers of one epoch, by name."""

    def close(self) -> None:
        """The run is finished."""


class Tracked:
    """A `Progress` whose epochs are also sent to a tracker, one run a stage.

    A tracker that fails is told once and left out: no run fails by it. A resumed run sends its old
    epochs again, under their old numbers.
    """

    def __init__(self, progress: Progress, open_run: Callable[[str], Tracker]) -> None:
        self._progress = progress
        self._open_run: Callable[[str], Tracker] | None = open_run
        self._stage = ""
        self._tracker: Tracker | None = None

    def start(self, stage: str, total: int) -> None:
        self.close()
        self._stage = stage
        self._progress.start(stage, total)

    def epoch(self, record: EpochRecord) -> None:
        self._progress.epoch(record)
        if self._open_run is None:
            return
        try:
            # Opened late, since some stages have no epochs.
            self._tracker = self._tracker or self._open_run(self._stage)
            self._tracker.log(numbers_of(record), record.epoch)
        except Exception as error:  # of a library, a network or a server
            self._give_up(error)

    def step(self, text: str) -> None:
        self._progress.step(text)

    def within(self, name: str, done: int, total: int) -> None:
        self._progress.within(name, done, total)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def close(self) -> None:
        """Finish the tracker's run, if there is one."""
        tracker, self._tracker = self._tracker, None
        try:
            if tracker is not None:
                tracker.close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._open_run = self._tracker = None
        self._progress.note(f"no longer logged: {one_line(error)[:200]}; the run goes on")


def numbers_of(record: EpochRecord) -> dict[str, float]:
    """What a tracker is sent of an epoch; what is undefined is left out."""
    told = {name: getattr(record, name) for name in _MEASURED}
    told["noise_scale"] = None if record.noise is None else record.noise.noise_scale
    return {name: float(value) for name, value in told.items() if value is not None}


def make_opener(name: str, folder: Path) -> Callable[[str], Tracker]:
    """What opens a run of the tracker `name` for a stage; files go below `folder`, if any do.

    Raises `MissingError` at once where its package is not installed.
    """
    try:
        module: Any = importlib.import_module(f"stability_probe.trackers.{name}")
    except ImportError as error:
        raise MissingError(
            f"{TRACKERS[name]} is not installed; pip install 'stability-probe[{name}]', or leave "
            "--log out"
        ) from error

    def opened(stage: str) -> Tracker:
        tracker: Tracker = module.open_run(re.sub(r"[^\w.-]+", "-", stage).strip("-."), folder)
        return tracker

    return opened
