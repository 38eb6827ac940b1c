"""Each formula against a second way to its answer."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stability_probe import metrics
from stability_probe.errors import UsageError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from tests.factories import make_curve, make_epoch

positive = st.floats(1e-3, 1e3)


def test_component_variance_is_numpys() -> None:
    g = np.random.default_rng(0).normal(0.3, 2.0, 1001)
    got = metrics.component_variance(float((g**2).sum()), float(g.sum()), g.size)
    assert got == pytest.approx(g.var(), rel=1e-9)


def test_component_variance_is_not_negative_by_rounding() -> None:
    assert metrics.component_variance(1.0, math.sqrt(3.0) + 1e-9, 3) == 0.0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_statistics_of_an_epoch_by_hand(steps: int) -> None:
    g = np.random.default_rng(steps).normal(0.3, 2.0, (steps, 50))
    got = metrics.gradient_statistics([((x**2).sum(), x.sum()) for x in g], 50)
    norms, variances = [math.dist(x, np.zeros(50)) for x in g], [x.var() for x in g]
    sem = np.std(norms, ddof=1) / steps**0.5 if steps > 1 else 0.0
    assert got == pytest.approx(
        {
            "grad_norm": np.mean(norms),
            "grad_norm_sem": sem,
            "grad_norm_last": norms[-1],
            "grad_component_variance": np.mean(variances),
            "grad_component_variance_last": variances[-1],
            "num_measured_steps": steps,
        }
    )


@pytest.mark.parametrize(("batch", "count", "dim", "s"), [(4, 8, 20, 1.0), (16, 4, 5, 0.5)])
def test_noise_scale_of_the_analytic_quadratic(batch: int, count: int, dim: int, s: float) -> None:
    """Loss ½‖θ−z‖² with z ~ N(μ, s²I): per-sample gradient θ−z, noise scale d·s²/‖θ−μ‖²."""
    rng = np.random.default_rng(1)
    distance = np.full(dim, 0.7)
    records = []
    for _ in range(4000):
        micro = (distance - rng.normal(0, s, (count, batch, dim))).mean(axis=1)
        small = (micro**2).sum(axis=1)
        records.append(metrics.noise_scale(small, float((micro.mean(axis=0) ** 2).sum()), batch))
    trace = np.array([r.trace_sigma for r in records])
    sq_norm = np.array([r.grad_sq_norm for r in records])
    for estimate, truth in ((trace, dim * s**2), (sq_norm, (distance**2).sum())):
        assert abs(estimate.mean() - truth) < 4 * estimate.std() / math.sqrt(len(estimate))
    ratio = trace.mean() / sq_norm.mean()
    assert ratio == pytest.approx(dim * s**2 / (distance**2).sum(), rel=0.05)


def test_noise_scale_is_undefined_rather_than_huge() -> None:
    record = metrics.noise_scale([1.0, 1.0], 0.4, 8)
    assert record.grad_sq_norm <= 0
    assert record.noise_scale is None


def test_noise_scale_of_equal_micro_batches_is_zero() -> None:
    record = metrics.noise_scale([2.0, 2.0], 2.0, 8)
    assert (record.noise_scale, record.num_samples, record.time_s) == (0.0, 16, 0.0)


def test_noise_scale_needs_two_micro_batches() -> None:
    with pytest.raises(ValueError, match=r"^the noise scale needs at least two micro-batches$"):
        metrics.noise_scale([1.0], 1.0, 8)


def test_relative_change_by_hand() -> None:
    assert metrics.relative_change(0.5, 2.0) == pytest.approx(0.75)
    assert metrics.relative_change(1.0, 0.0) == pytest.approx(1e8)


def test_stability_score_by_hand() -> None:
    # mean 2, sample standard deviation 1: CV ½
    assert metrics.stability_score([1.0, 2.0, 3.0]) == pytest.approx(2 / 3)
    assert metrics.stability_score([0.5, 1.5]) == pytest.approx(1 / (1 + math.sqrt(0.5)))
    assert metrics.stability_score([0.0, 0.0]) == 1.0
    with pytest.raises(ValueError, match=r"^the stability score needs at least two epochs$"):
        metrics.stability_score([1.0])


@given(st.lists(positive, min_size=2, max_size=20), positive)
def test_stability_score_ignores_scale_and_order(norms: list[float], scale: float) -> None:
    score = metrics.stability_score(norms)
    assert 0 < score <= 1
    assert metrics.stability_score([scale * n for n in norms]) == pytest.approx(score)
    assert metrics.stability_score(norms[::-1]) == pytest.approx(score)


def test_stability_metrics_by_hand() -> None:
    noise = metrics.noise_scale([3.0, 3.0], 2.0, 8)
    window = [
        make_epoch(epoch=1, grad_norm=1.0, loss=2.0),
        make_epoch(epoch=2, grad_norm=3.0, loss=1.2, noise=noise),
    ]
    got = metrics.stability_metrics(metrics.profile(window))
    assert got.grad_norm_variation == pytest.approx(2.0)
    assert got.loss_variation == pytest.approx(0.4)
    assert got.noise_scale == noise.noise_scale
    assert got.stability_score == pytest.approx(1 / (1 + math.sqrt(2) / 2))


def test_metrics_of_a_profile_are_the_means_of_what_epochs_record() -> None:
    """The loop records each epoch's change; a stored profile has them computed again."""
    norms, losses = (1.0, 0.7, 0.9, 0.4), (2.0, 1.5, 1.6, 1.1)
    changes = [[abs(b - a) / a for a, b in itertools.pairwise(v)] for v in (norms, losses)]
    window = [make_epoch(epoch=i, grad_norm=norms[i], loss=losses[i]) for i in range(4)]
    got = metrics.stability_metrics(metrics.profile(window))
    assert got.grad_norm_variation == pytest.approx(np.mean(changes[0]))
    assert got.loss_variation == pytest.approx(np.mean(changes[1]))
    assert got.noise_scale is None
    assert got.grad_component_variance == np.mean([e.grad_component_variance for e in window])
    half = dataclasses.replace(metrics.profile(window), trace_sigma=None, grad_sq_norm=1.0)
    assert metrics.stability_metrics(half).noise_scale is None
    first = metrics.stability_metrics(metrics.profile(window).first(2))
    assert first.grad_norm_variation == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"^a change needs at least two epochs$"):
        metrics.mean_relative_change([1.0])


@pytest.mark.parametrize(
    ("trace", "signal", "expected"), [(6.0, 2.0, 3.0), (6.0, 0.0, None), (-1.0, 2.0, None)]
)
def test_noise_over_signal_is_undefined_with_a_wrong_sign(
    trace: float, signal: float, expected: float | None
) -> None:
    assert metrics.noise_over_signal(trace, signal) == expected


def test_mean_std_is_the_sample_deviation() -> None:
    got = metrics.mean_std([1.0, 2.0, 4.0])
    assert (got.mean, got.std) == (pytest.approx(7 / 3), pytest.approx(np.std([1, 2, 4], ddof=1)))
    assert metrics.mean_std([1.0, 3.0]).std == pytest.approx(math.sqrt(2))
    assert metrics.mean_std([5.0]).std is None


def test_speed_between_and_beyond_the_points() -> None:
    curve = make_curve([16, 64], [100.0, 300.0])
    assert metrics.samples_per_s(curve, 32) == pytest.approx(200.0)
    assert metrics.samples_per_s(curve, 8) == 100.0
    assert metrics.samples_per_s(curve, 4096) == 300.0


def test_headroom_looks_at_larger_batches_only() -> None:
    curve = make_curve([16, 32, 64, 128], [400.0, 100.0, 250.0, 200.0])
    assert metrics.best_batch_size(curve, 32) == 64
    assert metrics.headroom(curve, 32) == pytest.approx(2.5)
    assert metrics.headroom(curve, 64) == 1.0
    assert metrics.best_batch_size(curve, 64) == 64
    assert metrics.best_batch_size(curve, 512) == 512


def test_path_time_is_the_sum_of_its_epochs() -> None:
    curve = make_curve([16, 64], [100.0, 200.0])
    assert metrics.path_time_s(curve, [16, 16, 64], 1000) == pytest.approx(10 + 10 + 5)


def test_time_to_target() -> None:
    assert metrics.time_to_target_s([0.1, 0.5, 0.6], [1.0, 2.0, 3.0], 0.5) == 3.0
    assert metrics.time_to_target_s([0.1], [1.0], 0.5) == math.inf
    with pytest.raises(ValueError, match="shorter"):
        metrics.time_to_target_s([0.1, 0.2], [1.0], 0.5)


@pytest.mark.parametrize("num_test", [200, 400, 1000])
@pytest.mark.parametrize("kind", [float, np.float32])
def test_exactly_the_target_is_reached_whatever_the_fractions(
    num_test: int, kind: Callable[[float], float]
) -> None:
    """Half a point is a whole number of samples; float32 is what earlier versions recorded."""
    fewer = num_test // 200
    for hits in range(fewer + 1, num_test + 1):
        final, reached, missed = (
            float(kind(n / num_test)) for n in (hits, hits - fewer, hits - fewer - 1)
        )
        target = final - metrics.TARGET_MARGIN_PP / 100
        assert metrics.time_to_target_s([missed, reached], [1.0, 2.0], target) == 3.0


def test_saved_and_delta_signs() -> None:
    assert metrics.saved_pct(60.0, 80.0) == pytest.approx(25.0)
    assert metrics.accuracy_delta_pp(0.91, 0.93) == pytest.approx(-2.0)


def test_scatter_is_of_the_last_five_changes() -> None:
    accuracies = [0.1, 0.9, 0.91, 0.89, 0.89, 0.92, 0.92]
    changes = [1.0, -2.0, 0.0, 3.0, 0.0]
    got = metrics.accuracy_scatter_pp(accuracies)
    assert got == pytest.approx(math.sqrt(sum(c * c for c in changes) / 5))
    assert metrics.accuracy_scatter_pp([0.5, 0.52]) == pytest.approx(2.0)
    assert metrics.accuracy_scatter_pp([0.5]) is None


@pytest.mark.parametrize(
    ("saved", "delta", "expected"),
    [
        (10.0, -0.5, "benefits"),
        (9.9, 3.0, "neutral"),
        (50.0, -0.51, "harms"),
        (-20.0, 0.0, "neutral"),
    ],
)
def test_benefit_class_at_its_limits(saved: float, delta: float, expected: str) -> None:
    assert metrics.benefit_class(saved, delta, DEFAULT_LIMITS) == expected


limits_ = st.builds(
    Limits,
    min_time_saved_pct=st.floats(0, 99.9),
    max_accuracy_loss_pp=st.floats(0, 99.9),
)


def test_the_share_of_a_class_counts_each_delta() -> None:
    shares = [
        metrics.class_share(kind, saved, [0.0, -0.5, -0.6, -2.0], DEFAULT_LIMITS)
        for saved, kind in (
            (20.0, "benefits"),
            (20.0, "harms"),
            (5.0, "benefits"),
            (5.0, "neutral"),
        )
    ]
    assert shares == [0.5, 0.5, 0.0, 0.5]


@given(saved=st.floats(-100, 100), delta=st.floats(-100, 100), limits=limits_, looser=limits_)
def test_looser_limits_take_no_benefit_away(
    saved: float, delta: float, limits: Limits, looser: Limits
) -> None:
    told = metrics.benefit_class(saved, delta, limits)
    # A thousandth of a point lies within the rounding that is forgiven.
    if abs(delta + limits.max_accuracy_loss_pp) > 2e-3:
        lost = delta < -limits.max_accuracy_loss_pp
        enough = saved >= limits.min_time_saved_pct
        assert told == ("harms" if lost else "benefits" if enough else "neutral")
    easier = Limits(
        min_time_saved_pct=min(limits.min_time_saved_pct, looser.min_time_saved_pct),
        max_accuracy_loss_pp=max(limits.max_accuracy_loss_pp, looser.max_accuracy_loss_pp),
    )
    if told == "benefits":
        assert metrics.benefit_class(saved, delta, easier) == "benefits"


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), st.floats(0.01, 100))
def test_a_network_learns_when_some_epoch_is_clearly_better_than_the_first(
    later: list[float], first: float
) -> None:
    assert metrics.learns([first, *later, first * 0.94])
    assert not metrics.learns([first, *(first * max(0.951, x) for x in later)])
    assert metrics.learns([first])


@pytest.mark.parametrize("value", [-0.1, 100.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("min_time_saved_pct", "the least time saved is"),
        ("max_accuracy_loss_pp", "the largest loss of accuracy is"),
    ],
)
def test_limits_that_cannot_be(name: str, words: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{words} {value:g}; use"):
        Limits(**{name: value})


@pytest.mark.parametrize("num_test", [200, 600, 1000, 10_000])
def test_exactly_the_limit_is_no_loss_whatever_the_fractions(num_test: int) -> None:
    """As fractions and as the six digits that a corpus keeps; one more sample is a loss."""
    fewer = num_test // 200
    for hits in range(fewer + 1, num_test + 1):
        for digits in (17, 6):
            before, after, lost = (
                round(n / num_test, digits) for n in (hits, hits - fewer, hits - fewer - 1)
            )
            assert not metrics.loses_accuracy(
                metrics.accuracy_delta_pp(after, before), DEFAULT_LIMITS
            )
            assert metrics.loses_accuracy(metrics.accuracy_delta_pp(lost, before), DEFAULT_LIMITS)
