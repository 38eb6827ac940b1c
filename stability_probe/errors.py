"""Errors that end a command with one line and a documented exit code."""


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


class MissingError(ProbeError):
    """Data or a part of the environment is missing or damaged."""

    exit_code = 4
