"""Schedules on hand-made records: no model needed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stability_probe.config import RunConfig, default_max_batch_size
from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers import Deba, Decision, Fixed, Limits, make_scheduler
from stability_probe.schedulers.base import GRID
from tests.factories import make_epoch

LIMITS = Limits(minimum=16, maximum=256)
START = {"grad_component_variance": 1e-4, "grad_norm_variation": 0.1, "loss_variation": 0.1}
CALM = {"grad_component_variance": 5e-5, "grad_norm_variation": 0.05, "loss_variation": 0.05}
ROUGH = {"grad_component_variance": 1e-2, "grad_norm_variation": 0.15, "loss_variation": 0.5}


def drive(
    scheduler: Deba, signals: list[dict[str, float]], losses: list[float] | None = None
) -> list[Decision]:
    """Feed epochs as the loop does: each decision sets the next epoch's batch."""
    decisions, batch_size = [], 16
    for index, values in enumerate(signals):
        loss = losses[index] if losses else 1.0 / (index + 1)
        record = make_epoch(epoch=index + 1, batch_size=batch_size, loss=loss, **values)
        decisions.append(scheduler.step(record))
        batch_size = decisions[-1].batch_size
    return decisions


def test_growth_by_one_and_a_half_on_the_grid_up_to_the_bound() -> None:
    sizes, size = [], 16
    while size < 256:
        size = LIMITS.scaled(size, 1.5)
        sizes.append(size)
    assert sizes == [24, 40, 64, 96, 144, 216, 256]


@given(st.integers(1, 4096), st.sampled_from([0.8, 0.5, 0.99, 1.01, 1.5, 2.0]))
def test_a_scaled_batch_moves_the_right_way_and_stays_on_the_grid(size: int, factor: float) -> None:
    limits = Limits(minimum=8, maximum=8192)
    scaled = limits.scaled(size, factor)
    assert 8 <= scaled <= 8192
    assert scaled % GRID == 0
    assert scaled > size if factor > 1 else scaled < size or scaled == 8


@given(st.integers(16, 256), st.floats(0.1, 10.0))
def test_a_scaled_batch_never_leaves_its_bounds(size: int, factor: float) -> None:
    assert 16 <= LIMITS.scaled(size, factor) <= 256


def test_calm_grows_after_calibration_and_cooldown_only() -> None:
    decisions = drive(Deba(LIMITS, calibration_epochs=4, cooldown=5), [START] * 4 + [CALM] * 12)
    changed = [i + 1 for i, d in enumerate(decisions) if d.action == "increase"]
    assert changed == [5, 10, 15]
    assert [d.batch_size for d in decisions][-1] == 64
    assert "measuring thresholds, epoch 1 of 4" in decisions[0].reason
    assert decisions[5].reason == "cooldown, 4 more epochs"
    assert decisions[8].reason == "cooldown, 1 more epoch"


def test_thresholds_are_the_calibration_median_times_the_tolerance() -> None:
    deba = Deba(LIMITS, calibration_epochs=3, tolerance=2.0)
    assert deba.thresholds is None
    for epoch, variance in enumerate([9e-4, 1e-4, 2e-4], start=1):
        deba.step(make_epoch(epoch=epoch, grad_component_variance=variance))
    assert deba.thresholds is not None
    assert deba.thresholds["grad_component_variance"] == pytest.approx(4e-4)


def test_a_missing_first_variation_does_not_count() -> None:
    deba = Deba(LIMITS, calibration_epochs=2)
    deba.step(make_epoch(epoch=1, grad_norm_variation=None))
    deba.step(make_epoch(epoch=2, grad_norm_variation=0.3))
    assert deba.thresholds is not None
    assert deba.thresholds["grad_norm_variation"] == pytest.approx(0.3)


def test_rough_signals_hold_and_say_so() -> None:
    decisions = drive(Deba(LIMITS, window=1), [START] * 4 + [ROUGH] * 8)
    assert {d.action for d in decisions} == {"hold"}
    assert decisions[-1].reason.startswith("0 of 3 signals calm")
    assert "gradient variance 0.01 > 0.0001" in decisions[-1].reason


@pytest.mark.parametrize(("needed", "action"), [(1, "increase"), (2, "hold")])
def test_min_calm_signals_counts(needed: int, action: str) -> None:
    one_calm = {**ROUGH, "loss_variation": 0.05}
    deba = Deba(LIMITS, window=1, min_calm_signals=needed)
    assert drive(deba, [START] * 4 + [one_calm])[-1].action == action


def test_a_spike_rolls_back_only_while_the_loss_rises() -> None:
    spike = {**CALM, "grad_norm_variation": 0.5}
    signals = [START] * 4 + [CALM] * 10 + [spike]
    falling = [1.0 / (i + 1) for i in range(15)]
    rising = [*falling[:14], 9.0]
    assert drive(Deba(LIMITS), signals, rising)[-1].action == "rollback"
    assert drive(Deba(LIMITS), signals, falling)[-1].action == "increase"
    decision = drive(Deba(LIMITS), signals, rising)[-1]
    assert decision.batch_size == 32  # 0.8 x 40
    assert "while the loss rose" in decision.reason


def test_never_below_the_initial_batch() -> None:
    spike = {**CALM, "grad_norm_variation": 0.5}
    decision = drive(Deba(LIMITS), [START] * 4 + [spike], [1.0] * 4 + [2.0])[-1]
    assert (decision.action, decision.batch_size) == ("hold", 16)
    assert "already at the smallest batch" in decision.reason


def test_at_the_largest_batch_it_holds_and_starts_no_cooldown() -> None:
    deba = Deba(Limits(minimum=16, maximum=16))
    assert "already at the largest batch" in drive(deba, [START] * 4 + [CALM])[-1].reason
    assert "already at the largest batch" in deba.step(make_epoch(epoch=6, **CALM)).reason


def test_the_window_slides() -> None:
    """Rough epochs hold the batch until they have left the window."""
    signals = [START] * 4 + [ROUGH] * 3 + [CALM] * 6
    narrow = drive(Deba(LIMITS, window=3, cooldown=0), signals)
    wide = drive(Deba(LIMITS, window=15, cooldown=0), signals)
    assert narrow[9].action == "increase"
    assert {d.action for d in wide[4:]} == {"hold"}


@pytest.mark.parametrize(("mode", "kept"), [("carry", 5), ("restart", 0)])
def test_restart_forgets_the_window_at_a_change_and_carry_keeps_it(mode: str, kept: int) -> None:
    deba = Deba(LIMITS, window_mode=mode)
    assert drive(deba, [START] * 4 + [CALM])[-1].action == "increase"
    assert len(deba.state_dict()["recent"]) == kept


def test_restart_and_carry_decide_differently() -> None:
    """Calm epochs before a change vouch for a rougher one after it only when carried over."""
    rougher = {name: 1.2 * value for name, value in START.items()}
    actions = {
        mode: drive(Deba(LIMITS, cooldown=1, window_mode=mode), [START] * 4 + [CALM, rougher])[-1]
        for mode in ("carry", "restart")
    }
    assert actions["carry"].action == "increase"
    assert actions["restart"].action == "hold"


signal = st.fixed_dictionaries(
    {
        "grad_component_variance": st.floats(1e-8, 1.0),
        "grad_norm_variation": st.floats(0.0, 2.0),
        "loss_variation": st.floats(0.0, 2.0),
    }
)


@given(st.lists(signal, min_size=2, max_size=40), st.data())
def test_a_restored_schedule_goes_on_as_if_never_stopped(
    signals: list[dict[str, float]], data: Any
) -> None:
    losses = [data.draw(st.floats(0.1, 3.0)) for _ in signals]
    cut = data.draw(st.integers(1, len(signals) - 1))
    whole = Deba(LIMITS)
    first = Deba(LIMITS)
    records: list[EpochRecord] = []
    expected, size = [], 16
    for index, (values, loss) in enumerate(zip(signals, losses, strict=True)):
        record = make_epoch(epoch=index + 1, batch_size=size, loss=loss, **values)
        records.append(record)
        expected.append(whole.step(record))
        size = expected[-1].batch_size
    for record in records[:cut]:
        first.step(record)
    second = Deba(LIMITS)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.step(r) for r in records[cut:]] == expected[cut:]
    for earlier, later in zip([16, *[d.batch_size for d in expected]], expected, strict=False):
        ratio = later.batch_size / earlier
        assert ratio > 1 if later.action == "increase" else True
        assert ratio < 1 if later.action == "rollback" else True
        assert ratio == 1 if later.action == "hold" else True


@given(st.lists(signal, min_size=20, max_size=60))
def test_changes_keep_the_cooldown(signals: list[dict[str, float]]) -> None:
    decisions = drive(Deba(LIMITS, cooldown=5), signals)
    changes = [i for i, d in enumerate(decisions) if d.action != "hold"]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(changes))


def test_fixed_holds() -> None:
    decision = Fixed().step(make_epoch(batch_size=48))
    assert (decision.action, decision.batch_size) == ("hold", 48)


def test_make_scheduler_takes_window_and_bounds_from_the_run() -> None:
    config = RunConfig(model="m", scheduler="deba", window_epochs=3, batch_size=32)
    deba = make_scheduler(config, num_train=1437)
    assert isinstance(deba, Deba)
    assert deba.calibration_epochs == 3
    assert deba.limits == Limits(minimum=32, maximum=280)


@pytest.mark.parametrize(
    ("samples", "batch", "expected"), [(50_000, 64, 2048), (1437, 16, 280), (40, 16, 16)]
)
def test_default_largest_batch_leaves_five_updates(samples: int, batch: int, expected: int) -> None:
    assert default_max_batch_size(samples, batch) == expected


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("debba", {}, "use deba"),
        ("deba", {"cooldwn": 3}, "use cooldown"),
        ("deba", {"growth": 0.5}, "growth > 1"),
        ("deba", {"window_mode": "keep"}, "carry or restart"),
        ("deba", {"min_calm_signals": 4}, "from 1 to 3"),
        ("deba", {"window": 0}, "window >= 1"),
        ("deba", {"window": "x"}, "arguments of deba"),
        ("fixed", {"window": 3}, "window"),
    ],
)
def test_a_bad_request_says_what_to_type(name: str, args: dict[str, Any], words: str) -> None:
    config = RunConfig(model="m", scheduler=name, scheduler_args=args)
    with pytest.raises(UsageError, match=words):
        make_scheduler(config, num_train=1000)
