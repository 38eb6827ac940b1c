"""Errors that end a command with one line and a documented exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProbeError(Exception):
    """Base of every error whose message is meant for the person at the keyboard.

    The message is one line: what was wrong, then what to type instead.
    """

    exit_code = 1


class UsageError(ProbeError):
    """What was asked for cannot work: unknown name, contradictory bounds, wrong input."""

    exit_code = 2


class RunError(ProbeError):
    """A run started and failed: it diverged, ran out of memory or could not be stored."""

    exit_code = 3


class DivergedError(RunError):
    """The loss of an epoch was not finite."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss became non-finite in epoch {epoch}; use a smaller --lr")
        self.epoch = epoch

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int]]:
        return DivergedError, (self.epoch,)  # one process tells it to the others


class MissingError(ProbeError):
    """Data or a part of the environment is missing or damaged."""

    exit_code = 4


def near(name: str, known: Iterable[str]) -> str:
    """The names most like `name`, else those that begin so, as words; all of them where none is.

    >>> near("debaa", ["deba", "adabatch"]), near("foo", ["deba", "floor"])
    ('deba', 'deba or floor')
    """
    names = sorted(known)
    # Not difflib's own bound, by which debaa is like adabatch and foo like floor.
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.76)
    begun = [n for n in names if name and n.startswith(name)]
    return " or ".join(alike or begun or names)
