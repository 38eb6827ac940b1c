"""Hand-made records for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stability_probe.records import EpochRecord, ThroughputCurve, ThroughputPoint

_EPOCH = EpochRecord(
    epoch=1,
    batch_size=16,
    micro_batch_size=16,
    lr=0.01,
    updates=10,
    samples=160,
    loss=1.0,
    grad_norm=1.0,
    grad_norm_sem=0.1,
    grad_norm_last=1.0,
    grad_component_variance=1e-4,
    num_measured_steps=10,
    grad_norm_variation=0.1,
    loss_variation=0.1,
    test_loss=1.0,
    test_accuracy=0.5,
    time_s=2.0,
    cpu_s=2.0,
    next_batch_size=16,
)


def make_epoch(**fields: Any) -> EpochRecord:
    """An epoch record with everything set that a test does not care for."""
    return dataclasses.replace(_EPOCH, **fields)


def make_curve(sizes: Sequence[int], speeds: Sequence[float]) -> ThroughputCurve:
    """A throughput curve through the given points."""
    return ThroughputCurve(
        points=tuple(
            ThroughputPoint(batch_size=b, samples_per_s=s, spread=0.01)
            for b, s in zip(sizes, speeds, strict=True)
        ),
        memory_format="contiguous",
        memory_format_reason="as asked",
        busy=False,
    )
