"""Where long work says how far it is."""

from __future__ import annotations

from typing import Protocol

from stability_probe.records import EpochRecord


class Progress(Protocol):
    """What `characterize`, `run` and `validate` report to while they work."""

    def start(self, stage: str, total: int) -> None:
        """A stage begins that takes `total` epochs (or batch sizes)."""

    def epoch(self, record: EpochRecord) -> None:
        """One epoch of the stage is finished."""

    def step(self, text: str) -> None:
        """One unit that is not an epoch is finished, described by `text`."""

    def within(self, name: str, done: int, total: int) -> None:
        """A unit of the stage is under way, `done` of `total` epochs far; gone when it is done."""

    def note(self, text: str) -> None:
        """A remark worth keeping, such as a resumed run."""


class Quiet:
    """Says nothing."""

    def start(self, stage: str, total: int) -> None: ...

    def epoch(self, record: EpochRecord) -> None: ...

    def step(self, text: str) -> None: ...

    def within(self, name: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


_: Progress = Quiet()
