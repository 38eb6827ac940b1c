"""Growth by the clock alone: the control that any signal has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers.base import Proposal


class Timed:
    """Wants `growth` times the batch after every epoch, so that the cooldown sets the pace.

    DEBA's growth without its signals (our control). Raises `UsageError` for growth <= 1.
    """

    cooldown = 5

    def __init__(self, *, growth: float = 1.5) -> None:
        if not growth > 1:
            raise UsageError(f"timed growth is {growth!r}; use a number above 1")
        self.growth = growth

    def propose(self, record: EpochRecord) -> Proposal:
        wanted = record.batch_size * self.growth
        return Proposal(batch_size=wanted, reason=f"x{self.growth:g} whenever it may change")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
