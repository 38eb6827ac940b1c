"""TensorBoard: event files below the folder of the runs. The only file that imports it."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoardRun:
    """One folder of event files."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self._writer.close()


def open_run(name: str, folder: Path) -> TensorBoardRun:
    """Events in ``folder/tensorboard/name``."""
    return TensorBoardRun(SummaryWriter(folder / "tensorboard" / name))
