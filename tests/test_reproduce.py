"""The command that a report gives makes the same run: read back, it is the same settings."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from cli import probe
from predictor.reproduce import (
    changed_flags,
    characterize_command,
    run_command,
    study_command,
    validate_after,
)
from stability_probe.config import RunConfig
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.settings import make_config, make_limits
from stability_probe.store import read_study
from tests.factories import make_curve
from tests.predictor_factories import make_characterization, make_run

STUDIES = Path(__file__).parents[1] / "data" / "studies"
RUNS: list[dict[str, Any]] = [
    {},
    {"model": "my_pkg.nets:make net", "data": "folder:/a b/$c"},
    {"batch_size": 32, "max_batch_size": 512, "limit": 100, "epochs": 90, "window_epochs": 7},
    {"lr": 0.5, "optimizer": "adamw", "lr_schedule": "cosine", "lr_rule": "sqrt"},
    {"seed": 3, "order_seed": 5, "channels_last": "on", "threads": 2, "precision": "bfloat16"},
    {"scheduler": "deba", "scheduler_args": {"reading": "mild", "window": 5, "x": [1, "2"]}},
    {"scheduler": "deba", "scheduler_args": {"name": "3", "on": True}, "reset_moments": True},
    {"compile": True, "epochs": 7},
    {"data_dir": "/d", "img_size": 64, "device": "cpu"},
]


def read_back(command: str) -> tuple[str, dict[str, Any], RunConfig]:
    """The command's name, its options, and the run that they describe."""
    start, name, *arguments = shlex.split(command)
    assert start == "probe"
    with click.Context(probe), probe.commands[name].make_context(name, arguments) as ctx:
        return name, ctx.params, make_config(ctx.params)


@pytest.mark.parametrize("settings", RUNS, ids=lambda s: "-".join(s) or "defaults")
def test_a_run_is_the_same_again(settings: dict[str, Any]) -> None:
    run = make_run(batch_sizes=(16,), accuracies=(0.5,), cpu_s=(1.0,), **settings)
    name, _, config = read_back(run_command(run))
    assert name == "run"
    assert config == RunConfig.from_dict(run.config)


def test_the_window_of_a_probe_is_made_by_a_probe() -> None:
    window = make_run(
        batch_sizes=(16, 16), accuracies=(0.5, 0.5), cpu_s=(1.0, 1.0), epochs=20, max_epochs=2,
        seed=4, channels_last="off",
    )  # fmt: skip
    name, options, config = read_back(run_command(window))
    assert (name, options["seeds"]) == ("characterize", (4,))
    assert (config.epochs, config.window_epochs) == (20, 2)


def test_a_probe_and_the_validation_after_it_are_the_same_again() -> None:
    c = make_characterization(config={"channels_last": "off", "lr": 0.1})
    limits = Limits(max_accuracy_loss_pp=1.25)
    for command, wanted in (
        (characterize_command(c, limits), "characterize"),
        (validate_after(c, limits), "validate"),
    ):
        name, options, config = read_back(command)
        assert make_limits(options) == limits
        assert "--min-time-saved" not in command
        assert (name, options["seeds"]) == (wanted, c.seeds)
        # It was measured, so it is measured again.
        assert dataclasses.replace(config, channels_last="off") == RunConfig.from_dict(c.config)
    curve = dataclasses.replace(make_curve((16,), (1.0,)), memory_format_reason="as asked")
    asked = dataclasses.replace(c, curve=curve)
    assert read_back(characterize_command(asked, DEFAULT_LIMITS))[2].channels_last == "off"


def test_a_study_is_the_same_again() -> None:
    study = read_study(STUDIES / "compare-test_vit.json")
    name, options, config = read_back(study_command(study))
    assert (name, options["seeds"]) == ("compare", study.seeds)
    assert make_limits(options) == study.limits == DEFAULT_LIMITS
    strict = dataclasses.replace(study, limits=Limits(min_time_saved_pct=30.0))
    assert make_limits(read_back(study_command(strict))[1]) == strict.limits
    rivals = tuple(arm.name for arm in study.arms if arm.role == "schedule")
    assert options["schedulers"] == rivals
    assert config.limit == study.config["limit"]
    ablation = read_study(STUDIES / "ablate-test_vit.json")
    name, options, config = read_back(study_command(ablation))
    assert (name, options["scheduler_arg"]) == ("ablate", ablation.config["scheduler_args"])


def test_what_has_no_flag_is_said() -> None:
    run = make_run(batch_sizes=(16,), accuracies=(0.5,), cpu_s=(1.0,), momentum=0.5)
    assert run_command(run).endswith("  # with momentum=0.5, in Python")


def test_settings_that_are_not_stored_have_their_defaults() -> None:
    assert changed_flags({"model": "m", "lr": 0.5}) == ["--lr", "0.5"]
