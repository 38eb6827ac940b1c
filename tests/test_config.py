"""What a run is: which values it refuses, and what decides its names."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stability_probe.config import (
    CHOICES,
    RunConfig,
    checked_seeds,
    run_ids,
    step_id,
    with_memory_format,
)
from stability_probe.errors import UsageError

BASE = RunConfig(model="resnet10t", max_batch_size=256)


def other(**fields: Any) -> RunConfig:
    return dataclasses.replace(BASE, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; use one of sgd, adamw"),
        ({"batch_size": 0}, "batch_size is 0; use a whole number of at least 1"),
        ({"batch_size": 16.0}, "batch_size is 16.0; use a whole number"),
        ({"epochs": True}, "epochs is True; use a whole number"),
        ({"epochs": 1_000_001}, "epochs is 1000001; use 1000000 or less"),
        ({"limit": 0}, "limit is 0; use a whole number of at least 1"),
        ({"seed": -1}, "seed is -1; use a whole number of at least 0"),
        ({"order_seed": 2**63}, "order_seed is 9223372036854775808; use 9223372036854775807 or"),
        ({"model": ""}, "model is ''; use a name"),
        ({"lr": 0}, "lr is 0; use a positive number"),
        ({"lr": float("inf")}, "lr is inf; use a positive number"),
        ({"lr": float("nan")}, "lr is nan; use a positive number"),
        ({"momentum": -0.1}, "momentum is -0.1; use a number of at least 0"),
        ({"weight_decay": "a"}, "weight_decay is 'a'; use a number of at least 0"),
        ({"compile": 1}, "compile is 1; use true or false"),
        ({"scheduler_args": []}, "scheduler_args must be a table"),
        ({"scheduler_args": {"a": float("nan")}}, "scheduler_args cannot be stored"),
        ({"scheduler_args": {"a": object()}}, "cannot be stored .object is no plain value"),
        ({"epochs": 3}, "the window of 4 epochs is longer than the run of 3; use --window 3"),
        ({"max_batch_size": 8}, "the largest batch 8 is below the initial batch 16"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_with_what_to_use(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        other(**fields)


@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["resnet10t", "torchvision:vgg11", "my.nets:make"]),
            "batch_size": st.integers(1, 64),
            "epochs": st.integers(4, 200),
            "lr": st.floats(1e-6, 10.0),
            "order_seed": st.none() | st.integers(0, 2**63 - 1),
            "compile": st.booleans(),
            "scheduler": st.sampled_from(["fixed", "deba", "timed"]),
            "scheduler_args": st.dictionaries(
                st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(st.booleans())
            ),
            **{name: st.sampled_from(allowed) for name, allowed in CHOICES.items()},
        }
    )
)
def test_a_config_that_was_stored_is_the_same_run(fields: dict[str, Any]) -> None:
    config = RunConfig(**fields)
    stored = RunConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False)))
    assert stored == config
    assert stored.run_id() == config.run_id()


def test_what_a_stored_config_lacks_is_its_default_and_what_is_new_is_refused() -> None:
    assert RunConfig.from_dict({"model": "resnet10t", "max_batch_size": 256}) == BASE
    with pytest.raises(UsageError, match="no model is named"):
        RunConfig.from_dict({"lr": 0.1})
    with pytest.raises(UsageError, match="unknown setting 'rate'; use one of batch_size"):
        RunConfig.from_dict({"model": "resnet10t", "rate": 0.1})


def test_a_run_is_found_however_its_memory_format_was_asked_for() -> None:
    ids = run_ids(BASE)
    assert len(ids) == 3
    for name in ("channels_last", "contiguous", "contiguous_format"):
        assert with_memory_format(BASE, name).run_id() in ids
    assert other(seed=1).run_id() not in ids


def test_runs_that_step_alike_share_a_curve() -> None:
    same = [
        other(seed=1),
        other(epochs=9),
        other(lr=0.1),
        other(scheduler="timed"),
        other(data="fashion-mnist"),
        other(limit=500),
    ]
    assert {step_id(config) for config in same} == {step_id(BASE)}
    apart = [
        other(batch_size=32),
        other(max_batch_size=128),
        other(img_size=64),
        other(device="cpu"),
        other(precision="bfloat16"),
        other(optimizer="adamw"),
        other(channels_last="on"),
        other(compile=True),
        other(limit=200),  # which is less than the largest batch
        other(max_batch_size=None),  # which the data decide then
        other(data="mine.data:make"),  # whose images may be of any size
    ]
    assert len({step_id(BASE), *map(step_id, apart)}) == 1 + len(apart)


def test_the_largest_batch_of_a_curve_follows_from_the_data_where_none_is_given() -> None:
    assert step_id(other(max_batch_size=None)) != step_id(
        other(max_batch_size=None, data="fashion-mnist")
    )


def test_a_bound_that_a_small_data_set_cuts_keeps_curves_of_two_data_sets_apart() -> None:
    large = other(max_batch_size=2048)  # digits have 1437 training samples
    assert step_id(large) != step_id(dataclasses.replace(large, data="fashion-mnist"))


def test_seeds_are_a_list_of_different_numbers() -> None:
    assert checked_seeds(iter([2, 0])) == (2, 0)
    for seeds, words in (([], "no seed"), ([1, 0, 1], "seed 1 is given twice"), (3, "use a list")):
        with pytest.raises(UsageError, match=words):
            checked_seeds(seeds)  # type: ignore[arg-type]


def test_the_last_epoch_is_that_of_the_run_or_of_its_window() -> None:
    assert [other(max_epochs=n).last_epoch for n in (None, 4, 500)] == [100, 4, 100]
    assert [other(seed=3, order_seed=n).stream_seed for n in (None, 0)] == [3, 0]
