"""Studies: which arms are run, what is set against what, and what is concluded from it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from rich.console import Console

import cli
from stability_probe import study, sweep
from stability_probe.ablate import ablate, ablation_study, differing, judge, profile_arm
from stability_probe.ablate import independent_arms as ablation_arms
from stability_probe.advice import choose
from stability_probe.compare import (
    AGAIN,
    AVERAGE,
    AVERAGE_SCALED,
    LARGEST_SCALED,
    REPLAYED,
    RIVALS,
    SCATTERED,
    compare,
    compare_study,
    deba_controls,
    independent_arms,
)
from stability_probe.config import RunConfig
from stability_probe.errors import RunError, UsageError
from stability_probe.executors import LocalProcesses
from stability_probe.limits import Limits
from stability_probe.optim import learning_rate
from stability_probe.paired import holm, t_test
from stability_probe.plain import from_plain, to_plain
from stability_probe.plots import draw_study
from stability_probe.progress import Progress, Quiet
from stability_probe.records import RunResult, Study
from stability_probe.run import run
from stability_probe.schedulers.deba import thresholds_of
from stability_probe.store import Store, read_study
from stability_probe.study import Arm, run_arms
from stability_probe.study_summary import study_json, study_table
from tests.factories import make_curve
from tests.predictor_factories import make_run

BASE = RunConfig(model="resnet10t", epochs=10, window_epochs=2, channels_last="off")
SEEDS = (0, 1, 2)
CURVE = make_curve([16, 32, 128], [100.0, 150.0, 200.0])
CLIMB = (16, 16, 16, 24, 24, 40, 40, 56, 56, 80)


def fake_results(
    arms: Sequence[Arm],
    outcome: Callable[[Arm, int], tuple[float, float]],
    climbs: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, RunResult]:
    """Results with the (seconds, accuracy) that `outcome` gives an arm and a seed.

    Schedules climb as `climbs` says by arm, else as `CLIMB`.
    """
    results = {}
    for arm in arms:
        for config in arm.configs:
            seconds, accuracy = outcome(arm, config.seed)
            climb = (climbs or {}).get(arm.name, CLIMB)
            sizes = climb if config.scheduler != "fixed" else (config.batch_size,) * 10
            described = {
                name: value
                for name, value in config.to_dict().items()
                if name not in ("model", "epochs", "window_epochs")
            }
            made = make_run(
                batch_sizes=sizes,
                accuracies=[accuracy] * 10,
                cpu_s=[seconds / 10] * 10,
                **described,
            )
            results[config.run_id()] = dataclasses.replace(made, run_id=config.run_id())
    return results


def jitter(seed: int, arm: Arm) -> float:
    return float(np.random.default_rng([seed, len(arm.name), ord(arm.name[-1])]).normal())


def all_arms(outcome: Callable[[Arm, int], tuple[float, float]]) -> tuple[list[Arm], Any]:
    arms = independent_arms(BASE, SEEDS, RIVALS, 1000)
    results = fake_results(arms, outcome)
    controls = deba_controls(arms, results)
    return [*arms, *controls], results | fake_results(controls, outcome)


def steady(arm: Arm, seed: int) -> tuple[float, float]:
    """DEBA takes 60 % of the time, fixed x8 30 % and 5 points; the rest changes nothing."""
    noise = jitter(seed, arm)
    share = {"deba": 0.6, REPLAYED: 0.6, "timed": 0.5}.get(arm.name, 1.0)
    share = 0.3 if arm.name.startswith("fixed x8") else share
    lost = 0.05 if arm.name.startswith("fixed x8") else 0.0
    return 100 * share * (1 + 0.001 * noise), 0.8 - lost + 0.0001 * noise


# --- which runs ---------------------------------------------------------------------------------


def test_the_arms_of_a_comparison() -> None:
    arms = {a.name: a for a in independent_arms(BASE, SEEDS, RIVALS, 1000)}
    assert [a for a in arms if arms[a].role == "schedule"] == list(RIVALS)
    assert [a for a in arms if arms[a].role == "fixed"] == [
        *("fixed x2", "fixed x2, lr x2", "fixed x4", "fixed x4, lr x4"),
        *("fixed x8", "fixed x8, lr x8"),
    ]
    assert [a for a in arms if arms[a].role == "decay"] == ["cosine", "step"]
    larger = arms["fixed x4, lr x4"].configs[0]
    assert (larger.batch_size, learning_rate(larger, 1, 64)) == (64, pytest.approx(0.04))
    for arm in arms.values():
        assert [c.seed for c in arm.configs] == list(SEEDS)
        assert len({c.run_id() for c in arm.configs}) == 3
    again, fixed = arms[AGAIN].configs[1], arms["fixed"].configs[1]
    assert dataclasses.replace(again, order_seed=None) == fixed
    assert again.stream_seed != fixed.stream_seed


def test_the_rate_rule_is_that_of_the_optimizer() -> None:
    base = dataclasses.replace(BASE, optimizer="adamw", lr=0.001)
    arms = {a.name: a for a in independent_arms(base, (0,), (), 1000)}
    assert arms["fixed x4, lr x2"].configs[0].lr == pytest.approx(0.002)


def test_a_batch_larger_than_the_data_is_left_out() -> None:
    names = [a.name for a in independent_arms(BASE, (0,), (), 127)]
    assert "fixed x4" in names
    assert "fixed x8" not in names


def test_a_batch_larger_than_the_largest_that_is_allowed_is_left_out() -> None:
    base = dataclasses.replace(BASE, max_batch_size=64)
    arms = independent_arms(base, (0,), ("timed",), 1000)
    assert {a.configs[0].batch_size for a in arms} == {16, 32, 64}
    assert all(c.max_batch_size == 64 for a in arms for c in a.configs)


def test_no_decay_twice() -> None:
    base = dataclasses.replace(BASE, lr_schedule="cosine")
    names = [a.name for a in independent_arms(base, (0,), (), 1000)]
    assert "step" in names
    assert "cosine" not in names


def test_the_controls_of_deba() -> None:
    arms = independent_arms(BASE, SEEDS, ("deba",), 1000)
    results = fake_results(arms, steady)
    deba = next(a for a in arms if a.name == "deba")
    grown = tuple(dataclasses.replace(e, batch_size=16 + 8 * i) for i, e in enumerate(
        results[deba.configs[1].run_id()].epochs))  # fmt: skip
    results[deba.configs[1].run_id()] = dataclasses.replace(
        results[deba.configs[1].run_id()], epochs=grown
    )
    controls = {a.name: a for a in deba_controls(arms, results)}
    sequences = [c.scheduler_args["batch_sizes"] for c in controls[REPLAYED].configs]
    # Each seed replays the next one's sequence.
    assert sequences == [[e.batch_size for e in grown], list(CLIMB), list(CLIMB)]
    own = [c.scheduler_args["batch_sizes"] for c in controls[SCATTERED].configs]
    assert own == [list(CLIMB), [e.batch_size for e in grown], list(CLIMB)]
    sizes = [c.batch_size for c in controls[AVERAGE].configs]
    assert sizes == [40, 56, 40]  # means 36.8 and 52, on the grid of 8
    assert {c.lr for c in controls[AVERAGE].configs} == {0.01}
    # The rule of SGD: twice the batch, twice the rate.
    scaled = [(c.batch_size, c.lr) for c in controls[AVERAGE_SCALED].configs]
    assert scaled == [(40, pytest.approx(0.025)), (56, pytest.approx(0.035)), scaled[0]]
    largest = [(c.batch_size, c.lr) for c in controls[LARGEST_SCALED].configs]
    assert largest == [(80, pytest.approx(0.05)), (88, pytest.approx(0.055)), largest[0]]


def test_the_rate_of_a_constant_control_is_scaled_once() -> None:
    """By the rule of the optimizer; where DEBA itself scales its rate so, once is enough."""
    base = dataclasses.replace(BASE, optimizer="adamw", lr=0.001, lr_rule="sqrt", max_batch_size=80)
    arms = independent_arms(base, SEEDS, ("deba",), 1000)
    controls = {a.name: a for a in deba_controls(arms, fake_results(arms, steady))}
    assert AVERAGE not in controls
    for name, size in ((AVERAGE_SCALED, 40), (LARGEST_SCALED, 80)):
        config = controls[name].configs[0]
        assert config.batch_size == size
        assert learning_rate(config, 1, size) == pytest.approx(0.001 * math.sqrt(size / 16))


@pytest.mark.parametrize(
    ("climb", "average"),
    [((20,) * 10, 20), ((20,) * 6 + (24,) * 4, 24), ((36,) * 9 + (34,), 34), ((20, 16) * 5, 16)],
)
def test_an_average_is_on_the_grid_and_within_what_was_taken(
    climb: tuple[int, ...], average: int
) -> None:
    base = dataclasses.replace(BASE, batch_size=climb[0], max_batch_size=max(climb))
    arms = independent_arms(base, SEEDS, ("deba",), 1000)
    controls = {a.name: a for a in deba_controls(arms, fake_results(arms, steady, {"deba": climb}))}
    assert controls[AVERAGE].configs[0].batch_size == average
    assert controls[LARGEST_SCALED].configs[0].batch_size == max(climb)


def test_a_single_seed_has_no_replay_and_a_diverged_deba_no_controls() -> None:
    arms = independent_arms(BASE, (0,), ("deba",), 1000)
    results = fake_results(arms, steady)
    assert [a.name for a in deba_controls(arms, results)] == [
        *(SCATTERED, AVERAGE, AVERAGE_SCALED, LARGEST_SCALED),
    ]
    run_id = next(a for a in arms if a.name == "deba").configs[0].run_id()
    results[run_id] = dataclasses.replace(results[run_id], status="diverged")
    assert deba_controls(arms, results) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [(("debba",), "deba"), (("fixed",), "always compared"), (("no.module:x",), "No module")],
)
def test_a_schedule_that_cannot_be_made_is_refused_before_any_run(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        compare(BASE, seeds=(0,), root=tmp_path, schedulers=names)
    assert not list(tmp_path.iterdir())


def test_arms_that_come_to_the_same_runs_are_one_comparison() -> None:
    """Where DEBA's average is twice the batch, its control is the arm of twice the batch."""
    arms = independent_arms(BASE, SEEDS, ("deba",), 1000)
    results = fake_results(arms, steady, {"deba": (16,) * 4 + (48,) * 4 + (32,) * 2})
    controls = deba_controls(arms, results)
    results |= fake_results([a for a in controls if a.name in (REPLAYED, SCATTERED)], steady)
    results |= fake_results([a for a in controls if a.name == LARGEST_SCALED], steady)
    told = compare_study([*arms, *controls], results, CURVE)
    by_name = {a.name: a for a in told.arms}
    assert by_name[AVERAGE].run_ids == by_name["fixed x2"].run_ids
    assert by_name[AVERAGE].accuracy_delta_pp == by_name["fixed x2"].accuracy_delta_pp
    tested = [a for a in told.arms if a.accuracy_delta_pp]
    twice = {AVERAGE, AVERAGE_SCALED}
    deltas = [a.accuracy_delta_pp for a in tested if a.name not in twice]
    raw = [
        t_test(d.values, 100 / results[arms[0].configs[0].run_id()].num_test) for d in deltas if d
    ]
    assert [d.p_value for d in deltas if d] == pytest.approx(holm(raw))
    assert f"correction for {len(tested) - 2} comparisons" in rendered(study_table(told))


# --- what is concluded --------------------------------------------------------------------------


def test_differences_and_advice() -> None:
    arms, results = all_arms(steady)
    told = compare_study(arms, results, CURVE)
    by_name = {a.name: a for a in told.arms}
    assert by_name["fixed"].time_saved_pct is None
    saved = by_name["deba"].time_saved_pct
    assert saved is not None
    assert saved.mean == pytest.approx(40, abs=0.2)
    assert saved.larger_than_noise
    by_curve = by_name["fixed x8"].curve_saved_pct
    assert by_curve is not None
    assert by_curve.values == (50.0, 50.0, 50.0)  # 200 samples/s in place of 100
    assert by_curve.larger_than_noise
    assert by_name["deba"].mean_batch_size == pytest.approx(np.mean(CLIMB))
    lost = by_name["fixed x8"].accuracy_delta_pp
    assert lost is not None
    assert lost.mean == pytest.approx(-5, abs=0.05)
    assert lost.larger_than_noise
    # Faster, but 5 points worse: timed growth is the best that keeps the accuracy.
    assert told.advice.startswith("Use timed: 50 % less time (beyond the noise)")
    assert "gained nothing beyond the noise (accuracy" in told.advice
    assert "gained a loss of time (time -20 %" in told.advice
    replayed = next(c for c in told.contrasts if c.against == REPLAYED)
    # It has DEBA's own batches, another seed's: no time could be gained over it.
    assert (replayed.time_saved_pct, replayed.curve_saved_pct) == (None, None)


def test_advice_follows_the_limits() -> None:
    arms, results = all_arms(steady)
    lenient = compare_study(arms, results, CURVE, Limits(max_accuracy_loss_pp=6.0))
    assert lenient.advice.startswith("Use fixed x8"), "5 points are allowed"
    strict = compare_study(arms, results, CURVE, Limits(min_time_saved_pct=95.0))
    assert "nothing saved 95 % of the time beyond the noise" in strict.advice
    assert "to be used an arm needs at least 95 % less time" in rendered(study_table(strict))
    assert "to be used" not in rendered(study_table(compare_study(arms, results, CURVE)))


def test_noise_alone_leads_to_no_advice_to_change() -> None:
    def noise(arm: Arm, seed: int) -> tuple[float, float]:
        return 100 * (1 + 0.2 * jitter(seed, arm)), 0.8 + 0.01 * jitter(seed + 7, arm)

    told = compare_study(*all_arms(noise), CURVE)
    assert told.advice.startswith("Keep the batch at 16")
    assert not any(a.time_saved_pct and a.time_saved_pct.larger_than_noise for a in told.arms)


def test_what_is_not_asked_is_no_comparison_to_correct_for() -> None:
    """The time of a replay is never told: the others are corrected for one comparison less."""

    def noise(arm: Arm, seed: int) -> tuple[float, float]:
        return 100 * (1 + 0.2 * jitter(seed, arm)), 0.8 + 0.01 * jitter(seed + 7, arm)

    arms, results = all_arms(noise)
    told = compare_study(arms, results, CURVE).contrasts
    times = [c.time_saved_pct for c in told if c.time_saved_pct]
    assert len(times) == len(told) - 1
    raw = [t_test([math.log(1 - v / 100) for v in t.values]) for t in times]
    assert [t.p_value for t in times] == pytest.approx(holm(raw))
    accuracies = [
        t_test(c.accuracy_delta_pp.values, 100 / results[arms[0].configs[0].run_id()].num_test)
        for c in told
    ]
    assert [c.accuracy_delta_pp.p_value for c in told] == pytest.approx(holm(accuracies))


def test_misses_are_infinite_and_diverged_arms_stay_in_the_table() -> None:
    arms, results = all_arms(steady)
    bad = next(a for a in arms if a.name == "timed").configs[2].run_id()
    results[bad] = dataclasses.replace(results[bad], status="diverged")
    missing = next(a for a in arms if a.name == "adabatch").configs[0].run_id()
    del results[missing]
    told = {a.name: a for a in compare_study(arms, results, CURVE).arms}
    assert (told["timed"].status, told["timed"].time_saved_pct) == ("diverged", None)
    assert told["adabatch"].status == "failed"
    assert told["fixed x8"].time_to_target_s == (None, None, None)
    screen = rendered(study_table(compare_study(arms, results, CURVE)))
    assert "miss 3" in screen
    assert "diverged" in screen


def moved(results: dict[str, RunResult], arm: Arm, seed: int) -> None:
    """One run of an arm was made on another machine."""
    run_id = arm.configs[seed].run_id()
    there = {**results[run_id].environment, "device_name": "another processor"}
    results[run_id] = dataclasses.replace(results[run_id], environment=there)


def test_seconds_of_two_machines_are_not_compared() -> None:
    arms, results = all_arms(steady)
    by_name = {arm.name: arm for arm in arms}
    before = compare_study(arms, results, CURVE)
    for name in ("timed", REPLAYED, AGAIN):
        moved(results, by_name[name], 1)
    told = compare_study(arms, results, CURVE)
    assert told.machines == (
        "a processor, torch 2.14.1",
        "another processor, torch 2.14.1",
    )
    assert told.noise_time_pct is None
    for arm, earlier in zip(told.arms, before.arms, strict=True):
        apart = arm.name in ("timed", REPLAYED, AGAIN)
        assert (arm.time_saved_pct is None) == (apart or arm.name == "fixed"), arm.name
        assert arm.curve_saved_pct == earlier.curve_saved_pct
        assert arm.accuracy_delta_pp == earlier.accuracy_delta_pp
        if arm.time_saved_pct and earlier.time_saved_pct:
            assert arm.time_saved_pct.values == earlier.time_saved_pct.values
    without = {c.against for c in told.contrasts if c.time_saved_pct is None}
    assert without == {"timed", REPLAYED}
    # Measured seconds of some arms beside the curve of others would be no ranking.
    assert before.advice.startswith("Use timed: 50 % less time (beyond")
    assert told.advice.startswith("Most saved by fixed x4: 43 % less time by the curve (b")
    assert "(time +0 % by the curve" in told.advice
    screen = rendered(study_table(told))
    assert "a processor, torch 2.14.1 and another processor" in screen.replace("\n", " ")
    assert "no saved % between runs of two machines" in screen
    assert "throughput curve of this machine" in screen
    named = dataclasses.replace(told, curve=dataclasses.replace(CURVE, device_name="a third"))
    assert "throughput curve of a third" in rendered(study_table(named))
    assert "two machines" not in rendered(study_table(before))
    for shown, words in ((told, "throughput curve, % of fixed"), (before, "(seconds)")):
        axes = Figure().subplots()
        draw_study(axes, shown)
        assert words in axes.get_xlabel()
    # Each arm still counts as a comparison: the accuracies are tested.
    assert "correction for 18 comparisons" in screen
    assert from_plain(Study, json.loads(json.dumps(to_plain(told)))) == told


def test_a_whole_seed_of_another_machine_is_compared_within_itself() -> None:
    arms, results = all_arms(steady)
    before = compare_study(arms, results, CURVE)
    for arm in arms:
        moved(results, arm, 1)
    told = compare_study(arms, results, CURVE)
    assert len(told.machines) == 2
    assert (told.arms, told.contrasts) == (before.arms, before.contrasts)


def test_why_an_arm_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Noting(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(study, "run_all", lambda *_: {"a-run": "your own code raised KeyError"})
    assert run_arms(all_arms(steady)[0], tmp_path, 1, Noting()) == {}
    assert notes == ["failed: a-run: your own code raised KeyError"]


def test_without_the_reference_nothing_can_be_compared() -> None:
    arms, results = all_arms(steady)
    del results[arms[0].configs[1].run_id()]
    with pytest.raises(RunError, match="fixed did not finish"):
        compare_study(arms, results, CURVE)


def test_one_seed_tells_nothing_from_noise() -> None:
    arms = independent_arms(BASE, (0,), ("timed",), 1000)
    told = compare_study(arms, fake_results(arms, steady), CURVE)
    assert told.detectable_sd is None
    assert told.advice.startswith("Cannot say: one seed")
    assert "Most seen: timed, 50 % less time, accuracy +0.0 points." in told.advice
    assert "noise" not in told.advice.split("Most seen")[1]
    assert "one seed" in rendered(study_table(told))
    json.dumps(study_json(told), allow_nan=False)


def about(loss: float, spread: float) -> Callable[[Arm, int], tuple[float, float]]:
    """`fixed x8` takes 30 % of the time and loses so many points, give or take."""

    def outcome(arm: Arm, seed: int) -> tuple[float, float]:
        eight = arm.name == "fixed x8"
        lost = (loss + spread * (seed - 1)) / 100 if eight else 0.0
        return 100 * (0.3 if eight else 1.0) * (1 + 0.001 * jitter(seed, arm)), 0.8 - lost

    return outcome


@pytest.mark.parametrize(
    ("loss", "spread", "kind", "told"),
    [
        (0.0, 0.0, "use", "Use fixed x8: 70 % less time (beyond the noise), accuracy +0.0"),
        (0.3, 2.0, "likely", "3 seeds do not rule out that it loses 3.7 points."),
        (0.6, 2.0, "keep", "Keep the batch at 16"),
    ],
)
def test_few_seeds_do_not_prove_that_accuracy_is_kept(
    loss: float, spread: float, kind: str, told: str
) -> None:
    """Student's 90 % interval of three values 2 points apart is ± 3.37 wide."""
    study = compare_study(*all_arms(about(loss, spread)), CURVE)
    choice = choose(study)
    assert choice.kind == kind
    deltas = [arm.accuracy_delta_pp for arm in study.arms if arm.accuracy_delta_pp]
    assert {delta.resolution for delta in deltas} == {100 / 400}  # of the made runs' test images
    assert told in study.advice
    assert (choice.arm.name if choice.arm else None) == (None if kind == "keep" else "fixed x8")


def test_arms_that_are_slower_are_none_to_choose_from() -> None:
    """Else the more of them there were, the surer the one that is faster would have to be."""

    def outcome(arm: Arm, seed: int) -> tuple[float, float]:
        faster = arm.name == "fixed x8"
        share = 0.3 if faster else 1.0 if arm.name in ("fixed", AGAIN) else 2.0
        lost = 0.002 * (seed - 1) / 2 if faster else 0.0
        return 100 * share * (1 + 0.001 * jitter(seed, arm)), 0.8 - lost

    assert choose(compare_study(*all_arms(outcome), CURVE)).kind == "use"


def test_of_many_arms_the_luckiest_is_not_taken_for_safe() -> None:
    """All arms truly lose as much as is allowed, so that to use one is wrong every second time at
    least: it is said in 5 % of the studies at most. Each by its own interval: in 49 %."""
    said, rng = [], np.random.default_rng(0)
    for _ in range(150):

        def outcome(arm: Arm, seed: int) -> tuple[float, float]:
            share = 1.0 if arm.name.startswith(("fixed reordered", "deba at random")) else 0.5
            same = arm.name == "fixed"
            lost = 0.0 if same else 0.005 + 0.006 * rng.standard_normal()
            return 100 * (1.0 if same else share) * (1 + 0.001 * jitter(seed, arm)), 0.8 - lost

        said.append(choose(compare_study(*all_arms(outcome), CURVE)).kind)
    assert {*said} >= {"likely"}
    assert said.count("use") <= 0.05 * len(said) + 3 * math.sqrt(0.05 * 0.95 * len(said))


def test_what_surely_keeps_its_accuracy_goes_before_what_saves_more() -> None:
    def outcome(arm: Arm, seed: int) -> tuple[float, float]:
        if arm.name == "timed":
            return 50 * (1 + 0.001 * jitter(seed, arm)), 0.8
        return about(0.3, 2.0)(arm, seed)

    assert compare_study(*all_arms(outcome), CURVE).advice.startswith("Use timed: 50 % less time")


def test_where_no_arm_finished_nothing_is_said_of_the_batch() -> None:
    arms, results = all_arms(steady)
    for arm in arms[1:]:
        for config in arm.configs:
            results[config.run_id()] = dataclasses.replace(
                results[config.run_id()], status="diverged"
            )
    told = compare_study(arms, results, CURVE)
    assert told.advice.startswith("Cannot say: no arm but the reference finished.")
    assert "deba diverged" in told.advice
    assert "more accurate" not in told.advice


def test_an_arm_that_diverged_is_named() -> None:
    arms, results = all_arms(steady)
    bad = next(a for a in arms if a.name == "deba").configs[2].run_id()
    results[bad] = dataclasses.replace(results[bad], status="diverged")
    assert (
        "Not in every seed finished: deba diverged." in compare_study(arms, results, CURVE).advice
    )


def test_a_busy_curve_decides_nothing_between_two_machines() -> None:
    arms, results = all_arms(steady)
    moved(results, next(a for a in arms if a.name == "timed"), 1)
    busy = dataclasses.replace(CURVE, busy=True)
    assert compare_study(arms, results, busy).advice.startswith("Cannot say what saves time")
    assert not compare_study(arms, results, CURVE).advice.startswith("Cannot say")


def test_a_seed_on_a_card_goes_by_its_own_clock() -> None:
    """One whole seed ran on a card, where CPU seconds only feed it."""
    arms, results = all_arms(steady)
    for arm in arms:
        run_id = arm.configs[1].run_id()
        run = results[run_id]
        epochs = tuple(dataclasses.replace(e, time_s=50.0) for e in run.epochs)
        environment = {**run.environment, "device_name": "a card", "cuda": "13.0"}
        results[run_id] = dataclasses.replace(
            run, device="cuda", epochs=epochs, environment=environment
        )
    told = {a.name: a for a in compare_study(arms, results, CURVE).arms}
    saved = told["timed"].time_saved_pct
    assert saved is not None
    assert [round(v) for v in saved.values] == [50, 0, 50]


# --- ablation -----------------------------------------------------------------------------------


def test_a_busy_curve_judges_no_claim() -> None:
    told = ablation()
    assert judge(told, "a claim", ("full history",)).verdict == "not held"
    busy = dataclasses.replace(told, curve=dataclasses.replace(told.curve, busy=True))
    assert judge(busy, "a claim", ("full history",)).verdict == "not decided"


STAYS = (16,) * 10
JUMPS = (16,) + (128,) * 9


def ablation(
    points: Mapping[str, float] | None = None,
    climbs: Mapping[str, Sequence[int]] | None = None,
    spread: float = 0.01,
) -> Study:
    """A study in which the named arms gain so many points, or climb otherwise."""
    config = dataclasses.replace(BASE, scheduler="deba")
    arms = ablation_arms(config, SEEDS)

    def outcome(arm: Arm, seed: int) -> tuple[float, float]:
        gained = (points or {}).get(arm.name, 0.0) + spread * jitter(seed, arm)
        # Measured seconds differ wildly: a claim must not hang on them.
        return 100 * math.exp(jitter(seed + 9, arm)), 0.8 + gained / 100

    results = fake_results(arms, outcome, climbs)
    profile = profile_arm(arms, results)
    return ablation_study(
        [*arms, profile], results | fake_results([profile], outcome, climbs), CURVE
    )


def verdicts(told: Study) -> list[str]:
    return [c.verdict for c in told.claims]


def test_claims_held_not_held_and_not_decided() -> None:
    assert verdicts(ablation()) == ["not held", "not held"]
    assert verdicts(ablation({"full history": -3.0})) == ["held", "not held"]
    assert verdicts(ablation(climbs={"cooldown 0": STAYS})) == ["not held", "held"]
    # Worse in one way and better in another is no support.
    mixed = ablation(climbs={"cooldown 0": STAYS, "cooldown 1": JUMPS})
    assert verdicts(mixed)[1] == "not decided"
    # Without it all is faster, and no worse: surely not essential.
    assert verdicts(ablation(climbs={"cooldown 0": JUMPS}))[1] == "not held"
    assert verdicts(ablation(spread=2.0)) == ["not decided", "not decided"]


def test_a_variant_that_is_the_reference_is_no_arm() -> None:
    """By an argument that all arms share, or by one that follows from the window."""
    plain = dataclasses.replace(BASE, scheduler="deba")
    whole = {a.name for a in differing(ablation_arms(plain, SEEDS))}
    assert whole >= {"cooldown 3", "calibrated on 5", "full history"}
    shared = {"cooldown": 3, "calibration_epochs": 5, "window": None}
    arms = ablation_arms(dataclasses.replace(plain, scheduler_args=shared), SEEDS)
    kept = [a.name for a in differing(arms)]
    assert whole - set(kept) == {"cooldown 3", "calibrated on 5", "full history"}
    assert kept[:3] == ["deba", "deba reordered", "fixed"]
    longer = dataclasses.replace(plain, window_epochs=5)
    assert whole - {a.name for a in differing(ablation_arms(longer, SEEDS))} == {"calibrated on 5"}
    # What the reference lacks itself its arms cannot be judged by.
    told = ablation_study(arms, fake_results(arms, steady), CURVE)
    assert [c.verdict for c in told.claims] == ["not decided", "not decided"]
    assert "the reference lacks it" in told.claims[0].reason


def test_a_diverged_arm_decides_nothing() -> None:
    config = dataclasses.replace(BASE, scheduler="deba")
    arms = ablation_arms(config, SEEDS)
    results = fake_results(arms, steady)
    run_id = next(a for a in arms if a.name == "cooldown 1").configs[0].run_id()
    results[run_id] = dataclasses.replace(results[run_id], status="diverged")
    told = ablation_study(arms, results, CURVE)
    assert verdicts(told)[1] == "not decided"
    assert "cooldown 1 did not finish" in told.claims[1].reason


def test_arms_of_an_ablation_differ_in_one_argument() -> None:
    config = dataclasses.replace(BASE, scheduler="deba", scheduler_args={"reading": "eager"})
    arms = ablation_arms(config, SEEDS)
    for arm in arms:
        if arm.role == "schedule" and not arm.name.startswith("linear"):
            args = arm.configs[0].scheduler_args
            assert args["reading"] == "eager"
            assert len(args) == 2
    assert {a.name for a in arms} >= {f"cooldown {n}" for n in (0, 1, 3, 10)}
    assert {a.name for a in arms} >= {"window 5", "window 30", "full history"}
    results = fake_results(arms, steady)
    fixed = next(a for a in arms if a.name == "fixed").configs[2]
    profile = profile_arm(arms, results).configs[2]
    expected = thresholds_of(results[fixed.run_id()].epochs)
    assert profile.scheduler_args["thresholds"] == expected


# --- from runs to the screen --------------------------------------------------------------------


def rendered(what: Any, width: int = 80) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False, markup=False).print(what)
    return screen.getvalue()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs without a process each; what was asked for, in order."""
    asked: list[str] = []

    def run_all(
        configs: Sequence[RunConfig], root: Path, executor: object, progress: Progress
    ) -> dict[str, str]:
        asked.extend(c.run_id() for c in configs)
        for config in configs:
            run(config, Store(root))
        return {}

    monkeypatch.setattr(study, "run_all", run_all)
    return asked


TINY = ["tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--epochs", "4"]
TINY += ["--window", "2", "--threads", "1", "--max-batch-size", "48"]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli.probe, args, env={"COLUMNS": "80"})


def test_compare_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["compare", *TINY, "--seeds", "0,1", "--schedulers", "deba,timed"]
    told = invoke(*args)
    assert told.exit_code == 0, told.output
    for name in ("fixed reordered", "deba replayed", "fixed x2, lr x2", "deba at random"):
        assert name in told.stdout
    assert max(len(line) for line in told.stdout.splitlines()) <= 80
    (stored,) = Path("probe-runs/studies").glob("*.json")
    assert stored.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert str(stored) in told.stderr.replace("\n", "")
    kept = read_study(stored)
    assert from_plain(Study, json.loads(json.dumps(to_plain(kept)))) == kept
    by_name = {a.name: a for a in kept.arms}
    for name in ("fixed", "deba", "timed"):
        runs = [Store(Path("probe-runs")).load(i) for i in by_name[name].run_ids]
        told_s = by_name[name].time_s
        assert told_s is not None
        assert told_s.mean == pytest.approx(np.mean([r.cpu_s for r in runs]))
        assert by_name[name].updates == np.mean([r.updates for r in runs])
        assert by_name[name].peak_memory_bytes == max(r.peak_memory_bytes or 0 for r in runs)
    # The second time, everything is stored: the same answer, nothing trained again.
    stamps = {p: p.stat().st_mtime_ns for p in Path("probe-runs").glob("*/epochs.jsonl")}
    again = json.loads(invoke(*args, "--json").stdout)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert again["advice"] == kept.advice
    drawn = invoke("plot", str(stored), "--format", "svg")
    assert drawn.exit_code == 0, drawn.output
    assert Path(drawn.stdout.strip()).exists()


def test_runs_of_one_store_serve_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: list[str]
) -> None:
    """By their default flags: memory format measured or named, reading of DEBA named or not, and
    the same number of threads."""
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag in TINY if flag not in ("--threads", "1")]
    for schedule in ("fixed", "deba"):
        assert invoke("run", *flags, "--scheduler", schedule).exit_code == 0
    made = {p: p.stat().st_mtime_ns for p in Path("probe-runs").glob("*/epochs.jsonl")}
    assert len(made) == 2
    told = invoke("compare", *flags, "--seeds", "0", "--schedulers", "deba", "--json")
    assert told.exit_code == 0, told.output
    arms = {a["name"]: a for a in json.loads(told.stdout)["arms"]}
    assert {arms[name]["run_ids"][0] for name in ("fixed", "deba")} == {p.parent.name for p in made}
    assert arms["deba"]["time_saved_pct"] is not None
    told = invoke("validate", *flags, "--seeds", "0", "--json")
    assert told.exit_code in (0, 1), told.output
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert len(list(Path("probe-runs").glob("*-deba-s0-*"))) == 1
    (probed,) = Path("probe-runs/characterizations").glob("*.json")
    told = invoke("report", str(probed), "--json")
    assert told.exit_code == 0, told.output
    page = Path(json.loads(told.stdout)["file"]).read_text()
    assert "No full runs of it are stored here" not in page
    assert "1 pair" in page


def test_ablate_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["--seeds", "0,1", "--scheduler-arg", "min_calm_signals=1"]
    told = invoke("ablate", *TINY, *args, "--json")
    assert told.exit_code == 0, told.output
    answer = json.loads(told.stdout)
    assert [c["verdict"] for c in answer["claims"]] != []
    by_name = {a["name"]: a for a in answer["arms"]}
    assert by_name["whole profile"]["status"] == "finished"
    deba = Store(Path("probe-runs")).load(by_name["window 5"]["run_ids"][0])
    assert deba.config["scheduler_args"] == {
        **{"reading": "eager", "min_calm_signals": 1, "window": 5},
    }
    assert "saved %" in invoke("ablate", *TINY, *args).stdout


@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_runs_never_share_a_card_whose_wall_clock_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "resolve_device", lambda _: torch.device("cuda"))
    told = invoke(command, *TINY, "--jobs", "2")
    assert told.exit_code == 2
    assert told.stderr == (
        "probe: runs that share cuda slow each other, and a comparison goes by the wall clock "
        "there; use --jobs 1\n"
    )
    assert not list(tmp_path.iterdir())


def test_an_unknown_schedule_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, words in (("debba", "deba"), ("deba,deba", "different names"), ("", "different")):
        told = invoke("compare", *TINY, "--schedulers", given)
        assert told.exit_code == 2
        assert told.stderr.count("\n") == 1
        assert words in told.stderr


def test_an_unknown_argument_of_deba_is_one_line_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = invoke("ablate", *TINY, "--scheduler-arg", "windo=3")
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert "use window" in told.stderr
    assert not Path("probe-runs").exists()


def test_an_interrupt_starts_no_further_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def slowly(executor: object, config: RunConfig, root: Path) -> str | None:
        started.append(config.seed)
        time.sleep(0.05)
        return None

    class Interrupted(Quiet):
        def step(self, text: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalProcesses, "_run", slowly)
    configs = [dataclasses.replace(BASE, seed=s) for s in range(50)]
    with pytest.raises(KeyboardInterrupt):
        sweep.run_all(configs, tmp_path, LocalProcesses(2), Interrupted())
    assert len(started) < 10


def test_deba_is_set_against_each_control_by_its_name() -> None:
    """Each arm loses points of its own, so that the difference tells which two were compared."""
    points = {"deba": 0.0, REPLAYED: 1.0, SCATTERED: 2.0, "timed": 4.0, AVERAGE: 8.0}
    points |= {AVERAGE_SCALED: 16.0, LARGEST_SCALED: 32.0, "cosine": 5.0, "step": 7.0}

    def outcome(arm: Arm, seed: int) -> tuple[float, float]:
        return 100.0, 0.5 - points.get(arm.name, 0.0) / 100

    told = compare_study(*all_arms(outcome), CURVE)
    assert {c.name: round(c.accuracy_delta_pp.mean) for c in told.contrasts} == {
        "its batch sequence, replayed": 1,
        "the same changes at random epochs": 2,
        "growth at fixed times": 4,
        "a fixed batch of its average": 8,
        "that with the rate scaled": 16,
        "its largest, rate scaled": 32,
        "a fixed batch with a cosine rate": 5,
        "a fixed batch with a step rate": 7,
    }


def test_times_by_the_curve_are_tested_as_ratios() -> None:
    """50, 90 and 99 % saved: as differences more than the noise, as ratios (2, 10, 100) not."""
    curve = make_curve([16, 32, 64, 128], [1.0, 2.0, 10.0, 100.0])
    fixed = study.make_arm("fixed", "reference", BASE, SEEDS)
    configs = [
        dataclasses.replace(config, batch_size=size)
        for config, size in zip(fixed.configs, (32, 64, 128), strict=True)
    ]
    arm = Arm(name="larger", role="fixed", configs=tuple(configs))
    results = fake_results([fixed, arm], lambda *_: (100.0, 0.5))
    told = study.make_study([fixed, arm], results, curve=curve, reference="fixed")
    saved = told.arms[1].curve_saved_pct
    assert saved is not None
    assert saved.mean == pytest.approx((50 + 90 + 99) / 3)
    assert scipy.stats.ttest_1samp([50, 90, 99], 0).pvalue < 0.05
    assert scipy.stats.ttest_1samp(np.log([2, 10, 100]), 0).pvalue > 0.05
    assert not saved.larger_than_noise


def test_ablate_runs_no_variant_that_is_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of 3 epochs is what DEBA is calibrated on where no other number is given."""
    asked: list[RunConfig] = []

    def run_all(configs: Sequence[RunConfig], *_: object) -> dict[str, str]:
        asked.extend(configs)
        return {}

    monkeypatch.setattr(study, "run_all", run_all)
    config = RunConfig(
        model="tests.tiny:net",
        data="tests.tiny:blobs",
        device="cpu",
        epochs=4,
        window_epochs=3,
        max_batch_size=16,
        channels_last="off",
    )
    with pytest.raises(RunError, match="fixed did not finish"):
        ablate(config, seeds=[0], root=tmp_path)
    calibrated = {c.scheduler_args.get("calibration_epochs") for c in asked}
    assert calibrated == {None, 5, 10}
