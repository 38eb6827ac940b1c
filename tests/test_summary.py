"""Results as JSON for programs and as one screen for people."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console, RenderableType

from predictor.summary import (
    characterization_json,
    characterization_table,
    full_run_s,
    scatter_words,
    validation_failed,
    validation_json,
    validation_table,
)
from stability_probe.config import RunConfig
from stability_probe.limits import Limits
from stability_probe.records import Characterization, MeanStd, RunResult, Validation
from stability_probe.run_summary import run_json, run_table, runs_json, runs_table
from stability_probe.store import RunSummary
from tests.factories import make_curve, make_epoch
from tests.predictor_factories import (
    CURVE,
    make_characterization,
    make_comparison,
    make_metrics,
    make_prediction,
    make_run,
)

MEAN_STD: dict[str, Any] = {"mean": None, "std": None}
PREDICTION: dict[str, Any] = dict.fromkeys(
    (
        *("verdict", "probability_of_benefit", "time_saved_pct", "time_saved_interval_pct"),
        *("accuracy_delta_pp", "accuracy_delta_interval_pp", "interval_level", "reason"),
    )
)
CONTRACT: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("model", "data", "device", "precision", "batch_size"),
            *("window_epochs", "epochs", "seeds", "num_params", "throughput", "headroom"),
            *("environment", "stored"),
        )
    ),
    "stability_score": MEAN_STD,
    "grad_norm_variation": MEAN_STD,
    "grad_component_variance": MEAN_STD,
    "loss_variation": MEAN_STD,
    "noise_scale": MEAN_STD,
    "prediction": PREDICTION,
    "cost": dict.fromkeys(("probe_s", "compile_s", "full_run_s", "fraction")),
}
VALIDATION_CONTRACT: dict[str, Any] = {
    **dict.fromkeys(("model", "data", "seeds", "inside_interval", "class_correct")),
    "prediction": PREDICTION,
    "measured": {
        "time_saved_pct": MEAN_STD,
        "accuracy_delta_pp": MEAN_STD,
        **dict.fromkeys(("updates_saved_pct", "time_to_target_saved_pct")),
    },
}
REAL_BASIS = (
    "90 paired full runs of 15 models in 11 families; families held out: 61 of 90 rows "
    "answered, balanced accuracy 0.71, accuracy 0.74 (always the majority: 0.62), "
    "mean error of time saved 5.0 points"
)
REAL_REASON = (
    "a benefit (at least 10 % less time, at most 0.5 pp less accuracy) has probability 0.90, "
    "above 0.7"
)
ALTERNATIVE = (
    "a plain fixed batch of 64 would save 50 % on this device; what it does to accuracy was "
    "not measured"
)


def missing(contract: Mapping[str, Any], told: Mapping[str, Any], path: str = "") -> list[str]:
    """Keys of the contract that are not there, nested ones too."""
    lost = []
    for key, inner in contract.items():
        if key not in told:
            lost.append(path + key)
        elif inner is not None:
            lost += missing(inner, told[key], f"{path}{key}.")
    return lost


def strict_json(told: Any) -> Any:
    """The object after a round trip through strict JSON."""
    return json.loads(json.dumps(told, allow_nan=False))


def rendered(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, force_terminal=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_validation(**fields: Any) -> Validation:
    values: dict[str, Any] = {
        "config": RunConfig(model="resnet10t").to_dict(),
        "seeds": (0, 1),
        "prediction": make_prediction(),
        "comparisons": (make_comparison(18.0, 0.4), make_comparison(22.0, 0.8, seed=1)),
        "time_saved_pct": MeanStd(mean=20.0, std=2.83),
        "accuracy_delta_pp": MeanStd(mean=0.6, std=0.283),
        "updates_saved_pct": 40.0,
        "time_to_target_saved_pct": 5.0,
        "benefit_class": "benefits",
        "inside_interval": True,
        "class_correct": True,
    }
    return Validation(**(values | fields))


def test_characterization_keeps_the_contract() -> None:
    c = make_characterization(
        (
            make_metrics(stability_score=0.7, noise_scale=None),
            make_metrics(stability_score=0.8, noise_scale=60.0),
            make_metrics(stability_score=0.9, noise_scale=80.0),
        ),
        config={"batch_size": 32, "epochs": 50},
        probe_s=5.0,
        curve=dataclasses.replace(CURVE, time_s=7.0),
    )
    told = strict_json(characterization_json(c, make_prediction()))
    assert missing(CONTRACT, told) == []
    assert (told["model"], told["data"], told["device"]) == ("resnet10t", "digits", "cpu")
    assert (told["precision"], told["batch_size"]) == ("float32", 32)
    assert (told["window_epochs"], told["epochs"], told["seeds"]) == (2, 50, [0, 1, 2])
    assert told["stability_score"] == pytest.approx({"mean": 0.8, "std": 0.1})
    assert told["grad_norm_variation"] == pytest.approx({"mean": 0.1, "std": 0.0})
    # of the seeds where it is defined
    assert told["noise_scale"] == pytest.approx({"mean": 70.0, "std": math.sqrt(200)})
    assert [(p["batch_size"], p["samples_per_s"]) for p in told["throughput"]] == [
        (16, 100.0), (32, 150.0), (64, 200.0), (128, 240.0), (256, 250.0)
    ]  # fmt: skip
    assert told["headroom"] == pytest.approx(250 / 150)
    assert told["prediction"]["time_saved_interval_pct"] == [10.0, 30.0]
    assert told["prediction"]["verdict"] == "adapt"
    # 50 epochs of 2 s
    assert told["cost"]["full_run_s"] == pytest.approx(100.0)
    assert told["cost"]["fraction"] == pytest.approx(0.05)
    assert (told["cost"]["probe_s"], told["cost"]["throughput_s"]) == (5.0, 7.0)
    assert told["environment"]["device_name"] == "a processor"


def test_a_noise_scale_no_seed_has_is_null() -> None:
    c = make_characterization((make_metrics(noise_scale=None),))
    told = strict_json(characterization_json(c, make_prediction()))
    assert told["noise_scale"] is None
    assert told["stability_score"]["std"] is None


def test_the_full_run_is_the_mean_epoch_of_all_windows() -> None:
    windows = ((make_epoch(time_s=1.0), make_epoch(time_s=3.0)), (make_epoch(time_s=8.0),) * 2)
    c = dataclasses.replace(make_characterization(), windows=windows)
    assert full_run_s(c) == pytest.approx(100 * 5.0)


def test_without_an_interval_none_is_told_and_nothing_is_scored() -> None:
    ends = {"time_saved_interval_pct": None, "accuracy_delta_interval_pp": None}
    p = make_prediction(verdict="abstain", reason="it is unlike all", **ends)
    c = make_characterization()
    told = strict_json(characterization_json(c, p))["prediction"]
    assert told["time_saved_interval_pct"] is None
    shown = rendered(characterization_table(c, p))
    assert "time saved +20 % (no interval), accuracy change +0.5 points (no interval)" in shown
    assert "90 %" not in shown
    v = make_validation(prediction=p, inside_interval=None, class_correct=None)
    strict_json(validation_json(v))
    assert "there is nothing to score" in rendered(validation_table(v))
    assert not validation_failed(v)


def test_the_table_fits_the_lines_of_a_screen() -> None:
    c = make_characterization(
        config={"model": "mobilenetv3_small_100", "data": "fashion-mnist"},
        environment={"device_name": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"},
    )
    p = make_prediction(reason=REAL_REASON, basis=REAL_BASIS, alternative=ALTERNATIVE)
    assert len(rendered(characterization_table(c, p)).splitlines()) <= 24


@pytest.mark.parametrize("verdict", ["adapt", "keep_fixed", "abstain"])
def test_the_table_is_as_wide_as_a_screen_and_says_what_matters(verdict: str) -> None:
    c = make_characterization(
        config={"model": "mobilenetv3_small_100", "data": "fashion-mnist"},
        environment={"device_name": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"},
    )
    p = make_prediction(
        verdict=verdict, reason=REAL_REASON, basis=REAL_BASIS, alternative=ALTERNATIVE
    )
    text = rendered(characterization_table(c, p))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(text.split())
    named = {
        "adapt": "ADAPT the batch",
        "keep_fixed": "KEEP the batch FIXED",
        "abstain": "CANNOT SAY",
    }
    assert [v for v in named if named[v] in words] == [verdict]
    assert "headroom 2.50x at batch 256" in words
    assert "probe validate mobilenetv3_small_100 --data fashion-mnist --window 2" in words
    assert "time saved +20 % (90 % interval +10 to +30)" in words
    assert "accuracy change +0.5 points (-1.0 to +2.0)" in words
    assert "stability 0.81 ± 0.014" in words
    assert "64 samples" in words
    assert "5.0 % of the full run's 200 s" in words
    for whole in (REAL_REASON, REAL_BASIS, ALTERNATIVE):
        assert whole in words


def test_a_noise_scale_says_of_how_many_seeds_it_is_not() -> None:
    seeds = tuple(make_metrics(noise_scale=n) for n in (42.0, None, None))
    c = make_characterization(seeds)
    words = " ".join(rendered(characterization_table(c, make_prediction())).split())
    assert "42 samples batches below it are mostly noise; undefined in 2 of 3 seeds" in words
    told = characterization_json(c, make_prediction())
    assert (told["noise_scale"]["mean"], told["noise_scale_undefined"]) == (42.0, 2)


def test_the_table_says_what_is_undefined_or_disturbed() -> None:
    curve = dataclasses.replace(CURVE, busy=True, stopped_by="out of memory at 512")
    c = make_characterization((make_metrics(noise_scale=None),), curve=curve)
    words = " ".join(rendered(characterization_table(c, make_prediction())).split())
    assert "noise scale undefined" in words
    assert "out of memory at 512" in words
    assert "MACHINE BUSY" in words
    assert "1 seed," in words
    assert "plainer" not in words


@pytest.mark.parametrize(
    ("speeds", "told"),
    [
        ((50.4, 98.4, 91.0), "1.95x at batch 256 50 samples/s at 16, 98 at 256"),
        ((50.0, 45.0, 40.0), "1.00x at batch 16 50 samples/s at 16, 40 at 280"),
    ],
)
def test_the_speeds_told_are_those_of_the_headroom(speeds: tuple[float, ...], told: str) -> None:
    c = make_characterization(curve=make_curve((16, 256, 280), speeds))
    words = " ".join(rendered(characterization_table(c, make_prediction())).split())
    assert f"headroom {told}" in words


def test_the_table_of_a_curve_with_one_point() -> None:
    c = make_characterization(curve=make_curve((16,), (100.0,)))
    words = " ".join(rendered(characterization_table(c, make_prediction())).split())
    assert "headroom 1.00x at batch 16 100 samples/s at 16" in words


def test_the_next_command_checks_the_run_that_was_probed() -> None:
    c = make_characterization(config={"batch_size": 32, "epochs": 30, "lr": 0.05})
    words = " ".join(rendered(characterization_table(c, make_prediction())).split())
    command = words[words.index("next:") :]
    for part in ("32", "--epochs 30", "--lr 0.05"):
        assert part in command


def test_limits_that_are_not_the_usual_ones_are_told_and_asked_for_again() -> None:
    c, lenient = make_characterization(), make_prediction(limits=Limits(max_accuracy_loss_pp=2.0))
    words = " ".join(rendered(characterization_table(c, lenient)).split())
    told = "a benefit here: at least 10 % less time, at most 2 points less accuracy"
    assert told in words
    assert words.endswith("--max-accuracy-loss 2")
    assert characterization_json(c, lenient)["prediction"]["limits"]["max_accuracy_loss_pp"] == 2.0
    assert told in rendered(validation_table(make_validation(prediction=lenient)))
    # Where the reason has them, they are not told twice.
    reasoned = dataclasses.replace(lenient, reason=f"a benefit ({lenient.limits.words}) has")
    assert "a benefit here" not in rendered(characterization_table(c, reasoned))
    for usual in (
        characterization_table(c, make_prediction()),
        validation_table(make_validation()),
    ):
        assert "a benefit here" not in rendered(usual)


def test_validation_keeps_the_contract() -> None:
    told = strict_json(validation_json(make_validation()))
    assert missing(VALIDATION_CONTRACT, told) == []
    assert told["measured"]["time_saved_pct"] == {"mean": 20.0, "std": 2.83}
    assert told["measured"]["accuracy_delta_pp"] == {"mean": 0.6, "std": 0.283}
    assert told["measured"]["updates_saved_pct"] == 40.0
    assert told["measured"]["time_to_target_saved_pct"] == 5.0
    assert (told["inside_interval"], told["class_correct"]) == (True, True)
    assert [c["seed"] for c in told["comparisons"]] == [0, 1]


def test_a_missed_target_is_null_and_said_in_words() -> None:
    missed = make_comparison(20.0, -1.0, time_to_target_saved_pct=-math.inf)
    v = make_validation(
        comparisons=(missed, make_comparison(20.0, 0.0, seed=1)), time_to_target_saved_pct=None
    )
    told = strict_json(validation_json(v))
    assert told["measured"]["time_to_target_saved_pct"] is None
    assert [c["time_to_target_saved_pct"] for c in told["comparisons"]] == [None, 5.0]
    assert "a seed never reached it" in rendered(validation_table(v))


@pytest.mark.parametrize(
    ("inside", "correct", "failed", "words"),
    [
        (True, True, False, "the prediction held"),
        (True, None, False, "no verdict was given"),
        (False, None, True, "does not lie inside the intervals"),
        (False, True, True, "FAILED"),
        (True, False, True, "FAILED"),
    ],
)
def test_when_a_prediction_failed(
    inside: bool, correct: bool | None, failed: bool, words: str
) -> None:
    v = make_validation(inside_interval=inside, class_correct=correct)
    assert validation_failed(v) is failed
    assert words in rendered(validation_table(v))


def test_a_validation_tells_how_far_the_fixed_runs_move_by_themselves() -> None:
    pairs = [make_comparison(20.0, 0.1, fixed_scatter_pp=s) for s in (3.0, 4.0, None)]
    told = rendered(validation_table(make_validation(comparisons=tuple(pairs))))
    assert "fixed runs' own accuracy moves by 3.5 points an epoch at the end" in told
    assert scatter_words(pairs[:1]) == (
        "the fixed run's own accuracy moves by 3.0 points an epoch at the end"
    )
    assert scatter_words(pairs[2:]) is None
    assert "own accuracy" not in rendered(validation_table(make_validation()))


def test_the_validation_table_puts_predicted_beside_measured() -> None:
    lines = rendered(validation_table(make_validation())).splitlines()
    assert max(map(len, lines)) <= 80
    saved = next(line for line in lines if line.startswith("time saved"))
    assert " ".join(saved.split()) == "time saved % +20.0 +10.0 to +30.0 +20.0 ± 2.8"
    delta = next(line for line in lines if line.startswith("accuracy change"))
    words = " ".join(delta.split())
    assert words == "accuracy change, points +0.5 -1.0 to +2.0 +0.6 ± 0.3"
    words = " ".join(" ".join(lines).split())
    assert "seed 0: +18 %, +0.4 points, seed 1: +22 %, +0.8 points" in words
    assert "class ADAPT P(benefit) 0.90 benefits" in words
    assert "updates saved % +40.0" in words
    assert "time to target saved % +5.0" in words
    assert "target: the fixed run's final accuracy - 0.5 points" in words


def grown() -> RunResult:
    run = make_run(batch_sizes=(16, 16, 24), accuracies=(0.5, 0.6, 0.75), cpu_s=(1.0,) * 3)
    change = {"action": "increase", "next_batch_size": 24, "reason": "3 of 3 signals calm"}
    first, second, third = run.epochs
    return dataclasses.replace(run, epochs=(first, dataclasses.replace(second, **change), third))


def test_a_run_shows_its_outcome_and_its_changes() -> None:
    text = " ".join(rendered(run_table(grown())).split())
    assert "finished: 3 epochs, 30 updates, 3.0 s training, final accuracy 75.00 %" in text
    assert "2 16 24 3 of 3 signals calm" in text
    assert "never changed" not in text
    told = strict_json(run_json(grown()))
    assert told["final_accuracy"] == 0.75
    assert [e["batch_size"] for e in told["epochs"]] == [16, 16, 24]


def test_a_run_without_an_epoch_is_shown() -> None:
    lost = make_run(batch_sizes=(), accuracies=(), cpu_s=(), status="diverged")
    assert strict_json(run_json(lost))["final_accuracy"] is None
    text = rendered(run_table(lost))
    assert "diverged: 0 epochs" in text
    assert "the batch never changed" in text


def make_summary(**fields: Any) -> RunSummary:
    values: dict[str, Any] = {
        "run_id": "resnet10t-deba-s0-0123456789",
        "model": "resnet10t",
        "data": "digits",
        "scheduler": "deba",
        "seed": 0,
        "batch_size": 16,
        "epochs_done": 7,
        "epochs": 50,
        "status": "unfinished",
        "final_accuracy": 0.4321,
        "time_s": 12.34,
    }
    return RunSummary(**(values | fields))


def test_no_runs_say_how_to_make_one() -> None:
    text = rendered(runs_table([]))
    assert "no runs stored here" in text
    assert "probe run" in text
    assert strict_json(runs_json([])) == {"runs": []}


def test_runs_are_listed_whole() -> None:
    long = make_summary(run_id="mobilenetv3_large_100-noise_scale-s0-0123456789", epochs_done=50)
    runs = [make_summary(), dataclasses.replace(long, status="finished", final_accuracy=None)]
    header, first, second = runs_table(runs).splitlines()
    assert header.split() == ["run", "data", "batch", "epochs", "accuracy", "time", "s"]
    assert first.split()[1:] == ["digits", "16", "7/50", "unfinished", "43.21", "%", "12.3"]
    assert second.split() == [long.run_id, "digits", "16", "50/50", "12.3"]
    assert max(map(len, runs_table([make_summary()]).splitlines())) <= 80
    assert [r["final_accuracy"] for r in strict_json(runs_json(runs))["runs"]] == [0.4321, None]


def test_a_name_in_brackets_is_shown_as_it_is() -> None:
    assert "folder:[bold]" in runs_table([make_summary(data="folder:[bold]")])


def test_a_characterization_is_not_changed_by_showing_it() -> None:
    c: Characterization = make_characterization()
    before = json.dumps(c.config)
    characterization_json(c, make_prediction())["config"]["model"] = "other"
    assert json.dumps(c.config) == before
