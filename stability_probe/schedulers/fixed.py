"""The batch never changes: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stability_probe.records import EpochRecord
from stability_probe.schedulers.base import Proposal, hold


class Fixed:
    """Holds whatever batch the epoch had."""

    def propose(self, record: EpochRecord) -> Proposal:
        return hold(record, "fixed batch")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
