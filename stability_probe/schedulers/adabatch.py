"""AdaBatch: grow the batch every so many epochs (Devarakonda et al., arXiv 1712.02029)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers.base import Proposal, hold


class AdaBatch:
    """`factor` times the batch after every `every` epochs.

    The paper doubles every 20 of 100 epochs, and lowers the rate as well; the rate is here a
    choice of its own (`lr_schedule`). Raises `UsageError` for parameters that cannot work.
    """

    cooldown = 0

    def __init__(self, *, every: int = 20, factor: float = 2.0) -> None:
        if not factor > 1 or not isinstance(every, int) or every < 1:
            raise UsageError("adabatch needs factor > 1 and every >= 1, a whole number of epochs")
        self.every = every
        self.factor = factor

    def propose(self, record: EpochRecord) -> Proposal:
        left = -record.epoch % self.every
        if left:
            return hold(record, f"x{self.factor:g} in {left} epoch{'s' if left > 1 else ''}")
        wanted = record.batch_size * self.factor
        return Proposal(batch_size=wanted, reason=f"x{self.factor:g} every {self.every} epochs")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
