"""DEBA: grow the batch while the gradients are calm (Belias et al., arXiv 2511.03809).

The paper's text is not at hand. Its abstract and reviews give the three signals, the 15-epoch
sliding window, the factors ×1.5 and ×0.8, the bounds 16–2048 and a cooldown of 5 or more epochs;
everything else is *our reading*. Each open choice is a parameter, and `READINGS` names complete
sets of them:

- *thresholds* are a quantile of each signal over the first `calibration_epochs` at the initial
  batch (the first epoch, a transient, has no variation), times `tolerance`; or given outright,
  such as those of a whole fixed-batch profile;
- *increase* when the window means of at least `min_calm_signals` signals are at or below their
  thresholds; *rollback* when the norm variation spikes, as `rollback` says; else *hold*;
- a rollback may or may not pass below the initial batch (`floor`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stability_probe.errors import UsageError
from stability_probe.metrics import expected_sq_norm, relative_change
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import EpochRecord, Evidence, NoiseScaleRecord
from stability_probe.schedulers.base import Proposal, hold

SIGNALS = ("grad_component_variance", "grad_norm_variation", "loss_variation")
_WORDS = dict(zip(SIGNALS, ("gradient variance", "norm variation", "loss variation"), strict=True))
_CHOICES = {
    "signal": ("mean", "last"),
    "rollback": ("spike_and_loss", "spike", "never"),
    "floor": ("initial", "minimum"),
    "window_mode": ("carry", "restart", "rescale"),
}

READINGS: dict[str, dict[str, Any]] = {
    "mild": {},
    "literal": {"signal": "last", "rollback": "spike", "spike": 1.0, "floor": "minimum"},
    "strict": {"min_calm_signals": 3, "rollback": "spike", "spike": 2.0, "floor": "minimum"},
    "eager": {"min_calm_signals": 1, "spike": 3.0},
}
"""Complete readings of what the paper's abstract leaves open; an argument overrides its part.

mild: epoch means, two of three signals calm, rollback only when the loss rose too.
literal: the last mini-batch's gradient, rollback on any variation above its threshold, down to 16.
strict: epoch means, all three signals calm, rollback on any spike, down to 16.
eager: epoch means, one calm signal is enough, rollback on a threefold spike with risen loss.
"""


class Deba:
    """Grows the batch while the gradients are calm, rolls back when they spike.

    One reading of DEBA: by itself `mild`, while a run that names none takes
    `config.DEFAULT_READING`; `make_scheduler` knows all by name. Raises `UsageError` for parameters
    that cannot work.

    window: epochs in the sliding window (paper: 15); None keeps the full history.
    growth, shrink: factors of increase and rollback (paper: 1.5, 0.8).
    calibration_epochs: first epochs whose signals set the thresholds (ours).
    threshold_quantile: of the calibration epochs; 0.5 is their median (ours).
    tolerance: thresholds are this times that quantile (ours).
    thresholds: limits by signal, in place of calibration; see `thresholds_of`.
    min_calm_signals: how many of the three signals must be calm (ours).
    signal: "mean" of the epoch, or "last" mini-batch's gradient (ours; the paper may mean either).
    rollback: "spike", "spike_and_loss" (the loss rose too) or "never" (ours).
    spike: rollback when the norm variation exceeds this times its threshold (ours).
    floor: a rollback stops at the "initial" batch or at the "minimum", 16 (ours).
    window_mode: "carry" keeps the window over a change of batch (paper); "restart" empties it,
        since the gradient's variance falls by itself when the batch grows; "rescale" brings
        variance and norm to the initial batch by E‖g_B‖² = ‖G‖² + tr Σ / B, the noise measured
        at the end of the probe's window.
    """

    cooldown = 5

    def __init__(
        self,
        *,
        window: int | None = 15,
        growth: float = 1.5,
        shrink: float = 0.8,
        calibration_epochs: int = 4,
        threshold_quantile: float = 0.5,
        tolerance: float = 1.0,
        thresholds: Mapping[str, float] | None = None,
        min_calm_signals: int = 2,
        signal: str = "mean",
        rollback: str = "spike_and_loss",
        spike: float = 2.0,
        floor: str = "initial",
        window_mode: str = "carry",
    ) -> None:
        self.window = window
        self.growth = growth
        self.shrink = shrink
        self.calibration_epochs = calibration_epochs
        self.threshold_quantile = threshold_quantile
        self.tolerance = tolerance
        self.min_calm_signals = min_calm_signals
        self.signal = signal
        self.rollback = rollback
        self.spike = spike
        self.floor = floor
        self.window_mode = window_mode
        self._given = thresholds
        self._check()
        self._measured: dict[str, float] | None = None
        self._initial_batch: int | None = None
        self._noise: NoiseScaleRecord | None = None
        self._previous: dict[str, float] | None = None
        self._calibration: list[dict[str, float | None]] = []
        self._recent: list[dict[str, float | None]] = []

    def _check(self) -> None:
        if self.window is not None and (type(self.window) is not int or self.window < 1):
            raise UsageError(f"deba window is {self.window!r}; use 1 or more, or null for all")
        if type(self.calibration_epochs) is not int or self.calibration_epochs < 2:
            raise UsageError("deba needs calibration_epochs >= 2, a whole number")
        if not (self.growth > 1 and 0 < self.shrink < 1 and self.tolerance > 0 and self.spike > 0):
            raise UsageError("deba needs growth > 1, 0 < shrink < 1, tolerance > 0 and spike > 0")
        if not 0 <= self.threshold_quantile <= 1:
            raise UsageError("deba needs threshold_quantile from 0 to 1")
        if self.min_calm_signals not in range(1, len(SIGNALS) + 1):
            raise UsageError(f"deba needs min_calm_signals from 1 to {len(SIGNALS)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise UsageError(f"deba {name} is {given!r}; use {' or '.join(allowed)}")
        if self._given is not None and not (
            isinstance(self._given, Mapping)
            and set(self._given) == set(SIGNALS)
            and all(type(limit) in (int, float) for limit in self._given.values())
        ):
            raise UsageError(f"deba thresholds need a number for each of {', '.join(SIGNALS)}")

    @property
    def thresholds(self) -> Mapping[str, float] | None:
        """Limit of each signal below which it is calm; None while they are being measured."""
        if self._given is not None:
            return self._given
        if self._measured is None and len(self._calibration) >= self.calibration_epochs:
            self._measured = _quantiles(self._calibration, self.threshold_quantile, self.tolerance)
        return self._measured

    def propose(self, record: EpochRecord) -> Proposal:
        """What DEBA wants after `record`, which must be the epoch after the one seen last."""
        self._noise = self._noise or record.noise
        self._initial_batch = self._initial_batch or record.batch_size
        signals, loss_rose = self._signals(record)
        whole = self._recent if self.window is None else self._recent[-self.window + 1 :]
        self._recent = [*(whole if self.window != 1 else []), signals]
        thresholds = self.thresholds
        if thresholds is None:
            self._calibration.append(signals)
            done = f"{len(self._calibration)} of {self.calibration_epochs}"
            return hold(record, f"measuring thresholds, epoch {done}", *_evidence(signals, {}))
        if self.window_mode == "rescale" and self._noise is None:
            return hold(record, "waiting for the noise scale")
        return self._decide(record, signals, thresholds, loss_rose)

    def _signals(self, record: EpochRecord) -> tuple[dict[str, float | None], bool]:
        """The three signals of an epoch, as the reading takes them, and whether the loss rose."""
        previous = self._previous
        norm, variance = record.grad_norm, record.grad_component_variance
        variation = record.grad_norm_variation
        if self.signal == "last":
            norm = record.grad_norm_last
            last = record.grad_component_variance_last
            variance = variance if last is None else last
        if self.window_mode == "rescale":
            ratio = self._sq_norm_ratio(record.batch_size)
            norm, variance = norm * ratio**0.5, variance * ratio
        if previous is not None and (self.signal == "last" or self.window_mode == "rescale"):
            variation = relative_change(norm, previous["norm"])
        changed = previous is not None and previous["batch_size"] != record.batch_size
        if changed and self.window_mode == "restart":
            self._recent = []
        self._previous = {"batch_size": record.batch_size, "loss": record.loss, "norm": norm}
        signals = {
            "grad_component_variance": variance,
            "grad_norm_variation": variation,
            "loss_variation": record.loss_variation,
        }
        return signals, previous is not None and record.loss > previous["loss"]

    def _sq_norm_ratio(self, batch_size: int) -> float:
        """Expected ‖g‖² at the initial batch over that at `batch_size`."""
        if batch_size == self._initial_batch or self._noise is None or not self._initial_batch:
            return 1.0
        signal, noise = max(0.0, self._noise.grad_sq_norm), max(0.0, self._noise.trace_sigma)
        here = expected_sq_norm(signal, noise, batch_size)
        return expected_sq_norm(signal, noise, self._initial_batch) / here if here else 1.0

    def _decide(
        self,
        record: EpochRecord,
        signals: Mapping[str, float | None],
        thresholds: Mapping[str, float],
        loss_rose: bool,
    ) -> Proposal:
        variation = signals["grad_norm_variation"] or 0.0
        limit = self.spike * thresholds["grad_norm_variation"]
        spiked = variation > limit and (loss_rose or self.rollback == "spike")
        if spiked and self.rollback != "never":
            told = " while the loss rose" if self.rollback == "spike_and_loss" else ""
            return Proposal(
                batch_size=record.batch_size * self.shrink,
                reason=f"norm variation {variation:.3g} above {limit:.3g}{told}",
                evidence=(Evidence(name="norm variation", value=variation, threshold=limit),),
            )
        means = {name: _mean(self._recent, name) for name in SIGNALS}
        calm = [name for name in SIGNALS if means[name] <= thresholds[name]]
        told = ", ".join(
            f"{_WORDS[n]} {means[n]:.3g} {'<=' if n in calm else '>'} {thresholds[n]:.3g}"
            for n in SIGNALS
        )
        reason = f"{len(calm)} of {len(SIGNALS)} signals calm: {told}"
        grows = len(calm) >= self.min_calm_signals
        return Proposal(
            batch_size=record.batch_size * (self.growth if grows else 1),
            reason=reason,
            evidence=_evidence(means, thresholds),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "initial_batch": self._initial_batch,
            "noise": None if self._noise is None else to_plain(self._noise),
            "previous": self._previous,
            "calibration": list(self._calibration),
            "recent": list(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        noise = state["noise"]
        self._initial_batch = state["initial_batch"]
        self._noise = None if noise is None else from_plain(NoiseScaleRecord, noise)
        self._previous = state["previous"]
        self._calibration = list(state["calibration"])
        self._measured = None
        self._recent = list(state["recent"])


def thresholds_of(profile: Sequence[EpochRecord], **arguments: Any) -> dict[str, float]:
    """Thresholds from a whole fixed-batch profile, as the paper calibrates them, of the signals
    that `Deba(**arguments)` looks at."""
    rule = Deba(**arguments)
    signals = [rule._signals(epoch)[0] for epoch in profile]
    return _quantiles(signals, rule.threshold_quantile, rule.tolerance)


def _quantiles(
    epochs: Sequence[Mapping[str, float | None]], quantile: float, tolerance: float
) -> dict[str, float]:
    limits = {}
    for name in SIGNALS:
        known = [value for epoch in epochs if (value := epoch[name]) is not None]
        limits[name] = tolerance * float(np.quantile(known, quantile)) if known else 0.0
    return limits


def _mean(window: Sequence[Mapping[str, float | None]], name: str) -> float:
    """Over the epochs that have the signal (a first epoch has no variation)."""
    known = [value for epoch in window if (value := epoch[name]) is not None]
    # Not numpy's, which takes ten times as long for a dozen numbers.
    return math.fsum(known) / len(known) if known else 0.0


def _evidence(
    values: Mapping[str, float | None], limits: Mapping[str, float]
) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(name=_WORDS[n], value=values[n], threshold=limits.get(n)) for n in SIGNALS
    )
