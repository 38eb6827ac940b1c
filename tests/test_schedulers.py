"""Schedules on hand-made records: no model needed."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stability_probe.config import RunConfig, largest_batch_size
from stability_probe.errors import UsageError
from stability_probe.metrics import noise_over_signal
from stability_probe.records import EpochRecord, Evidence, NoiseScaleRecord
from stability_probe.schedulers import (
    SCHEDULERS,
    BatchScheduler,
    BoundedScheduler,
    Bounds,
    Decision,
    Proposal,
    Rule,
    make_scheduler,
)
from stability_probe.schedulers.adabatch import AdaBatch
from stability_probe.schedulers.base import GRID
from stability_probe.schedulers.deba import READINGS, Deba, thresholds_of
from stability_probe.schedulers.fixed import Fixed
from stability_probe.schedulers.noise_scale import NoiseScale, SmoothedNoise
from stability_probe.schedulers.norm_test import NormTest
from stability_probe.schedulers.replay import Random, Replay, scatter_changes
from stability_probe.schedulers.timed import Timed
from tests.factories import make_epoch

BOUNDS = Bounds(minimum=16, maximum=256)
START = {"grad_component_variance": 1e-4, "grad_norm_variation": 0.1, "loss_variation": 0.1}
CALM = {"grad_component_variance": 5e-5, "grad_norm_variation": 0.05, "loss_variation": 0.05}
ROUGH = {"grad_component_variance": 1e-2, "grad_norm_variation": 0.15, "loss_variation": 0.5}


def bounded(rule: Rule, cooldown: int = 5, bounds: Bounds = BOUNDS) -> BoundedScheduler:
    return BoundedScheduler(rule, bounds, cooldown)


def drive(
    scheduler: BatchScheduler, signals: list[dict[str, float]], losses: list[float] | None = None
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
        size = BOUNDS.snapped(size, size * 1.5)
        sizes.append(size)
    assert sizes == [24, 40, 64, 96, 144, 216, 256]


@given(st.integers(1, 4096), st.sampled_from([0.8, 0.5, 0.99, 1.01, 1.5, 2.0]))
def test_a_scaled_batch_moves_the_right_way_and_stays_on_the_grid(size: int, factor: float) -> None:
    bounds = Bounds(minimum=8, maximum=8192)
    scaled = bounds.snapped(size, size * factor)
    assert 8 <= scaled <= 8192
    assert scaled % GRID == 0
    assert scaled > size if factor > 1 else scaled < size or scaled == 8


@given(st.integers(16, 256), st.floats(0.1, 10.0))
def test_a_scaled_batch_never_leaves_its_bounds(size: int, factor: float) -> None:
    assert 16 <= BOUNDS.snapped(size, size * factor) <= 256


def test_calm_grows_after_calibration_and_cooldown_only() -> None:
    decisions = drive(bounded(Deba(calibration_epochs=4)), [START] * 4 + [CALM] * 12)
    changed = [i + 1 for i, d in enumerate(decisions) if d.action == "increase"]
    assert changed == [5, 10, 15]
    assert [d.batch_size for d in decisions][-1] == 64
    assert "measuring thresholds, epoch 1 of 4" in decisions[0].reason
    assert decisions[5].reason.startswith("cooldown, 4 more epochs; 3 of 3 signals calm")
    assert decisions[8].reason.startswith("cooldown, 1 more epoch; ")
    assert [d.cooldown_left for d in decisions[4:10]] == [5, 4, 3, 2, 1, 5]


def test_thresholds_are_the_calibration_median_times_the_tolerance() -> None:
    deba = Deba(calibration_epochs=3, tolerance=2.0)
    assert deba.thresholds is None
    for epoch, variance in enumerate([9e-4, 1e-4, 2e-4], start=1):
        deba.propose(make_epoch(epoch=epoch, grad_component_variance=variance))
    assert deba.thresholds is not None
    assert deba.thresholds["grad_component_variance"] == pytest.approx(4e-4)


def test_a_missing_first_variation_does_not_count() -> None:
    deba = Deba(calibration_epochs=2)
    deba.propose(make_epoch(epoch=1, grad_norm_variation=None))
    deba.propose(make_epoch(epoch=2, grad_norm_variation=0.3))
    assert deba.thresholds is not None
    assert deba.thresholds["grad_norm_variation"] == pytest.approx(0.3)


def test_rough_signals_hold_and_say_so() -> None:
    decisions = drive(bounded(Deba(window=1)), [START] * 4 + [ROUGH] * 8)
    assert {d.action for d in decisions} == {"hold"}
    assert decisions[-1].reason.startswith("0 of 3 signals calm")
    assert "gradient variance 0.01 > 0.0001" in decisions[-1].reason


@pytest.mark.parametrize(("needed", "action"), [(1, "increase"), (2, "hold")])
def test_min_calm_signals_counts(needed: int, action: str) -> None:
    one_calm = {**ROUGH, "loss_variation": 0.05}
    deba = Deba(window=1, min_calm_signals=needed)
    assert drive(bounded(deba), [START] * 4 + [one_calm])[-1].action == action


def test_a_spike_rolls_back_only_while_the_loss_rises() -> None:
    spike = {**CALM, "grad_norm_variation": 0.5}
    signals = [START] * 4 + [CALM] * 10 + [spike]
    falling = [1.0 / (i + 1) for i in range(15)]
    rising = [*falling[:14], 9.0]
    assert drive(bounded(Deba()), signals, rising)[-1].action == "rollback"
    assert drive(bounded(Deba()), signals, falling)[-1].action == "increase"
    decision = drive(bounded(Deba()), signals, rising)[-1]
    assert decision.batch_size == 32  # 0.8 x 40
    assert "while the loss rose" in decision.reason


def test_never_below_the_initial_batch() -> None:
    spike = {**CALM, "grad_norm_variation": 0.5}
    decision = drive(bounded(Deba()), [START] * 4 + [spike], [1.0] * 4 + [2.0])[-1]
    assert (decision.action, decision.batch_size) == ("hold", 16)
    assert "already at the smallest batch" in decision.reason


def test_at_the_largest_batch_it_holds_and_starts_no_cooldown() -> None:
    deba = bounded(Deba(), bounds=Bounds(minimum=16, maximum=16))
    assert "already at the largest batch" in drive(deba, [START] * 4 + [CALM])[-1].reason
    assert "already at the largest batch" in deba.step(make_epoch(epoch=6, **CALM)).reason


def test_the_window_slides() -> None:
    """Rough epochs hold the batch until they have left the window."""
    signals = [START] * 4 + [ROUGH] * 3 + [CALM] * 6
    narrow = drive(bounded(Deba(window=3), 0), signals)
    wide = drive(bounded(Deba(window=15), 0), signals)
    assert narrow[9].action == "increase"
    assert {d.action for d in wide[4:]} == {"hold"}


@pytest.mark.parametrize(("mode", "kept"), [("carry", 6), ("restart", 1)])
def test_restart_forgets_the_window_at_a_change_and_carry_keeps_it(mode: str, kept: int) -> None:
    deba = Deba(window_mode=mode)
    assert drive(bounded(deba), [START] * 4 + [CALM] * 2)[-2].action == "increase"
    assert len(deba.state_dict()["recent"]) == kept


def test_restart_and_carry_decide_differently() -> None:
    """Calm epochs before a change vouch for a rougher one after it only when carried over."""
    rougher = {name: 1.2 * value for name, value in START.items()}
    actions = {
        mode: drive(bounded(Deba(window_mode=mode), 1), [START] * 4 + [CALM, rougher])[-1]
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
    whole = bounded(Deba())
    first = bounded(Deba())
    records: list[EpochRecord] = []
    expected, size = [], 16
    for index, (values, loss) in enumerate(zip(signals, losses, strict=True)):
        record = make_epoch(epoch=index + 1, batch_size=size, loss=loss, **values)
        records.append(record)
        expected.append(whole.step(record))
        size = expected[-1].batch_size
    for record in records[:cut]:
        first.step(record)
    second = bounded(Deba())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.step(r) for r in records[cut:]] == expected[cut:]
    for earlier, later in zip([16, *[d.batch_size for d in expected]], expected, strict=False):
        ratio = later.batch_size / earlier
        assert ratio > 1 if later.action == "increase" else True
        assert ratio < 1 if later.action == "rollback" else True
        assert ratio == 1 if later.action == "hold" else True


@given(st.lists(signal, min_size=20, max_size=60))
def test_changes_keep_the_cooldown(signals: list[dict[str, float]]) -> None:
    decisions = drive(bounded(Deba()), signals)
    changes = [i for i, d in enumerate(decisions) if d.action != "hold"]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(changes))


def test_fixed_holds() -> None:
    decision = bounded(Fixed(), 0).step(make_epoch(batch_size=16))
    assert (decision.action, decision.batch_size) == ("hold", 16)


def test_make_scheduler_takes_window_and_bounds_from_the_run() -> None:
    config = RunConfig(model="m", scheduler="deba", window_epochs=3, batch_size=32)
    scheduler = make_scheduler(config, num_train=1437)
    assert isinstance(scheduler, BoundedScheduler)
    assert isinstance(scheduler.rule, Deba)
    assert scheduler.rule.calibration_epochs == 3
    assert scheduler.cooldown == 5
    assert scheduler.bounds == Bounds(minimum=32, maximum=280)


@pytest.mark.parametrize(
    ("samples", "batch", "expected"), [(50_000, 64, 2048), (1437, 16, 280), (40, 16, 16)]
)
def test_default_largest_batch_leaves_five_updates(samples: int, batch: int, expected: int) -> None:
    assert largest_batch_size(RunConfig(model="m", batch_size=batch), samples) == expected


def test_no_batch_exceeds_the_samples_there_are() -> None:
    config = RunConfig(
        model="m", scheduler="timed", max_batch_size=512, scheduler_args={"cooldown": 1}
    )
    scheduler = make_scheduler(config, num_train=100)
    assert max(path(scheduler, 12)) == largest_batch_size(config, 100) == 100


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("debba", {}, "use deba"),
        ("deba", {"cooldwn": 3}, "use cooldown"),
        ("deba", {"growth": 0.5}, "growth > 1"),
        ("deba", {"window_mode": "keep"}, "carry or restart"),
        ("deba", {"min_calm_signals": 4}, "from 1 to 3"),
        ("deba", {"window": 0}, "window is 0; use 1 or more"),
        ("deba", {"window": "x"}, "window is 'x'; use 1 or more"),
        ("deba", {"tolerance": "x"}, "arguments of deba"),
        ("deba", {"calibration_epochs": 1}, "calibration_epochs >= 2"),
        ("deba", {"threshold_quantile": 2}, "threshold_quantile from 0 to 1"),
        ("deba", {"thresholds": {"loss_variation": 1.0}}, "a number for each of"),
        ("deba", {"reading": "mid"}, "use mild"),
        ("deba", {"reading": 3}, "unknown reading of deba"),
        ("deba", {"cooldown": -1}, "whole number of epochs from 0"),
        ("deba", {"rollback": "often"}, "use spike_and_loss or spike or never"),
        ("timed", {"growth": 1}, "above 1"),
        ("adabatch", {"every": 0}, "every >= 1"),
        ("noise_scale", {"smoothing": 1}, "from 0 to below 1"),
        ("noise_scale", {"multiple": 0}, "multiple > 0"),
        ("norm_test", {"theta": 0}, "theta from 1e-6 to 1e6"),
        ("norm_test", {"theta": 1e200}, "theta from 1e-6 to 1e6"),
        ("replay", {}, "replay needs the batch of every epoch"),
        ("replay", {"batch_sizes": []}, "the batch of every epoch"),
        ("replay", {"batch_sizes": [16, "a"]}, "the batch of every epoch"),
        ("random", {"batch_sizes": [24, 16]}, "use -b 24"),
        ("replay", {"batch_sizes": [16, 24], "cooldown": 1}, "leave cooldown out"),
        ("random", {"batch_sizes": [16, 24], "cooldown": 5}, "leave cooldown out"),
        ("deba", {"thresholds": dict.fromkeys(START, "a")}, "a number for each of"),
        ("deba", {"thresholds": "a"}, "a number for each of"),
        ("tests.no_such:rule", {}, "cannot import"),
        ("tests.test_schedulers:quitting_rule", {}, "failed .SystemExit: 3"),
        ("tests.test_schedulers:broken_rule", {}, "failed .ZeroDivisionError"),
        ("tests.test_schedulers:no_rule", {}, "has no propose"),
        ("fixed", {"window": 3}, "window"),
    ],
)
def test_a_bad_request_says_what_to_type(name: str, args: dict[str, Any], words: str) -> None:
    config = RunConfig(model="m", scheduler=name, scheduler_args=args)
    with pytest.raises(UsageError, match=words):
        make_scheduler(config, num_train=1000)


def broken_rule() -> Rule:
    raise ZeroDivisionError


def quitting_rule() -> Rule:
    raise SystemExit(3)


def no_rule() -> object:
    return object()


def doubling(every: int) -> Rule:
    """A user's own schedule."""
    return AdaBatch(every=every)


def noise(trace_sigma: float, grad_sq_norm: float) -> NoiseScaleRecord:
    defined = grad_sq_norm > 0
    return NoiseScaleRecord(
        trace_sigma=trace_sigma,
        grad_sq_norm=grad_sq_norm,
        noise_scale=trace_sigma / grad_sq_norm if defined else None,
        num_samples=512,
        time_s=0.1,
    )


def path(scheduler: BatchScheduler, epochs: int, **fields: Any) -> list[int]:
    """The batch of every epoch of a run."""
    sizes = [16]
    for epoch in range(1, epochs):
        record = make_epoch(epoch=epoch, batch_size=sizes[-1], **fields)
        sizes.append(scheduler.step(record).batch_size)
    return sizes


def test_a_users_own_schedule_is_bounded_as_ours_are() -> None:
    config = RunConfig(
        model="m",
        scheduler="tests.test_schedulers:doubling",
        scheduler_args={"every": 1, "cooldown": 2},
    )
    assert path(make_scheduler(config, num_train=200), 8) == [16, 16, 32, 32, 40, 40, 40, 40]


def of_sizes(batch_sizes: int) -> Rule:
    """A user's own schedule with an argument that means something else to ours."""
    return AdaBatch(every=batch_sizes)


def test_a_users_own_schedule_may_call_an_argument_as_ours_does() -> None:
    config = RunConfig(
        model="m",
        scheduler="tests.test_schedulers:of_sizes",
        scheduler_args={"batch_sizes": 5},
    )
    assert path(make_scheduler(config, num_train=200), 7) == [16] * 5 + [32] * 2


class Says:
    """A user's own rule that proposes whatever it is given."""

    def __init__(self, proposal: Any) -> None:
        self.proposal = proposal

    def propose(self, record: EpochRecord) -> Any:
        return self.proposal

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def proposal(**fields: Any) -> Proposal:
    return Proposal(**{"batch_size": 16, "reason": "so", **fields})


def evidence(**fields: Any) -> tuple[Evidence, ...]:
    return (Evidence(**{"name": "loss", "value": 1.0, "threshold": None, **fields}),)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        proposal(batch_size=math.nan),
        proposal(reason=None),
        proposal(evidence=None),
        proposal(evidence=("loss",)),
        proposal(evidence=evidence(name=3)),
        proposal(evidence=evidence(value=math.inf)),
        proposal(evidence=evidence(threshold="a")),
    ],
)
def test_what_could_not_be_stored_is_no_proposal(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"Says.propose\(\) returned .*use a Proposal"):
        bounded(Says(wrong)).step(make_epoch(epoch=1))
    right = proposal(evidence=evidence(value=None, threshold=1))
    assert bounded(Says(right)).step(make_epoch(epoch=1, batch_size=16)).reason == "so"


def test_a_rule_may_compute_in_numpy_and_the_decision_is_plain() -> None:
    said = proposal(
        batch_size=np.float32(30.0),
        evidence=evidence(value=np.float64(2.0), threshold=np.float32(0.5)),
    )
    decision = bounded(Says(said), 0).step(make_epoch(epoch=1, batch_size=16))
    assert type(decision.batch_size) is int
    assert decision.batch_size == 32
    assert [type(n) for e in decision.evidence for n in (e.value, e.threshold)] == [float, float]
    assert decision.evidence == evidence(value=2.0, threshold=0.5)


@pytest.mark.parametrize(("wanted", "taken"), [(math.inf, 250), (1e300, 250), (-math.inf, 12)])
def test_without_end_means_as_far_as_the_bounds(wanted: float, taken: int) -> None:
    scheduler = bounded(Says(proposal(batch_size=wanted)), 0, Bounds(minimum=12, maximum=250))
    assert scheduler.step(make_epoch(epoch=1, batch_size=16)).batch_size == taken


@pytest.mark.parametrize("every", [None, 2.0, -1])
def test_a_users_rule_measures_noise_every_so_many_whole_epochs(
    every: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdaBatch, "noise_every", every, raising=False)
    config = RunConfig(
        model="m", scheduler="tests.test_schedulers:doubling", scheduler_args={"every": 1}
    )
    with pytest.raises(
        UsageError, match=f"noise_every of tests.test_schedulers:doubling is {every}"
    ):
        make_scheduler(config, num_train=200)


def test_a_window_too_short_for_debas_thresholds_is_named() -> None:
    config = RunConfig(model="m", scheduler="deba", epochs=1, window_epochs=1)
    with pytest.raises(UsageError, match="a window of 2 epochs at least; use --window 2"):
        make_scheduler(config, num_train=200)


def test_timed_grows_whenever_the_cooldown_allows() -> None:
    config = RunConfig(model="m", scheduler="timed")
    assert path(make_scheduler(config, 1437), 12) == [16] * 5 + [24] * 5 + [40] * 2


def test_timed_is_deba_that_is_always_calm() -> None:
    """What the two share is the bounds, the cooldown and the grid."""
    calm = bounded(Deba(thresholds=dict.fromkeys(START, 1e9), rollback="never"))
    assert path(bounded(Timed()), 60) == path(calm, 60)


def test_adabatch_doubles_after_every_fifth_of_the_run() -> None:
    config = RunConfig(model="m", scheduler="adabatch", epochs=20)
    assert path(make_scheduler(config, 1437), 10) == [16] * 4 + [32] * 4 + [64] * 2


def test_replay_repeats_a_sequence_and_holds_after_its_end() -> None:
    sizes = [16, 16, 24, 24, 16, 250]
    scheduler = bounded(Replay(batch_sizes=sizes), 0, Bounds(minimum=16, maximum=250))
    assert path(scheduler, 8) == [*sizes, 250, 250]


@given(st.lists(signal, min_size=20, max_size=60))
def test_replaying_debas_sequence_repeats_its_decisions(signals: list[dict[str, float]]) -> None:
    sizes = [16, *[d.batch_size for d in drive(bounded(Deba()), signals)]]
    replayed = bounded(Replay(batch_sizes=sizes), 0)
    assert path(replayed, len(sizes)) == sizes


@given(
    st.lists(st.sampled_from([16, 24, 40, 64]), min_size=2, max_size=40),
    st.integers(0, 1000),
)
def test_random_keeps_sizes_order_and_number_of_changes(sizes: list[int], seed: int) -> None:
    scattered = list(scatter_changes(sizes, seed))
    assert len(scattered) == len(sizes)
    assert scattered[0] == sizes[0]
    assert [b for b, _ in itertools.groupby(scattered)] == [b for b, _ in itertools.groupby(sizes)]


def test_a_replay_goes_below_the_initial_batch_where_its_run_did() -> None:
    sizes = [64, 48, 16, 64]
    config = RunConfig(
        model="m", batch_size=64, scheduler="replay", scheduler_args={"batch_sizes": sizes}
    )
    scheduler, taken = make_scheduler(config, 1000), [64]
    for epoch in (1, 2, 3):
        taken.append(scheduler.step(make_epoch(epoch=epoch, batch_size=taken[-1])).batch_size)
    assert taken == sizes


def test_random_epochs_follow_from_the_seed() -> None:
    sizes = [16] * 30 + [24, 40, 64]
    paths = {tuple(Random(batch_sizes=sizes, seed=s).batch_sizes) for s in (0, 0, 1, 2, 3)}
    assert len(paths) == 4


def test_the_smoothed_noise_scale_is_a_ratio_of_means() -> None:
    """Against the weights of an exponential average written out."""
    draws = [(100.0, 1.0), (300.0, -0.5), (50.0, 2.0)]
    smoothed = SmoothedNoise(0.5)
    for trace, sq_norm in draws:
        smoothed.add(noise(trace, sq_norm))
    weights = [0.125, 0.25, 0.5]
    trace = sum(w * t for w, (t, _) in zip(weights, draws, strict=True))
    sq_norm = sum(w * g for w, (_, g) in zip(weights, draws, strict=True))
    assert smoothed.noise_scale == pytest.approx(trace / sq_norm)


@pytest.mark.parametrize("measured", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (2.0, 0.5)])
def test_the_smoothed_noise_scale_is_defined_where_one_measurement_is(
    measured: tuple[float, float],
) -> None:
    smoothed = SmoothedNoise(0.0)
    smoothed.add(noise(*measured))
    assert smoothed.noise_scale == noise_over_signal(*measured)


def test_the_batch_follows_the_noise_scale_both_ways() -> None:
    scheduler = bounded(NoiseScale(smoothing=0.0), 0)
    first = scheduler.step(make_epoch(epoch=2, batch_size=16, noise=noise(100.0, 1.0)))
    second = scheduler.step(make_epoch(epoch=4, batch_size=104, noise=noise(50.0, 1.0)))
    third = scheduler.step(make_epoch(epoch=6, batch_size=48, noise=noise(50.0, 1.0)))
    assert (first.action, first.batch_size) == ("increase", 104)
    assert (second.action, second.batch_size) == ("rollback", 48)
    assert third.action == "hold"


@pytest.mark.parametrize("rule", [NoiseScale(), NormTest()])
def test_an_undefined_noise_scale_changes_nothing(rule: Rule) -> None:
    scheduler = bounded(rule, 0)
    assert scheduler.noise_every == 2
    assert scheduler.step(make_epoch(epoch=1)).action == "hold"
    decision = scheduler.step(make_epoch(epoch=2, noise=noise(100.0, -1.0)))
    assert decision.action == "hold"
    assert "drowns" in decision.reason


def test_the_norm_test_grows_to_where_it_would_just_hold() -> None:
    rule = NormTest(theta=0.5, smoothing=0.0)
    decision = bounded(rule, 0).step(make_epoch(epoch=2, noise=noise(10.0, 1.0)))
    assert (decision.action, decision.batch_size) == ("increase", 40)  # 10 / (0.25 x 1)
    assert 10.0 / decision.batch_size <= 0.25 * 1.0
    later = rule.propose(make_epoch(epoch=4, batch_size=40, noise=noise(9.0, 1.0)))
    assert later.batch_size == 40


@pytest.mark.parametrize("name", ["noise_scale", "norm_test"])
def test_a_restored_noise_schedule_goes_on_as_if_never_stopped(name: str) -> None:
    config = RunConfig(model="m", scheduler=name)
    records = [
        make_epoch(epoch=e, batch_size=16, noise=noise(30.0 * e, 1.0 + e % 3)) for e in range(1, 9)
    ]
    whole, first, second = (make_scheduler(config, 1437) for _ in range(3))
    expected = [whole.step(r) for r in records]
    for record in records[:4]:
        first.step(record)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.step(r) for r in records[4:]] == expected[4:]


@pytest.mark.parametrize("reading", list(READINGS))
def test_every_reading_is_a_schedule(reading: str) -> None:
    config = RunConfig(model="m", scheduler="deba", scheduler_args={"reading": reading})
    assert path(make_scheduler(config, 1437), 7)[0] == 16


def test_an_argument_overrides_its_part_of_a_reading() -> None:
    args = {"reading": "literal", "rollback": "never"}
    scheduler = make_scheduler(RunConfig(model="m", scheduler="deba", scheduler_args=args), 1437)
    assert isinstance(scheduler, BoundedScheduler)
    assert isinstance(scheduler.rule, Deba)
    assert (scheduler.rule.signal, scheduler.rule.rollback) == ("last", "never")


def test_the_literal_reading_looks_at_the_last_mini_batch_and_may_fall_below_the_start() -> None:
    config = RunConfig(
        model="m", batch_size=32, scheduler="deba", scheduler_args={"reading": "literal"}
    )
    scheduler = make_scheduler(config, 1437)
    for epoch, last in enumerate([1.0, 1.1, 1.0, 1.1], start=1):
        scheduler.step(make_epoch(epoch=epoch, batch_size=32, grad_norm_last=last, **START))
    decision = scheduler.step(make_epoch(epoch=5, batch_size=32, grad_norm_last=3.0, **CALM))
    assert (decision.action, decision.batch_size) == ("rollback", 24)


def test_thresholds_of_a_whole_profile_replace_calibration() -> None:
    profile = [
        make_epoch(epoch=e, grad_component_variance=v) for e, v in enumerate([3e-4, 1e-4, 2e-4])
    ]
    limits = thresholds_of(profile, tolerance=2.0)
    assert limits["grad_component_variance"] == pytest.approx(4e-4)
    decision = bounded(Deba(thresholds=limits), 0).step(make_epoch(epoch=1, **CALM))
    assert decision.action == "increase"


@pytest.mark.parametrize("reading", READINGS)
def test_a_whole_profile_gives_the_thresholds_that_its_own_rule_would_measure(reading: str) -> None:
    """Of the last mini-batch where the reading looks at that, with its quantile and tolerance."""
    rng = np.random.default_rng(0)
    profile = [
        make_epoch(
            epoch=e,
            grad_component_variance=v,
            grad_component_variance_last=2 * v,
            grad_norm=1 + v,
            grad_norm_last=1 + 3 * v,
            grad_norm_variation=v / 2,
        )
        for e, v in enumerate(rng.random(20), start=1)
    ]
    arguments = {**READINGS[reading], "tolerance": 1.3, "threshold_quantile": 0.4}
    rule = Deba(**arguments, calibration_epochs=len(profile))
    for epoch in profile:
        rule.propose(epoch)
    assert thresholds_of(profile, **arguments) == rule.thresholds


def test_a_full_history_never_forgets() -> None:
    signals = [START] * 4 + [ROUGH] * 3 + [CALM] * 20
    assert {d.action for d in drive(bounded(Deba(window=None), 0), signals)[4:18]} == {"hold"}


def test_rescale_does_not_read_a_larger_batch_as_calm() -> None:
    """Pure noise: quadrupling the batch quarters the variance, and nothing else has changed."""
    calibration = [make_epoch(epoch=e, **START) for e in (1, 2, 3)]
    calibration.append(make_epoch(epoch=4, noise=noise(16.0, 0.0), **START))
    grown = {**ROUGH, "grad_component_variance": START["grad_component_variance"] / 4 * 1.1}
    actions = {}
    for mode in ("carry", "rescale"):
        rule = Deba(window=1, min_calm_signals=1, window_mode=mode, rollback="never")
        for record in calibration:
            rule.propose(record)
        proposal = rule.propose(make_epoch(epoch=5, batch_size=64, **grown))
        actions[mode] = proposal.batch_size
        shown = proposal.evidence[0].value
        assert shown == pytest.approx(1.1e-4 if mode == "rescale" else 0.275e-4)
    assert actions == {"carry": 96, "rescale": 64}


def test_every_named_schedule_is_documented() -> None:
    assert all(make.__doc__ for make in SCHEDULERS.values())


def test_a_loaded_state_brings_its_own_thresholds() -> None:
    """Also into a rule that has measured others before."""
    rough, calm = Deba(), Deba()
    for rule, signals in ((rough, ROUGH), (calm, START)):
        for epoch in range(5):
            rule.propose(make_epoch(epoch=epoch + 1, **signals))
    expected = calm.thresholds
    assert rough.thresholds != expected
    rough.load_state_dict(json.loads(json.dumps(calm.state_dict())))
    assert rough.thresholds == expected
