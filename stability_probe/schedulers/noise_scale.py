"""The batch follows the gradient noise scale (McCandlish et al., arXiv 1812.06162)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.metrics import noise_over_signal
from stability_probe.records import EpochRecord, Evidence, NoiseScaleRecord
from stability_probe.schedulers.base import Proposal, hold


class SmoothedNoise:
    """tr Σ and ‖G‖², smoothed apart and divided last, since their ratio has heavy tails.

    Exponential moving averages with the bias towards zero taken out. Raises `UsageError` for
    `decay` outside [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"smoothing is {decay!r}; use a number from 0 to below 1")
        self._decay = decay
        self._trace_sigma = self._grad_sq_norm = self._weight = 0.0

    def add(self, noise: NoiseScaleRecord) -> None:
        new = 1 - self._decay
        self._trace_sigma += new * (noise.trace_sigma - self._trace_sigma)
        self._grad_sq_norm += new * (noise.grad_sq_norm - self._grad_sq_norm)
        self._weight += new * (1 - self._weight)

    @property
    def trace_sigma(self) -> float | None:
        """Of one sample; None before the first measurement."""
        return self._trace_sigma / self._weight if self._weight else None

    @property
    def grad_sq_norm(self) -> float | None:
        """‖G‖²; zero or less means it drowned in the noise."""
        return self._grad_sq_norm / self._weight if self._weight else None

    @property
    def noise_scale(self) -> float | None:
        """tr Σ / ‖G‖² in samples; None where undefined."""
        if self.trace_sigma is None or self.grad_sq_norm is None:
            return None
        return noise_over_signal(self.trace_sigma, self.grad_sq_norm)

    def state_dict(self) -> dict[str, float]:
        return {"t": self._trace_sigma, "g": self._grad_sq_norm, "w": self._weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._trace_sigma, self._grad_sq_norm = state["t"], state["g"]
        self._weight = state["w"]


class NoiseScale:
    """Wants `multiple` times the smoothed noise scale, up or down.

    every: epochs between measurements, which are on the training clock.
    smoothing: decay of the moving averages of tr Σ and ‖G‖².
    deadband: a wanted batch within this share of the present one is no change.
    Raises `UsageError` for parameters that cannot work.
    """

    cooldown = 0

    def __init__(
        self,
        *,
        every: int = 2,
        smoothing: float = 0.5,
        multiple: float = 1.0,
        deadband: float = 0.2,
    ) -> None:
        if not isinstance(every, int) or every < 1 or not multiple > 0 or not deadband >= 0:
            raise UsageError("noise_scale needs every >= 1, multiple > 0 and deadband >= 0")
        self.noise_every = every
        self.multiple = multiple
        self.deadband = deadband
        self._noise = SmoothedNoise(smoothing)

    def propose(self, record: EpochRecord) -> Proposal:
        if record.noise is None:
            return hold(record, "noise scale not measured in this epoch")
        self._noise.add(record.noise)
        scale = self._noise.noise_scale
        if scale is None:
            return hold(record, "noise scale undefined: the gradient drowns in its noise")
        wanted = self.multiple * scale
        evidence = Evidence(name="smoothed noise scale", value=scale, threshold=None)
        if abs(wanted - record.batch_size) <= self.deadband * record.batch_size:
            return hold(record, f"batch is near the noise scale {scale:.0f}", evidence)
        reason = f"noise scale {scale:.0f} samples"
        return Proposal(batch_size=wanted, reason=reason, evidence=(evidence,))

    def state_dict(self) -> dict[str, Any]:
        return {"noise": self._noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._noise.load_state_dict(state["noise"])
