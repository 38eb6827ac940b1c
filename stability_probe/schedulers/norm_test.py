"""The norm test: grow when the gradient's variance is large (Byrd et al., 2012).

R. Byrd, G. Chin, J. Nocedal, Y. Wu, "Sample size selection in optimization methods for machine
learning", Math. Program. 134 (2012), eq. 3.9 and 3.12.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord, Evidence
from stability_probe.schedulers.base import Proposal, hold
from stability_probe.schedulers.noise_scale import SmoothedNoise


class NormTest:
    """The test holds while tr Σ / B <= θ² ‖G‖²; where it fails, B = tr Σ / (θ² ‖G‖²) is wanted.

    It never shrinks the batch. theta: 0.9 as in Bollapragada, Byrd and Nocedal (arXiv
    1710.11258). every, smoothing: as in `NoiseScale`; an undefined ‖G‖² leaves the batch alone.
    Raises `UsageError` for parameters that cannot work.
    """

    cooldown = 0

    def __init__(self, *, theta: float = 0.9, every: int = 2, smoothing: float = 0.5) -> None:
        if not 1e-6 <= theta <= 1e6 or not isinstance(every, int) or every < 1:
            raise UsageError(
                "norm_test needs theta from 1e-6 to 1e6 and every >= 1, a whole number of epochs"
            )
        self.theta = theta
        self.noise_every = every
        self._noise = SmoothedNoise(smoothing)

    def propose(self, record: EpochRecord) -> Proposal:
        if record.noise is None:
            return hold(record, "variance not measured in this epoch")
        self._noise.add(record.noise)
        trace, sq_norm = self._noise.trace_sigma, self._noise.grad_sq_norm
        assert trace is not None
        assert sq_norm is not None
        if sq_norm <= 0:
            return hold(record, "norm test undefined: the gradient drowns in its noise")
        variance, allowed = trace / record.batch_size, self.theta**2 * sq_norm
        evidence = Evidence(name="variance of the mean", value=variance, threshold=allowed)
        if variance <= allowed:
            reason = f"norm test holds: variance {variance:.3g} <= {allowed:.3g}"
            return hold(record, reason, evidence)
        return Proposal(
            batch_size=trace / allowed if allowed else math.inf,
            reason=f"norm test fails: variance {variance:.3g} > {allowed:.3g}",
            evidence=(evidence,),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"noise": self._noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._noise.load_state_dict(state["noise"])
