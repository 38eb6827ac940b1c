"""Records as JSON-ready values, and back: of the right types, and such as a measurement gives.

A stored file may be of another version, damaged, or made by hand. What is read here is what the
rest of the package may rely on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.records import Characterization, RunResult, Study, ThroughputCurve

T = TypeVar("T")
_ABOVE_ZERO = frozenset(
    {
        *("epoch", "batch_size", "micro_batch_size", "samples_per_s"),
        *("num_train", "num_test", "num_params", "num_tensors"),
    }
)
_AT_LEAST_ZERO = frozenset(
    {
        *(
            "lr",
            "updates",
            "samples",
            "num_measured_steps",
            "num_macs",
            "num_samples",
        ),
        *("grad_norm", "grad_norm_sem", "grad_norm_last", "grad_component_variance"),
        *("grad_norm_variation", "loss_variation", "test_accuracy", "spread", "cooldown_left"),
        *("time_s", "cpu_s", "eval_s", "compile_s", "probe_s", "std", "peak_memory_bytes"),
        *("next_batch_size", "num_norm_layers", "noise_scale"),
    }
)


def to_plain(record: Any) -> Any:
    """Any record, or a collection of them, as JSON-ready dicts and lists."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_plain(value) for value in record]
    return record


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Inverse of `to_plain` for one record class.

    Raises `TypeError` when a field is missing, unknown, of another type, or holds what no
    measurement gives.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} is no table of names and values")
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - names)
    if unknown:
        raise TypeError(f"unknown field {unknown[0]!r}")
    try:
        record = msgspec.convert(values, kind)
    except (msgspec.ValidationError, UsageError) as error:
        raise TypeError(str(error)) from None
    for fault in _faults(record):
        raise TypeError(fault)
    return _with_whole_config(record)


def _with_whole_config(record: T) -> T:
    """The record, with every setting that an earlier version did not know at its default."""
    if not isinstance(record, (Characterization, RunResult, Study)):
        return record
    try:
        whole = RunConfig.from_dict(record.config).to_dict()
    except UsageError as error:
        raise TypeError(str(error)) from None
    return dataclasses.replace(record, config=whole)


def _faults(value: Any, name: str = "") -> Iterator[str]:
    """What no measurement gives, in a record and all that it holds."""
    if isinstance(value, tuple):
        for item in value:
            yield from _faults(item, name)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _faults(getattr(value, field.name), field.name)
        if isinstance(value, Characterization):
            yield from _probe_faults(value)
        elif isinstance(value, ThroughputCurve):
            sizes = [p.batch_size for p in value.points]
            if not sizes:
                yield "its throughput curve must have a point"
            if sizes != sorted(set(sizes)):
                yield f"batch sizes of the throughput curve are {sizes}; they must rise"
    elif isinstance(value, (int, float)):
        if name in _ABOVE_ZERO and value <= 0:
            yield f"{name} is {value}; it must be above 0"
        if name in _AT_LEAST_ZERO and value < 0:
            yield f"{name} is {value}; it must be at least 0"


def _probe_faults(c: Characterization) -> Iterator[str]:
    if not len(c.seeds) == len(c.windows) == len(c.metrics) > 0:
        yield "it must hold one window and its metrics for each seed"
    if any(len(window) < 2 for window in c.windows):
        yield "a window must have at least 2 epochs"
