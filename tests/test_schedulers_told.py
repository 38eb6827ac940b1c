"""What every rule tells, word for word, and where exactly it changes its mind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.records import EpochRecord
from stability_probe.schedulers import BoundedScheduler, Proposal, Rule, make_scheduler
from stability_probe.schedulers.adabatch import AdaBatch
from stability_probe.schedulers.base import decided
from stability_probe.schedulers.deba import READINGS, Deba, thresholds_of
from stability_probe.schedulers.fixed import Fixed
from stability_probe.schedulers.noise_scale import NoiseScale, SmoothedNoise
from stability_probe.schedulers.norm_test import NormTest
from stability_probe.schedulers.replay import Random, Replay
from stability_probe.schedulers.timed import Timed
from tests.factories import make_epoch
from tests.test_schedulers import CALM, ROUGH, START, bounded, noise

VARIANCE, NORM, LOSS = "gradient variance", "norm variation", "loss variation"


def told(rule: Rule, **fields: Any) -> tuple[float, str, list[tuple[str, Any, Any]]]:
    proposal = rule.propose(make_epoch(**fields))
    evidence = [(e.name, e.value, e.threshold) for e in proposal.evidence]
    return proposal.batch_size, proposal.reason, evidence


def test_fixed_and_timed() -> None:
    assert told(Fixed(), batch_size=24) == (24, "fixed batch", [])
    assert told(Timed(), batch_size=16) == (24.0, "x1.5 whenever it may change", [])


def test_adabatch_counts_the_epochs_left() -> None:
    rule = AdaBatch(every=3)
    assert told(rule, epoch=1, batch_size=16) == (16, "x2 in 2 epochs", [])
    assert told(rule, epoch=2, batch_size=16) == (16, "x2 in 1 epoch", [])
    assert told(rule, epoch=3, batch_size=16) == (32.0, "x2 every 3 epochs", [])
    assert told(AdaBatch(), epoch=1)[1] == "x2 in 19 epochs"


def test_replay_and_random() -> None:
    rule = Replay(batch_sizes=[16, 16, 24])
    assert told(rule, epoch=1, batch_size=16) == (16, "as in the sequence", [])
    assert told(rule, epoch=2, batch_size=16) == (24, "as in the sequence", [])
    assert told(rule, epoch=3, batch_size=24) == (24, "the sequence has ended", [])
    shuffled = Random(batch_sizes=[16, 24])
    assert told(shuffled, epoch=1, batch_size=16) == (24, "changes at random epochs", [])
    sizes = [16] * 30 + [24]
    assert Random(batch_sizes=sizes).batch_sizes == Random(batch_sizes=sizes, seed=0).batch_sizes


@pytest.mark.parametrize(
    ("sizes", "floor"),
    [
        ([16, 16, 24], "initial"),
        ([16, 24, 16], "initial"),
        ([16, 24, 8], "minimum"),
        ((1, 2), "initial"),
    ],
)
def test_a_replay_may_fall_as_low_as_its_sequence_did(sizes: list[int], floor: str) -> None:
    assert Replay(batch_sizes=sizes).floor == floor


def test_the_noise_scale_tells_what_it_follows() -> None:
    rule = NoiseScale(smoothing=0.0, deadband=0.25)
    assert told(rule, batch_size=16) == (16, "noise scale not measured in this epoch", [])
    undefined = "noise scale undefined: the gradient drowns in its noise"
    assert told(rule, batch_size=16, noise=noise(20.0, -1.0)) == (16, undefined, [])
    evidence = [("smoothed noise scale", 20.0, None)]
    near = told(rule, batch_size=16, noise=noise(20.0, 1.0))  # a quarter away: just within
    assert near == (16, "batch is near the noise scale 20", evidence)
    assert told(rule, batch_size=8, noise=noise(20.0, 1.0)) == (
        20.0,
        "noise scale 20 samples",
        evidence,
    )


def test_the_norm_test_tells_both_sides() -> None:
    rule = NormTest(theta=0.5, smoothing=0.0)
    assert told(rule, batch_size=16) == (16, "variance not measured in this epoch", [])
    undefined = "norm test undefined: the gradient drowns in its noise"
    assert told(rule, batch_size=16, noise=noise(20.0, 0.0)) == (16, undefined, [])
    assert told(rule, batch_size=16, noise=noise(4.0, 1.0)) == (  # equal: it holds
        16,
        "norm test holds: variance 0.25 <= 0.25",
        [("variance of the mean", 0.25, 0.25)],
    )
    assert told(rule, batch_size=16, noise=noise(8.0, 1.0)) == (
        32.0,
        "norm test fails: variance 0.5 > 0.25",
        [("variance of the mean", 0.5, 0.25)],
    )


def test_smoothed_averages_have_no_bias_towards_zero() -> None:
    smoothed = SmoothedNoise(0.5)
    assert (smoothed.trace_sigma, smoothed.grad_sq_norm, smoothed.noise_scale) == (None,) * 3
    for trace, sq_norm in ((100.0, 1.0), (400.0, 4.0)):
        smoothed.add(noise(trace, sq_norm))
    assert smoothed.trace_sigma == pytest.approx((0.25 * 100 + 0.5 * 400) / 0.75)
    assert smoothed.grad_sq_norm == pytest.approx((0.25 * 1 + 0.5 * 4) / 0.75)


def test_noise_is_asked_for_every_second_epoch() -> None:
    assert bounded(NoiseScale()).noise_every == bounded(NormTest()).noise_every == 2
    assert bounded(NoiseScale(every=1)).noise_every == 1
    assert bounded(Fixed()).noise_every == 0


def test_deba_tells_what_it_measures_and_what_it_compares() -> None:
    rule = Deba(calibration_epochs=2)
    first = {**START, "grad_norm_variation": None, "loss_variation": None}
    assert told(rule, epoch=1, batch_size=16, **first) == (
        16,
        "measuring thresholds, epoch 1 of 2",
        [(VARIANCE, 1e-4, None), (NORM, None, None), (LOSS, None, None)],
    )
    assert told(rule, epoch=2, batch_size=16, **START)[1] == "measuring thresholds, epoch 2 of 2"
    # Means over the window: variance 1e-4 twice and 4e-4, variations of two epochs.
    third = {"grad_component_variance": 4e-4, "grad_norm_variation": 0.1, "loss_variation": 0.05}
    wanted, reason, evidence = told(rule, epoch=3, batch_size=16, **third)
    assert wanted == 24.0
    assert reason == (
        "2 of 3 signals calm: gradient variance 0.0002 > 0.0001, "
        "norm variation 0.1 <= 0.1, loss variation 0.075 <= 0.1"
    )
    assert [name for name, _, _ in evidence] == [VARIANCE, NORM, LOSS]
    assert [value for _, value, _ in evidence] == pytest.approx([2e-4, 0.1, 0.075])
    assert [limit for _, _, limit in evidence] == pytest.approx([1e-4, 0.1, 0.1])


def spike(rule: Deba, variation: float, losses: tuple[float, float]) -> tuple[float, str, Any]:
    """What `rule` wants after a calm epoch and one with this norm variation."""
    rule.propose(make_epoch(epoch=1, batch_size=40, loss=losses[0], **CALM))
    signals = {**ROUGH, "grad_norm_variation": variation}
    return told(rule, epoch=2, batch_size=40, loss=losses[1], **signals)


@pytest.mark.parametrize(
    ("rollback", "variation", "losses", "back"),
    [
        ("spike_and_loss", 0.5, (1.0, 1.1), True),
        ("spike_and_loss", 0.5, (1.0, 1.0), False),  # it did not rise
        ("spike_and_loss", 0.25, (1.0, 1.1), False),  # at the limit, not above
        ("spike", 0.5, (1.0, 0.9), True),
        ("never", 0.5, (1.0, 1.1), False),
    ],
)
def test_deba_rolls_back_above_the_limit_only(
    rollback: str, variation: float, losses: tuple[float, float], back: bool
) -> None:
    limits = {**START, "grad_norm_variation": 0.125}
    rule = Deba(thresholds=limits, rollback=rollback, spike=2.0, min_calm_signals=3)
    wanted, reason, evidence = spike(rule, variation, losses)
    assert wanted == (32.0 if back else 40.0)
    if back:
        words = " while the loss rose" if rollback == "spike_and_loss" else ""
        assert reason == f"norm variation 0.5 above 0.25{words}"
        assert evidence == [(NORM, 0.5, 0.25)]


def test_the_default_spike_is_twofold_and_the_eager_ones_threefold() -> None:
    limits = {**START, "grad_norm_variation": 0.125}
    for rule, variation in (
        (Deba(thresholds=limits), 0.26),
        (Deba(thresholds=limits, **READINGS["eager"]), 0.38),
    ):
        assert spike(rule, variation, (1.0, 1.1))[0] == 32.0
    assert spike(Deba(thresholds=limits, **READINGS["eager"]), 0.37, (1.0, 1.1))[0] > 32.0


def test_a_signal_at_its_threshold_is_calm_and_one_that_is_missing_no_spike() -> None:
    rule = Deba(thresholds=START, min_calm_signals=3, rollback="spike")
    assert told(rule, epoch=1, batch_size=16, **START)[0] == 24.0
    first = {**START, "grad_norm_variation": None, "loss_variation": None}
    wanted, _, evidence = told(Deba(thresholds=START, rollback="spike"), batch_size=16, **first)
    assert wanted == 24.0
    assert evidence[1:] == [(NORM, 0.0, 0.1), (LOSS, 0.0, 0.1)]


def test_the_window_holds_so_many_epochs() -> None:
    for window in (1, 2, 15):
        rule = Deba(thresholds=START, window=window)
        for epoch in range(1, 21):
            rule.propose(make_epoch(epoch=epoch, **CALM))
        assert len(rule.state_dict()["recent"]) == window
    assert Deba().window == 15


def test_the_last_mini_batch_counts_where_asked() -> None:
    rule = Deba(thresholds=START, signal="last")
    first = {"grad_norm_last": 2.0, "grad_component_variance_last": 3e-4}
    rule.propose(make_epoch(epoch=1, grad_norm_variation=None, **first))
    later = make_epoch(epoch=2, grad_norm_last=3.0, grad_component_variance_last=5e-4, **CALM)
    variance, norm, _ = rule.propose(later).evidence
    assert variance.value == pytest.approx(4e-4)  # of both epochs
    assert norm.value == pytest.approx(0.5)
    absent = Deba(thresholds=START, signal="last")
    record = make_epoch(epoch=1, grad_component_variance_last=None, **CALM)
    assert absent.propose(record).evidence[0].value == 5e-5  # older records have only the mean
    none = make_epoch(epoch=1, grad_component_variance_last=0.0, **CALM)
    assert Deba(thresholds=START, signal="last").propose(none).evidence[0].value == 0.0


def rescaled(trace_sigma: float, grad_sq_norm: float) -> list[Any]:
    """Evidence at batch 64 after batch 16, in which norm and variance are the same numbers."""
    rule = Deba(thresholds=START, window=1, window_mode="rescale")
    shared = {**CALM, "grad_norm": 2.0}
    rule.propose(
        make_epoch(epoch=1, batch_size=16, noise=noise(trace_sigma, grad_sq_norm), **shared)
    )
    return list(rule.propose(make_epoch(epoch=2, batch_size=64, **shared)).evidence)


@pytest.mark.parametrize(
    ("trace_sigma", "grad_sq_norm", "ratio"),
    [
        (16.0, 0.0, 4.0),  # noise alone falls as 1 / B
        (16.0, 1.0, 2.0 / 1.25),
        (0.5, 0.0, 4.0),
        (0.0, 1.0, 1.0),  # a signal without noise does not change
        (0.0, 0.0, 1.0),
        (-1.0, 1.0, 1.0),
    ],
)
def test_rescale_by_hand(trace_sigma: float, grad_sq_norm: float, ratio: float) -> None:
    variance, norm, _ = rescaled(trace_sigma, grad_sq_norm)
    assert variance.value == pytest.approx(5e-5 * ratio)
    assert norm.value == pytest.approx(ratio**0.5 - 1, rel=1e-6)


def test_rescale_waits_for_the_noise_scale() -> None:
    rule = Deba(thresholds=START, window_mode="rescale")
    assert told(rule, epoch=1, batch_size=16, **CALM) == (16, "waiting for the noise scale", [])
    assert told(rule, epoch=2, batch_size=64, **CALM) == (64, "waiting for the noise scale", [])
    assert told(rule, epoch=3, batch_size=16, noise=noise(1.0, 1.0), **CALM)[0] == 24.0


@pytest.mark.parametrize(
    "arguments", [{"window_mode": "rescale"}, {"signal": "last"}, {"window_mode": "restart"}]
)
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_every_reading_goes_on_from_its_stored_state(arguments: dict[str, Any], cut: int) -> None:
    """The initial batch, the noise and the epoch before are part of it."""
    fields = {"rollback": "spike", "calibration_epochs": 3, **arguments}
    records = [
        make_epoch(
            epoch=e,
            batch_size=(16, 16, 16, 24, 24, 40, 40, 32)[e - 1],
            loss=1 / e,
            grad_norm=1.0 + 0.1 * (e % 3),
            grad_norm_last=1.0 + 0.2 * (e % 2),
            grad_component_variance=1e-4 / e,
            noise=noise(30.0, 1.0) if e == 2 else None,
        )
        for e in range(1, 9)
    ]
    whole, first, second = (Deba(**fields) for _ in range(3))
    expected = [whole.propose(r) for r in records]
    for record in records[:cut]:
        first.propose(record)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.propose(r) for r in records[cut:]] == expected[cut:]


def test_thresholds_are_the_median_and_zero_where_nothing_was_measured() -> None:
    first = {**START, "grad_norm_variation": None, "loss_variation": None}
    limits = thresholds_of([make_epoch(epoch=1, **first)])
    assert limits == {
        "grad_component_variance": 1e-4, "grad_norm_variation": 0.0, "loss_variation": 0.0
    }  # fmt: skip


def test_a_decision_is_written_into_its_record() -> None:
    rule = Deba(thresholds=START)
    record = decided(bounded(rule, 3), make_epoch(epoch=1, batch_size=16, **CALM))
    assert (record.action, record.next_batch_size, record.cooldown_left) == ("hold", 16, 2)
    assert record.reason.startswith("cooldown, 2 more epochs; 3 of 3 signals calm: ")
    assert len(record.evidence) == 3
    grown = decided(bounded(Timed(), 0), make_epoch(epoch=1, batch_size=16))
    assert (grown.action, grown.next_batch_size) == ("increase", 24)


class Plain:
    """A user's rule that says nothing of a cooldown or a floor: it halves."""

    def propose(self, record: EpochRecord) -> Proposal:
        return Proposal(batch_size=record.batch_size / 2, reason="half")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def test_a_plain_rule_has_no_cooldown_and_stays_above_the_initial_batch() -> None:
    config = RunConfig(model="m", batch_size=64, scheduler="tests.test_schedulers_told:Plain")
    scheduler = make_scheduler(config, 2000)
    assert isinstance(scheduler, BoundedScheduler)
    assert (scheduler.cooldown, scheduler.bounds.minimum) == (0, 64)
    decision = scheduler.step(make_epoch(epoch=1, batch_size=128))
    assert (decision.action, decision.batch_size) == ("rollback", 64)
    decision = scheduler.step(make_epoch(epoch=2, batch_size=64))
    assert decision.reason == "already at the smallest batch; half"


@pytest.mark.parametrize(("cooldown", "words"), [(3, "2 more epochs"), (2, "1 more epoch")])
def test_the_cooldown_is_counted_in_words(cooldown: int, words: str) -> None:
    decision = bounded(Timed(), cooldown).step(make_epoch(epoch=1, batch_size=16))
    assert decision.reason == f"cooldown, {words}; x1.5 whenever it may change"


def test_arguments_that_follow_from_the_run() -> None:
    def rule(**fields: Any) -> Any:
        scheduler = make_scheduler(RunConfig(model="m", **fields), 1437)
        assert isinstance(scheduler, BoundedScheduler)
        return scheduler.rule

    assert rule(scheduler="adabatch", epochs=3, window_epochs=2).every == 1
    assert rule(scheduler="adabatch", epochs=20).every == 4
    sizes = [16] * 30 + [24, 40]
    of_run = rule(scheduler="random", seed=7, scheduler_args={"batch_sizes": sizes})
    assert of_run.batch_sizes == Random(batch_sizes=sizes, seed=7).batch_sizes
    assert of_run.batch_sizes != Random(batch_sizes=sizes, seed=0).batch_sizes


OFF_LIMITS = (
    "the sequence has a batch of {}, and this run may take multiples of 8 from 16 to 200; use "
    "another --max-batch-size, or the sequence of a run with the same bounds"
)
SEQUENCE = (
    "needs the batch of every epoch; use --scheduler-arg run=RUN_ID, or batch_sizes=[16,16,24]"
)
UNKNOWN = "unknown argument of"
READING = "unknown reading of deba"
EVERY = "noise_scale needs every >= 1, multiple > 0 and deadband >= 0"
NORM_TEST = "norm_test needs theta from 1e-6 to 1e6 and every >= 1, a whole number of epochs"
ADABATCH = "adabatch needs factor > 1 and every >= 1, a whole number of epochs"
THRESHOLDS = f"deba thresholds need a number for each of {', '.join(START)}"
NO_NUMBER = "TypeError: '>' not supported between instances of 'str' and 'int'"
FACTORS = "deba needs growth > 1, 0 < shrink < 1, tolerance > 0 and spike > 0"


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("debba", {}, "unknown scheduler 'debba'; use deba"),
        ("noise", {}, "unknown scheduler 'noise'; use noise_scale"),
        ("timde", {}, "unknown scheduler 'timde'; use timed"),
        ("deba", {"reading": "mid"}, f"{READING} 'mid'; use mild"),
        ("deba", {"reading": 3}, f"{READING} '3'; use eager or literal or mild or strict"),
        ("deba", {"redding": 1}, f"{UNKNOWN} deba 'redding'; use reading"),
        ("timed", {"reading": 1}, f"{UNKNOWN} timed 'reading'; use cooldown or growth"),
        ("fixed", {"qqq": 1}, f"{UNKNOWN} fixed 'qqq'; use cooldown"),
        ("deba", {"calibration_epochs": 1}, "deba needs calibration_epochs >= 2, a whole number"),
        ("deba", {"growth": 1}, FACTORS),
        ("deba", {"shrink": 1}, FACTORS),
        ("deba", {"shrink": 0}, FACTORS),
        ("deba", {"spike": 0}, FACTORS),
        ("deba", {"tolerance": 0}, FACTORS),
        ("deba", {"growth": "x"}, f"arguments of deba: {NO_NUMBER}"),
        ("deba", {"threshold_quantile": 2}, "deba needs threshold_quantile from 0 to 1"),
        ("deba", {"min_calm_signals": 0}, "deba needs min_calm_signals from 1 to 3"),
        ("deba", {"floor": "none"}, "deba floor is 'none'; use initial or minimum"),
        ("deba", {"thresholds": {}}, THRESHOLDS),
        ("adabatch", {"every": 0}, ADABATCH),
        ("adabatch", {"every": 1.5}, ADABATCH),
        ("adabatch", {"factor": 1}, ADABATCH),
        ("noise_scale", {"every": 0}, EVERY),
        ("noise_scale", {"every": 1.5}, EVERY),
        ("noise_scale", {"deadband": -0.1}, EVERY),
        ("norm_test", {"every": 0}, NORM_TEST),
        ("norm_test", {"every": 1.5}, NORM_TEST),
        ("norm_test", {"theta": 0}, NORM_TEST),
        ("replay", {"batch_sizes": 5}, f"replay {SEQUENCE}"),
        ("replay", {"batch_sizes": [16, 0]}, f"replay {SEQUENCE}"),
        ("random", {"batch_sizes": []}, f"random {SEQUENCE}"),
        ("replay", {"batch_sizes": [24, 16]}, "the sequence starts at batch 24; use -b 24"),
        ("replay", {"batch_sizes": [16, 20]}, OFF_LIMITS.format(20)),
        ("random", {"batch_sizes": [16, 16, 208]}, OFF_LIMITS.format(208)),
        ("timed", {"growth": 1}, "timed growth is 1; use a number above 1"),
    ],
)  # fmt: skip
def test_a_bad_request_ends_in_this_line(name: str, args: dict[str, Any], line: str) -> None:
    config = RunConfig(model="m", scheduler=name, scheduler_args=args)
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        make_scheduler(config, num_train=1000)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("noise_scale", {"every": 1, "deadband": 0}),
        ("norm_test", {"every": 1}),
        ("adabatch", {"every": 1, "factor": 1.01}),
        ("deba", {"threshold_quantile": 0}),
        ("deba", {"threshold_quantile": 1}),
        ("deba", {"calibration_epochs": 2, "window": 1}),
    ],
)
def test_the_least_that_is_allowed_is_taken(name: str, args: dict[str, Any]) -> None:
    make_scheduler(RunConfig(model="m", scheduler=name, scheduler_args=args), num_train=1000)
