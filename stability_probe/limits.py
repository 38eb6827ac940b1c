"""What counts as a benefit. By itself, since the command line reads it before anything else."""

from __future__ import annotations

from dataclasses import dataclass

from stability_probe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as a benefit, and what as harm. Raises `UsageError` for limits that cannot be."""

    min_time_saved_pct: float = 10.0
    """A run that saves less is no benefit."""
    max_accuracy_loss_pp: float = 0.5
    """A run that loses more test accuracy, percentage points, is harm."""

    def __post_init__(self) -> None:
        for name, value, below in (
            ("least time saved", self.min_time_saved_pct, "at least 0 and below 100 %"),
            ("largest loss of accuracy", self.max_accuracy_loss_pp, "0 to less than 100 points"),
        ):
            if not 0 <= value < 100:
                raise UsageError(f"the {name} is {value:g}; use {below}")

    @property
    def words(self) -> str:
        """What a benefit is."""
        return (
            f"at least {self.min_time_saved_pct:g} % less time, at most "
            f"{self.max_accuracy_loss_pp:g} points less accuracy"
        )


DEFAULT_LIMITS = Limits()
