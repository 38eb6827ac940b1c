"""DEBA: grow the batch while the gradients are calm (Belias et al., arXiv 2511.03809).

The paper's text is not at hand. Its abstract and reviews give the three signals, the 15-epoch
sliding window, the factors ×1.5 and ×0.8, the bounds 16–2048 and a cooldown of 5 or more epochs;
everything else here is *our reading* and has a name:

- signals are epoch means: the last mini-batch's variation is sampling noise;
- thresholds come from the first `calibration_epochs` at the initial batch, not from a 100-epoch
  profile: the median of each signal there (the first epoch is a transient) times `tolerance`;
- *increase* when the window means of at least `min_calm_signals` signals are at or below their
  thresholds; *rollback* when the last norm variation exceeds `spike` times its threshold and the
  loss rose; else *hold*;
- the batch never rolls back below the initial one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers.base import Decision, Limits

SIGNALS = ("grad_component_variance", "grad_norm_variation", "loss_variation")
_WORDS = dict(zip(SIGNALS, ("gradient variance", "norm variation", "loss variation"), strict=True))


class Deba:
    """One reading of DEBA. Raises `UsageError` for parameters that cannot work.

    window: epochs in the sliding window (paper: 15).
    cooldown: epochs between changes (paper: 5 or more).
    growth, shrink: factors of increase and rollback (paper: 1.5, 0.8).
    calibration_epochs: first epochs whose signals set the thresholds (ours).
    tolerance: thresholds are this times the calibration median (ours).
    min_calm_signals: how many of the three signals must be calm (ours).
    spike: rollback when the norm variation exceeds this times its threshold (ours).
    window_mode: "carry" keeps the window over a change of batch (paper); "restart" empties it,
        since the gradient's variance falls by itself when the batch grows.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        window: int = 15,
        cooldown: int = 5,
        growth: float = 1.5,
        shrink: float = 0.8,
        calibration_epochs: int = 4,
        tolerance: float = 1.0,
        min_calm_signals: int = 2,
        spike: float = 2.0,
        window_mode: str = "carry",
    ) -> None:
        if window < 1 or cooldown < 0 or calibration_epochs < 2:
            raise UsageError("deba needs window >= 1, cooldown >= 0 and calibration_epochs >= 2")
        if not (growth > 1 and 0 < shrink < 1 and tolerance > 0 and spike > 0):
            raise UsageError("deba needs growth > 1, 0 < shrink < 1, tolerance > 0 and spike > 0")
        if not 1 <= min_calm_signals <= len(SIGNALS):
            raise UsageError(f"deba needs min_calm_signals from 1 to {len(SIGNALS)}")
        if window_mode not in ("carry", "restart"):
            raise UsageError(f"deba window_mode is {window_mode!r}; use carry or restart")
        self.limits = limits
        self.window = window
        self.cooldown = cooldown
        self.growth = growth
        self.shrink = shrink
        self.calibration_epochs = calibration_epochs
        self.tolerance = tolerance
        self.min_calm_signals = min_calm_signals
        self.spike = spike
        self.window_mode = window_mode
        self._num_seen = 0
        self._since_change = 0
        self._previous_loss: float | None = None
        self._calibration: list[dict[str, float | None]] = []
        self._recent: list[dict[str, float | None]] = []

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Limit of each signal below which it is calm; None while they are being measured."""
        if len(self._calibration) < self.calibration_epochs:
            return None
        return {
            name: self.tolerance * _known(self._calibration, name, np.median) for name in SIGNALS
        }

    def step(self, record: EpochRecord) -> Decision:
        """Decide after `record`, which must be the epoch after the one seen last."""
        signals = {name: getattr(record, name) for name in SIGNALS}
        loss_rose = self._previous_loss is not None and record.loss > self._previous_loss
        self._previous_loss = record.loss
        self._num_seen += 1
        self._since_change += 1
        self._recent = [*self._recent, signals][-self.window :]
        if self._num_seen <= self.calibration_epochs:
            self._calibration.append(signals)
            reason = f"measuring thresholds, epoch {self._num_seen} of {self.calibration_epochs}"
            return _hold(record, reason)
        if self._since_change < self.cooldown:
            left = self.cooldown - self._since_change
            return _hold(record, f"cooldown, {left} more epoch{'s' if left > 1 else ''}")
        return self._decide(record, signals, loss_rose)

    def _decide(
        self, record: EpochRecord, signals: Mapping[str, float | None], loss_rose: bool
    ) -> Decision:
        thresholds = self.thresholds
        assert thresholds is not None
        variation = signals["grad_norm_variation"] or 0.0
        limit = self.spike * thresholds["grad_norm_variation"]
        if loss_rose and variation > limit:
            return self._change(
                record,
                self.shrink,
                f"norm variation {variation:.3g} above {limit:.3g} while the loss rose",
            )
        means = {name: _known(self._recent, name, np.mean) for name in SIGNALS}
        calm = [name for name in SIGNALS if means[name] <= thresholds[name]]
        told = ", ".join(
            f"{_WORDS[n]} {means[n]:.3g} {'<=' if n in calm else '>'} {thresholds[n]:.3g}"
            for n in SIGNALS
        )
        reason = f"{len(calm)} of {len(SIGNALS)} signals calm: {told}"
        if len(calm) >= self.min_calm_signals:
            return self._change(record, self.growth, reason)
        return _hold(record, reason)

    def _change(self, record: EpochRecord, factor: float, reason: str) -> Decision:
        size = self.limits.scaled(record.batch_size, factor)
        if size == record.batch_size:
            bound = "largest" if factor > 1 else "smallest"
            return _hold(record, f"already at the {bound} batch; {reason}")
        self._since_change = 0
        if self.window_mode == "restart":
            self._recent = []
        return Decision(
            action="increase" if factor > 1 else "rollback", batch_size=size, reason=reason
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_seen": self._num_seen,
            "since_change": self._since_change,
            "previous_loss": self._previous_loss,
            "calibration": list(self._calibration),
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._num_seen = state["num_seen"]
        self._since_change = state["since_change"]
        self._previous_loss = state["previous_loss"]
        self._calibration = list(state["calibration"])
        self._recent = list(state["recent"])


def _hold(record: EpochRecord, reason: str) -> Decision:
    return Decision(action="hold", batch_size=record.batch_size, reason=reason)


def _known(
    window: list[dict[str, float | None]], name: str, average: Callable[[list[float]], Any]
) -> float:
    """An average of a signal over the epochs that have it (a first epoch has no variation)."""
    values = [value for epoch in window if (value := epoch[name]) is not None]
    return float(average(values)) if values else 0.0
