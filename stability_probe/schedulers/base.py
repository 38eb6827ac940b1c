"""What every batch schedule shares: the protocol, the decision, and the limits on a size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stability_probe.records import EpochRecord

GRID = 8
"""Changed sizes are multiples of this: kernels have fast paths there, and a compiled model
meets few distinct sizes."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The batch of the next epoch and why."""

    action: str
    """increase, rollback or hold."""
    batch_size: int
    reason: str


class BatchScheduler(Protocol):
    """Gets each finished epoch once, in order, and says how large the next batch is."""

    def step(self, record: EpochRecord) -> Decision:
        """Decide after `record`."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `load_state_dict` takes."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as if this scheduler had seen the epochs of `state`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on the batch and the grid of sizes, applied once for every rule."""

    minimum: int
    maximum: int

    def scaled(self, batch_size: int, factor: float) -> int:
        """`batch_size` × `factor`, on the grid, within bounds, moved in the factor's direction.

        Where rounding would undo the change, the next grid size is taken; at a bound the batch
        stays.
        """
        size = math.floor(batch_size * factor / GRID + 0.5) * GRID
        if factor > 1:
            size = max(size, (batch_size // GRID + 1) * GRID)
        elif factor < 1:
            size = min(size, (math.ceil(batch_size / GRID) - 1) * GRID)
        return min(max(size, self.minimum), self.maximum)
