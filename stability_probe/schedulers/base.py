"""What every batch schedule shares: rules, decisions, and the bounds of a change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord, Evidence

GRID = 8
"""Changed sizes are multiples of this: kernels have fast paths there, and a compiled model
meets few distinct sizes."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a rule would do, before bounds, grid and cooldown."""

    batch_size: float
    """Samples; the present batch to leave it, infinity for as large as may be."""
    reason: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The batch of the next epoch and why."""

    action: str
    """increase, rollback or hold."""
    batch_size: int
    reason: str
    cooldown_left: int = 0
    """Epochs before the batch may change again."""
    evidence: tuple[Evidence, ...] = ()


class Rule(Protocol):
    """A batch schedule's own idea; one small file each.

    A rule sees every finished epoch once, in order, and learns of a change from the batch of the
    record that follows.
    """

    def propose(self, record: EpochRecord) -> Proposal:
        """The batch wanted after `record`."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `load_state_dict` takes."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as if this rule had seen the epochs of `state`."""


class BatchScheduler(Protocol):
    """Gets each finished epoch once, in order, and says how large the next batch is."""

    @property
    def noise_every(self) -> int:
        """Epochs between measurements of the noise scale that the schedule needs; 0 for none."""

    def step(self, record: EpochRecord) -> Decision:
        """Decide after `record`."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `load_state_dict` takes."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as if this scheduler had seen the epochs of `state`."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds on the batch and the grid of sizes, applied once for every rule."""

    minimum: int
    maximum: int

    def snapped(self, batch_size: int, wanted: float) -> int:
        """`wanted` on the grid, within bounds, moved from `batch_size` in its direction.

        Where rounding would undo the change, the next grid size is taken; at a bound the batch
        stays.
        """
        wanted = min(max(wanted, self.minimum), self.maximum)
        if wanted == batch_size:
            return batch_size
        size = math.floor(wanted / GRID + 0.5) * GRID
        if wanted > batch_size:
            size = max(size, (batch_size // GRID + 1) * GRID)
        else:
            size = min(size, (math.ceil(batch_size / GRID) - 1) * GRID)
        # A bound need not lie on the grid.
        size = self.maximum if wanted >= self.maximum else size
        return min(max(size, self.minimum), self.maximum)


class BoundedScheduler:
    """A rule within bounds, on the grid, and at most one change in `cooldown` epochs."""

    def __init__(self, rule: Rule, bounds: Bounds, cooldown: int) -> None:
        self.rule = rule
        self.bounds = bounds
        self.cooldown = cooldown
        self._since_change = 0

    @property
    def noise_every(self) -> int:
        """Epochs between measurements of the noise scale that the rule needs; 0 for none."""
        return int(getattr(self.rule, "noise_every", 0))

    def step(self, record: EpochRecord) -> Decision:
        """Decide after `record`, which must be the epoch after the one seen last."""
        proposal = _checked(self.rule.propose(record), self.rule)
        self._since_change += 1
        left = max(0, self.cooldown - self._since_change)
        size = self.bounds.snapped(record.batch_size, proposal.batch_size)
        action, reason = "hold", proposal.reason
        if proposal.batch_size != record.batch_size:
            up = proposal.batch_size > record.batch_size
            if left > 0:
                reason = f"cooldown, {left} more epoch{'s' if left > 1 else ''}; {reason}"
                size = record.batch_size
            elif size == record.batch_size:
                reason = f"already at the {'largest' if up else 'smallest'} batch; {reason}"
            else:
                action = "increase" if up else "rollback"
                self._since_change, left = 0, self.cooldown
        return Decision(
            action=action,
            batch_size=size,
            reason=reason,
            cooldown_left=left,
            evidence=proposal.evidence,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"since_change": self._since_change, "rule": self.rule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._since_change = state["since_change"]
        self.rule.load_state_dict(state["rule"])


def hold(record: EpochRecord, reason: str, *evidence: Evidence) -> Proposal:
    """Leave the batch as it is."""
    return Proposal(batch_size=record.batch_size, reason=reason, evidence=evidence)


def decided(scheduler: BatchScheduler, record: EpochRecord) -> EpochRecord:
    """`record` with what the schedule decides on it."""
    decision = scheduler.step(record)
    return dataclasses.replace(
        record,
        action=decision.action,
        next_batch_size=decision.batch_size,
        reason=decision.reason,
        cooldown_left=decision.cooldown_left,
        evidence=decision.evidence,
    )


def _checked(proposal: object, rule: Rule) -> Proposal:
    """What a rule proposes; it may be the user's."""
    if isinstance(proposal, Proposal):
        size, reason, evidence = proposal.batch_size, proposal.reason, proposal.evidence
        sized = isinstance(size, Real) and not math.isnan(size)
        if sized and isinstance(reason, str) and _is_evidence(evidence):
            return dataclasses.replace(proposal, evidence=tuple(map(_plain_evidence, evidence)))
    raise UsageError(
        f"{type(rule).__name__}.propose() returned {proposal!r}; use a Proposal of a number of "
        "samples, a reason in words, and finite evidence"
    )


def _is_evidence(evidence: object) -> bool:
    return isinstance(evidence, tuple) and all(
        isinstance(e, Evidence)
        and isinstance(e.name, str)
        and all(number is None or _is_finite(number) for number in (e.value, e.threshold))
        for e in evidence
    )


def _plain_evidence(evidence: Evidence) -> Evidence:
    """With numbers that a record can hold: a rule may compute in NumPy."""
    value, threshold = (
        None if number is None else float(number) for number in (evidence.value, evidence.threshold)
    )
    return Evidence(name=evidence.name, value=value, threshold=threshold)


def _is_finite(number: object) -> bool:
    return isinstance(number, Real) and math.isfinite(number)
