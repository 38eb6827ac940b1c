"""A prediction put to the test, on hand-made runs: no training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor import validate as module
from predictor.corpus import CORPUS_READING
from predictor.summary import validation_failed
from predictor.validate import judge, validate
from stability_probe.config import RunConfig
from stability_probe.errors import RunError, UsageError
from stability_probe.limits import Limits
from stability_probe.progress import Quiet
from stability_probe.records import Characterization, Prediction, RunResult
from stability_probe.store import Store, read_characterization
from tests.predictor_factories import (
    make_characterization,
    make_comparison,
    make_metrics,
    make_prediction,
    make_run,
)

CONFIG = RunConfig(model="resnet10t", epochs=4, window_epochs=2)


@pytest.mark.parametrize(
    ("time_saved", "delta", "inside"),
    [
        (20.0, 0.5, True),
        (10.0, 0.5, True),
        (30.0, 2.0, True),
        (9.9, 0.5, False),
        (30.1, 0.5, False),
        (20.0, 2.1, False),
        (20.0, -1.1, False),
    ],
)
def test_both_means_must_lie_inside(time_saved: float, delta: float, inside: bool) -> None:
    v = judge(CONFIG, (0,), make_prediction(), [make_comparison(time_saved, delta)])
    assert v.inside_interval is inside


@pytest.mark.parametrize(
    ("verdict", "time_saved", "delta", "correct"),
    [
        ("adapt", 20.0, 0.0, True),
        ("adapt", 5.0, 0.0, False),
        ("adapt", 20.0, -1.0, False),
        ("keep_fixed", 20.0, 0.0, False),
        ("keep_fixed", 5.0, 0.0, True),
        ("keep_fixed", 20.0, -1.0, True),
        ("abstain", 20.0, 0.0, None),
        ("abstain", 5.0, -1.0, None),
    ],
)
def test_the_class_a_verdict_promises(
    verdict: str, time_saved: float, delta: float, correct: bool | None
) -> None:
    wide = {
        "time_saved_interval_pct": (-99.0, 99.0),
        "accuracy_delta_interval_pp": (-99.0, 99.0),
    }
    p = make_prediction(verdict=verdict, **wide)
    v = judge(CONFIG, (0,), p, [make_comparison(time_saved, delta)])
    assert v.class_correct is correct
    assert validation_failed(v) is (correct is False)


def test_the_mean_over_seeds_is_judged_not_each_seed() -> None:
    pairs = [
        make_comparison(4.0, -0.9, updates_saved_pct=10.0, time_to_target_saved_pct=-3.0),
        make_comparison(26.0, 0.5, seed=5, updates_saved_pct=50.0, time_to_target_saved_pct=9.0),
    ]
    v = judge(CONFIG, (0, 5), make_prediction(), pairs)
    assert [c.benefit_class for c in v.comparisons] == ["harms", "benefits"]
    assert (v.benefit_class, v.inside_interval, v.class_correct) == ("benefits", True, True)
    assert v.time_saved_pct.mean == pytest.approx(15.0)
    assert v.time_saved_pct.std == pytest.approx(np.std([4, 26], ddof=1))
    assert v.accuracy_delta_pp.mean == pytest.approx(-0.2)
    assert v.updates_saved_pct == pytest.approx(30.0)
    assert v.time_to_target_saved_pct == pytest.approx(3.0)
    assert (v.seeds, v.config) == ((0, 5), CONFIG.to_dict())


def test_a_prediction_is_judged_by_its_own_limits(bench: Bench, tmp_path: Path) -> None:
    outcome = [make_comparison(20.0, -1.0)]
    lenient = make_prediction(limits=Limits(max_accuracy_loss_pp=2.0), verdict="adapt")
    assert judge(CONFIG, (0,), lenient, outcome).class_correct is True
    assert judge(CONFIG, (0,), make_prediction(verdict="adapt"), outcome).class_correct is False
    strict = Limits(min_time_saved_pct=90.0)
    v = validate(CONFIG, seeds=(0,), store=Store(tmp_path), limits=strict)
    assert v.prediction.limits == strict
    assert [v.benefit_class, *(c.benefit_class for c in v.comparisons)] == ["neutral"] * 2
    assert validate(CONFIG, seeds=(0,), store=Store(tmp_path)).benefit_class == "benefits"


def test_one_miss_leaves_no_mean_time_to_target() -> None:
    pairs = [
        make_comparison(20.0, 0.0),
        make_comparison(20.0, 0.0, time_to_target_saved_pct=-math.inf),
    ]
    assert judge(CONFIG, (0, 1), make_prediction(), pairs).time_to_target_saved_pct is None


def test_an_abstention_outside_its_interval_still_fails() -> None:
    p = make_prediction(verdict="abstain")
    assert validation_failed(judge(CONFIG, (0,), p, [make_comparison(50.0, 0.5)]))


class Bench:
    """Stands in for probe, predictor and training, and keeps what was asked in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.configs: list[RunConfig] = []
        self.diverges: tuple[str, int] | None = None
        self.elsewhere: tuple[str, int] | None = None
        monkeypatch.setattr(module, "characterize", self.characterize)
        monkeypatch.setattr(module, "predict", self.predict)
        monkeypatch.setattr(module, "run", self.run)

    def characterize(self, config: RunConfig, *, seeds: Any, **_: Any) -> Characterization:
        self.calls.append(f"characterize {config.model} {list(seeds)}")
        # The probe settles the memory format, as the real one does.
        resolved = dataclasses.replace(config, channels_last="off", seed=seeds[0])
        return dataclasses.replace(
            make_characterization(tuple(make_metrics() for _ in seeds)), config=resolved.to_dict()
        )

    def predict(self, c: Characterization, limits: Limits, without: set[str]) -> Prediction:
        self.unseen = without
        self.calls.append(f"predict {len(c.metrics)}")
        return make_prediction(limits=limits)

    def run(self, config: RunConfig, store: Store, progress: Any) -> RunResult:
        self.calls.append(f"{config.scheduler} {config.seed}")
        self.configs.append(config)
        fixed = config.scheduler == "fixed"
        accuracy = 0.8 if fixed else 0.8 + config.seed / 1000
        speed = 1.0 if fixed else 0.8 - config.seed / 100
        lost = self.diverges == (config.scheduler, config.seed)
        result = make_run(
            batch_sizes=(16,) * 4,
            accuracies=(0.3, 0.5, 0.7, accuracy),
            cpu_s=(speed,) * 4,
            status="diverged" if lost else "finished",
        )
        if self.elsewhere == (config.scheduler, config.seed):
            result = dataclasses.replace(result, environment={"device_name": "another"})
        return dataclasses.replace(result, config=config.to_dict(), run_id=config.run_id())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_prediction_is_made_before_any_full_run(bench: Bench, tmp_path: Path) -> None:
    validate(CONFIG, seeds=(3, 7), store=Store(tmp_path))
    assert bench.calls[:2] == ["characterize resnet10t [3, 7]", "predict 2"]
    assert sorted(bench.calls[2:]) == ["deba 3", "deba 7", "fixed 3", "fixed 7"]
    # Nor does it know these runs from the user's rows, however their memory format was asked for.
    fixed = [c for c in bench.configs if c.scheduler == "fixed"]
    asked = [dataclasses.replace(c, channels_last=f) for c in fixed for f in ("auto", "on", "off")]
    assert bench.unseen == {c.run_id() for c in asked}
    assert len(bench.unseen) == 6


def test_what_was_told_is_kept_beside_the_runs(bench: Bench, tmp_path: Path) -> None:
    validate(CONFIG, seeds=(0, 1), store=Store(tmp_path))
    (path,) = tmp_path.glob("characterizations/*.json")
    c, p = read_characterization(path)
    assert c.seeds == (0, 1)
    assert p == make_prediction()


def test_a_second_prediction_says_that_it_is_made_anew(bench: Bench, tmp_path: Path) -> None:
    notes: list[str] = []

    class Noting(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    for _ in range(2):
        assert not notes
        validate(CONFIG, seeds=(0,), store=Store(tmp_path), progress=Noting())
    assert notes == ["probed before: the throughput was measured anew, and so is the prediction"]


def test_runs_are_paired_by_seed_and_differ_in_the_schedule_only(
    bench: Bench, tmp_path: Path
) -> None:
    v = validate(CONFIG, seeds=(3, 7), store=Store(tmp_path))
    told = [(c.seed, c.time_saved_pct, c.accuracy_delta_pp) for c in v.comparisons]
    assert told == [
        (3, pytest.approx(23.0), pytest.approx(0.3)),
        (7, pytest.approx(27.0), pytest.approx(0.7)),
    ]
    assert v.time_saved_pct.mean == pytest.approx(25.0)
    assert (v.seeds, v.prediction) == ((3, 7), make_prediction())
    by_name = {(c.scheduler, c.seed): c for c in bench.configs}
    for seed in (3, 7):
        fixed, adaptive = by_name["fixed", seed], by_name["deba", seed]
        # The reading of DEBA that the corpus was measured with, whatever the default is.
        assert adaptive.scheduler_args == CORPUS_READING
        assert dataclasses.replace(adaptive, scheduler="fixed", scheduler_args={}) == fixed
        assert fixed == dataclasses.replace(CONFIG, seed=seed, channels_last="off")


@pytest.mark.parametrize("which", [("fixed", 1), ("deba", 1)])
def test_a_stored_run_of_another_machine_is_not_what_was_predicted(
    bench: Bench, tmp_path: Path, which: tuple[str, int]
) -> None:
    bench.elsewhere = which
    with pytest.raises(UsageError, match=r"run of another machine \(another; here") as caught:
        validate(CONFIG, seeds=(0, 1), store=Store(tmp_path))
    assert f"-{which[0]}-s1-" in str(caught.value)
    assert bench.calls[-1] == f"{which[0]} 1", "nothing is trained in vain after it"


@pytest.mark.parametrize("which", [("fixed", 1), ("deba", 1)])
def test_a_run_that_diverged_is_a_run_error(
    bench: Bench, tmp_path: Path, which: tuple[str, int]
) -> None:
    bench.diverges = which
    with pytest.raises(RunError, match=r"diverged after 4 epochs; use a smaller --lr") as caught:
        validate(CONFIG, seeds=(0, 1), store=Store(tmp_path))
    assert f"-{which[0]}-s1-" in str(caught.value)


def test_without_an_interval_a_verdict_alone_is_judged() -> None:
    without = {"time_saved_interval_pct": None, "accuracy_delta_interval_pp": None}
    outcome = [make_comparison(50.0, 0.5)]
    silent = judge(CONFIG, (0,), make_prediction(verdict="abstain", **without), outcome)
    assert (silent.inside_interval, silent.class_correct) == (None, None)
    assert not validation_failed(silent)
    kept = judge(CONFIG, (0,), make_prediction(verdict="keep_fixed", **without), outcome)
    assert (kept.inside_interval, kept.class_correct) == (None, False)
    assert validation_failed(kept)
