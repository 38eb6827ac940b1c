"""Paired statistics against other implementations, and their invariants."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stability_probe.errors import UsageError
from stability_probe.paired import (
    compare_runs,
    detectable_sd,
    differences,
    holm,
    machine_of,
    mean_interval,
    same_machine,
    t_test,
    whole_environment,
)
from tests.predictor_factories import make_run

values = st.lists(st.floats(-50, 50), min_size=2, max_size=8)
probabilities = st.lists(st.none() | st.floats(0, 1), max_size=12)


def pair(device: str = "cpu", last: float = 0.81) -> tuple[object, ...]:
    fixed = make_run(
        batch_sizes=(16,) * 4,
        accuracies=(0.5, 0.7, 0.8, 0.8),
        cpu_s=(2.0, 2.0, 3.0, 3.0),
        time_s=(2.5,) * 4,
        updates=(60,) * 4,
        device=device,
        seed=3,
    )
    adaptive = make_run(
        batch_sizes=(16, 16, 32, 64),
        accuracies=(0.5, 0.7, 0.75, last),
        cpu_s=(2.0, 2.0, 2.0, 1.0),
        time_s=(2.5, 2.5, 2.5, 1.5),
        updates=(60, 60, 30, 15),
        device=device,
        seed=3,
        scheduler="deba",
    )
    return fixed, adaptive


def test_cpu_runs_are_compared_in_cpu_seconds() -> None:
    got = compare_runs(*pair())  # type: ignore[arg-type]
    assert got.seed == 3
    assert got.time_saved_pct == pytest.approx(100 * (1 - 7 / 10))
    assert got.accuracy_delta_pp == pytest.approx(1.0)
    # the fixed run's 20, 10 and 0 points
    assert got.fixed_scatter_pp == pytest.approx(math.sqrt(500 / 3))
    assert got.updates_saved_pct == pytest.approx(100 * (1 - 165 / 240))
    # target 0.795: the fixed run passes it after 2 + 2 + 3 s, the adaptive one at its end
    assert got.time_to_target_saved_pct == pytest.approx(0.0)
    assert got.benefit_class == "benefits"


def test_other_devices_are_compared_by_the_wall_clock() -> None:
    got = compare_runs(*pair(device="cuda:0"))  # type: ignore[arg-type]
    assert got.time_saved_pct == pytest.approx(100 * (1 - 9 / 10))
    assert got.time_to_target_saved_pct == pytest.approx(100 * (1 - 9 / 7.5))


def test_the_target_is_half_a_point_below_and_a_miss_is_infinite() -> None:
    reached = compare_runs(*pair(last=0.7951))  # type: ignore[arg-type]
    assert math.isfinite(reached.time_to_target_saved_pct)
    missed = compare_runs(*pair(last=0.7949))  # type: ignore[arg-type]
    assert missed.time_to_target_saved_pct == -math.inf
    assert missed.benefit_class == "harms"


ON_CPU = {"device_name": "AMD EPYC", "threads": "2", "torch": "2.14.1", "cuda": ""}
ON_CARD = {**ON_CPU, "device_name": "NVIDIA H100", "cuda": "13.0"}


def test_a_machine_in_words() -> None:
    assert machine_of(ON_CPU) == "AMD EPYC, 2 threads, torch 2.14.1"
    assert machine_of(ON_CPU | {"threads": "1"}) == "AMD EPYC, 1 thread, torch 2.14.1"
    assert machine_of(ON_CARD) == "NVIDIA H100, torch 2.14.1"
    assert machine_of(ON_CARD | {"processes": "2"}) == "NVIDIA H100, torch 2.14.1, 2 processes"
    assert machine_of({}) == ""


@pytest.mark.parametrize(
    ("environment", "changed", "same"),
    [
        (ON_CPU, {"device_name": "Intel"}, False),
        (ON_CPU, {"threads": "1"}, False),
        (ON_CPU, {"torch": "2.15.0"}, False),
        (ON_CPU, {"processes": "2"}, False),
        (ON_CPU, ON_CARD, False),
        (ON_CPU, {"python": "3.12", "platform": "Linux-7", "timm": "2"}, True),
        (ON_CARD, {"threads": "16"}, True),
        (ON_CARD, {"device_name": "NVIDIA H200"}, False),
    ],
)
def test_seconds_of_two_machines_are_not_compared(
    environment: dict[str, str], changed: dict[str, str], same: bool
) -> None:
    fixed, adaptive = (dataclasses.replace(r, environment=environment) for r in pair())  # type: ignore[type-var]
    moved = dataclasses.replace(adaptive, environment={**environment, **changed})
    assert same_machine(fixed, moved) is same
    assert compare_runs(fixed, adaptive).time_saved_pct == pytest.approx(30.0)
    if same:
        assert compare_runs(fixed, moved) == compare_runs(fixed, adaptive)
        return
    words = r"another machine .* use another -o"
    if changed == {"threads": "1"}:
        words = "another number of threads .* use --threads 1, or another -o"
    with pytest.raises(UsageError, match=words) as caught:
        compare_runs(fixed, moved)
    assert machine_of(moved.environment) in str(caught.value)
    assert machine_of(environment) in str(caught.value)


def test_seconds_of_a_run_on_several_machines_compare_with_none() -> None:
    """Not even with those of a run on the same: which epochs ran where is not known."""
    stretches = [ON_CPU, {**ON_CPU, "torch": "9"}]
    both = [dataclasses.replace(r, environment=whole_environment(stretches)) for r in pair()]  # type: ignore[type-var]
    assert not same_machine(both[0], both[1])
    with pytest.raises(UsageError, match="a run of one machine after another"):
        compare_runs(both[0], both[1])


@given(values, values)
def test_the_t_test_is_the_textbook_one(left: list[float], right: list[float]) -> None:
    pairs = list(zip(left, right, strict=False))
    d = [a - b for a, b in pairs]
    spread = float(np.std(d, ddof=1)) if len(d) > 1 else 0.0
    if spread <= 1e-6:
        return
    t = np.mean(d) / (spread / math.sqrt(len(d)))
    expected = 2 * stats.t.sf(abs(t), len(d) - 1)
    assert t_test(d) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("d", "p"), [([1.0], None), ([], None), ([2.0, 2.0], 0.0), ([0.0, 0.0, 0.0], 1.0)]
)
def test_the_t_test_of_what_does_not_vary(d: list[float], p: float | None) -> None:
    assert t_test(d) == p


def naive_holm(p_values: list[float]) -> list[float]:
    """Straight from the definition: the largest of the step-down products so far."""
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    products = [min(1.0, (m - rank) * p_values[i]) for rank, i in enumerate(order)]
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(products) if m else []
    return [float(p) for p in adjusted]


@given(probabilities)
def test_holm(p_values: list[float | None]) -> None:
    got = holm(p_values)
    known = [p for p in p_values if p is not None]
    assert [p is None for p in got] == [p is None for p in p_values]
    assert [p for p in got if p is not None] == pytest.approx(naive_holm(known))
    # Never smaller than uncorrected, never larger than Bonferroni.
    for before, after in zip(p_values, got, strict=True):
        if before is not None and after is not None:
            assert before <= after <= min(1.0, len(known) * before) + 1e-12


def test_holm_of_statsmodels_example() -> None:
    # multipletests([0.01, 0.04, 0.03, 0.005], method="holm") of statsmodels 0.14
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(values.filter(lambda v: np.std(v) > 1e-6))
def test_the_interval_is_scipys(v: list[float]) -> None:
    expected = stats.t.interval(0.9, len(v) - 1, np.mean(v), stats.sem(v))
    assert mean_interval(v, 0.9) == pytest.approx(expected)


def test_one_value_has_no_interval_and_no_test() -> None:
    assert mean_interval([3.0], 0.9) == (-math.inf, math.inf)


def test_equal_steps_of_a_coarse_measure_prove_nothing() -> None:
    """Two seeds that lose one test image of 360 each may do so by chance."""
    step = 100 / 360
    assert t_test([-step, -step]) == 0.0
    p = t_test([-step, -step], step)
    assert p is not None
    assert p > 0.1
    low, high = mean_interval([-step, -step], 0.9, step)
    assert low < -step < high
    (told,) = differences([[-step, -step]], [[-step, -step]], None, step)
    assert (told.larger_than_noise, told.resolution) == (False, step)


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=6))
def test_rounding_never_makes_a_difference_surer(steps: list[int]) -> None:
    values = [s * 0.5 for s in steps]
    plain, coarse = t_test(values), t_test(values, 0.5)
    assert plain is not None
    assert coarse is not None
    assert coarse >= plain - 1e-12
    if len(set(values)) > 1:
        assert plain == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert detectable_sd(1, 3) is None


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 14), (5, 14), (5, 1), (10, 20)])
def test_what_is_called_detectable_just_passes(seeds: int, comparisons: int) -> None:
    """A difference of that many SDs, the others being nothing, sits on the edge of the test."""
    limit = detectable_sd(seeds, comparisons)
    assert limit is not None
    least = detectable_sd(seeds, 1)
    assert least is not None
    shape = np.random.default_rng(0).standard_normal(seeds)
    shape = (shape - shape.mean()) / shape.std(ddof=1)
    nothing = [list(shape)] * (comparisons - 1)
    for factor, passes in ((0.999, False), (1.001, True)):
        one = list(shape + factor * limit)
        got = differences([one, *nothing], [one, *nothing], floor=0.0)
        assert got[0].larger_than_noise is passes
    # Where the others have passed, the last needs no more than it would alone.
    clear = [list(shape + 99.0)] * (comparisons - 1)
    for factor, passes in ((0.999, False), (1.001, True)):
        one = list(shape + factor * least)
        assert differences([one, *clear], [one, *clear], floor=0.0)[0].larger_than_noise is passes


def test_what_the_noise_alone_does_is_no_difference() -> None:
    one = [1.0, 1.01, 0.99]
    assert differences([one], [one], floor=0.9)[0].larger_than_noise
    assert not differences([one], [one], floor=1.1)[0].larger_than_noise
    assert differences([one], [one], floor=None)[0].larger_than_noise
    assert not differences([[5.0]], [[5.0]], floor=None)[0].larger_than_noise


def test_false_alarms_stay_below_the_level() -> None:
    """Nothing differs: in 400 studies of 12 arms and 4 seeds, some arm is called different in
    about 5 %."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        arms = [list(row) for row in rng.standard_normal((12, 4))]
        alarms += any(d.larger_than_noise for d in differences(arms, arms, floor=0.0))
    assert alarms <= 34  # 5 % of 400 is 20; 34 is three standard deviations above
