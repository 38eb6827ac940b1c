"""DEBA rehearsed on an extrapolated window."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.rehearsal import _records, extrapolate, rehearse
from stability_probe.records import Profile
from tests.predictor_factories import make_profile

EAGER = {"reading": "eager"}
positive = st.floats(0.01, 100.0)


def rehearsed(profile: Profile, epochs: int = 40, **more: object) -> tuple[int, ...]:
    values = {"batch_size": 16, "max_batch_size": 256, "scheduler_args": EAGER} | more
    return rehearse(profile, epochs=epochs, **values)  # type: ignore[arg-type]


def test_a_power_law_goes_on_as_it_was() -> None:
    known = tuple(3.0 * e**-0.5 for e in range(1, 5))
    got = extrapolate(known, 30, np.random.default_rng(0))
    np.testing.assert_allclose(got, 3.0 * np.arange(1, 31) ** -0.5, rtol=1e-9)


def test_scatter_goes_on_and_its_draw_is_repeatable() -> None:
    known = (1.0, 0.5, 0.9, 0.4, 0.6)
    got = extrapolate(known, 5000, np.random.default_rng(0))
    np.testing.assert_allclose(got[:5], known)
    np.testing.assert_array_equal(got, extrapolate(known, 5000, np.random.default_rng(0)))
    logs, at = np.log(known), np.log(np.arange(1, 6))
    slope, level = np.polyfit(at, logs, 1)
    spread = np.sqrt(((logs - level - slope * at) ** 2).sum() / 3)
    later = np.log(got[5:]) - level - slope * np.log(np.arange(6, 5001))
    assert later.std() == pytest.approx(spread, rel=0.05)
    with pytest.raises(ValueError, match="two epochs"):
        extrapolate((1.0,), 5, np.random.default_rng(0))


@given(st.lists(positive, min_size=2, max_size=6), st.integers(1, 60), st.integers(0, 5))
def test_a_rehearsal_is_a_batch_sequence(norms: list[float], epochs: int, seed: int) -> None:
    got = rehearsed(make_profile(norms), epochs, seed=seed)
    assert len(got) == epochs
    assert set(got[: len(norms)]) == {16}
    assert all(16 <= b <= 256 and b % 8 == 0 for b in got)
    assert got == rehearsed(make_profile(norms), epochs, seed=seed)


def test_calm_gradients_climb_at_every_cooldown_and_stop_at_the_bound() -> None:
    calm = make_profile((1.0, 0.8, 0.7, 0.65))
    got = rehearsed(calm, 60)
    assert got[-1] == 256
    changes = [i for i in range(1, 60) if got[i] != got[i - 1]]
    assert all(b - a >= 5 for a, b in itertools.pairwise(changes))
    assert max(rehearsed(calm, 60, max_batch_size=48)) == 48
    assert max(rehearsed(calm, 60, max_batch_size=8)) == 16, "a bound below the batch is the batch"


@pytest.mark.parametrize(("trace", "signal"), [(16.0, 0.0), (16.0, 1.0), (0.0, 1.0)])
def test_the_norm_falls_with_the_batch_as_the_noise_says(trace: float, signal: float) -> None:
    """By E‖g_B‖² = ‖G‖² + tr Σ / B: at four times the batch, all noise halves the norm."""
    profile = make_profile((1.0,) * 4, trace_sigma=trace, grad_sq_norm=signal)
    sizes = [16]
    told = []
    for record in _records(profile, 8, sizes, np.random.default_rng(0)):
        told.append((record.batch_size, record.grad_norm, record.grad_component_variance))
        sizes.append(64 if record.epoch >= 4 else 16)
    left = np.sqrt((signal + trace / 64) / (signal + trace / 16))
    assert [b for b, *_ in told] == [16] * 4 + [64] * 4
    np.testing.assert_allclose([n for _, n, _ in told], [1.0] * 4 + [left] * 4)
    np.testing.assert_allclose([v for *_, v in told], [1e-6] * 4 + [1e-6 * left**2] * 4)


def test_a_gradient_that_vanishes_is_rehearsed_without_a_warning() -> None:
    """As dead units leave it: zero in some epochs, or in all."""
    some = make_profile((1.0, 0.5, 0.0, 0.25))
    with np.errstate(all="raise"):
        sizes = rehearsed(some)
        records = _records(some, 10, [16], np.random.default_rng(0))
        ratios = [r.grad_component_variance / r.grad_norm**2 for r in records]
        none = rehearsed(make_profile((0.0,) * 4, losses=(2.3,) * 4))
    assert sizes[0] == none[0] == 16
    np.testing.assert_allclose(ratios, 1e-6)


def test_a_norm_without_any_noise_or_signal_is_left_alone() -> None:
    empty = make_profile((1.0, 0.9, 0.8, 0.7), trace_sigma=0.0, grad_sq_norm=0.0)
    assert rehearsed(empty) == rehearsed(make_profile((1.0, 0.9, 0.8, 0.7)))
