"""SIGINT and SIGTERM: finish what cannot be left halfway, then end with the usual exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; `exit_code` is the shell's, 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Stop:
    """Whether a signal has asked for an end."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self) -> bool:
        return self.signum is not None

    def check(self) -> None:
        """Raises `Interrupted` where an end was asked for."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Within this, the first signal only sets the `Stop`; the second ends at once.

    Only the main thread receives signals; in any other nothing changes.
    """
    stop = Stop()

    def note(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None:
            raise Interrupted(signum)
        stop.signum = signum

    with _handlers(note):
        yield stop


@contextmanager
def raising() -> Iterator[None]:
    """Within this, SIGTERM raises `Interrupted` as SIGINT raises `KeyboardInterrupt`."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _handlers(end):
        yield


@contextmanager
def _handlers(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, old in before.items():
            # None: the old handler was not set from Python and cannot be put back.
            signal.signal(signum, old if old is not None else signal.SIG_DFL)
