"""What can be named, what this machine offers, and which settings a command would use."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import probe
from stability_probe import catalogue, doctor
from stability_probe.catalogue import matching, schedules
from stability_probe.config import RunConfig
from stability_probe.dataset_files import FILES
from stability_probe.schedulers import SCHEDULERS, make_scheduler
from stability_probe.schedulers.deba import READINGS


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*args: str, **environment: str) -> Result:
    return CliRunner().invoke(probe, args, prog_name="probe", env=environment)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (None, ["vit", "test_vit", "resnet"]),
        ("vit", ["vit", "test_vit"]),
        ("vit*", ["vit"]),
        ("*t", ["vit", "test_vit", "resnet"]),
        ("[rv]*", ["vit", "resnet"]),
        ("VIT", []),
    ],
)
def test_a_pattern_with_wildcards_is_whole_else_part_of_a_name(
    pattern: str | None, names: list[str]
) -> None:
    assert matching(["vit", "test_vit", "resnet"], pattern) == names


def test_models_are_listed_one_a_line() -> None:
    result = invoke("models", "torchvision:resnet1?")
    assert result.stdout.split() == ["torchvision:resnet18"]
    told = json.loads(invoke("models", "torchvision:resnet1?", "--json").stdout)
    assert told["models"] == ["torchvision:resnet18"]


def test_every_schedule_is_listed_with_defaults_that_are_its_own() -> None:
    entries = schedules()
    assert [e.name for e in entries] == list(SCHEDULERS)
    assert all(e.summary.endswith(".") and "`" not in e.name for e in entries)
    for entry in entries:
        given = {n: json.loads(v) for n, v in entry.arguments.items() if v}
        if "batch_sizes" in entry.arguments:
            given["batch_sizes"] = [16, 24]
        config = RunConfig(model="any", scheduler=entry.name)
        needed = {n: v for n, v in given.items() if n == "batch_sizes"}
        spelled, short = (
            make_scheduler(dataclasses.replace(config, scheduler_args=args), 1000)
            for args in (given, needed)
        )
        assert plain(spelled.rule) == plain(short.rule)  # type: ignore[attr-defined]
        assert spelled.cooldown == short.cooldown  # type: ignore[attr-defined]


def plain(rule: object) -> dict[str, Any]:
    """Everything in a rule, and in what it is made of."""
    return {n: plain(v) if hasattr(v, "__dict__") else v for n, v in vars(rule).items()}


def test_the_listed_deba_is_the_default_reading() -> None:
    (deba,) = schedules("deba")
    reading = READINGS[json.loads(deba.arguments["reading"])]
    assert {n: json.loads(deba.arguments[n]) for n in reading} == reading


def test_doctor_says_where_data_lies(tmp_path: Path) -> None:
    folder = tmp_path / "sets" / FILES["cifar10"].folder
    folder.mkdir(parents=True)
    (folder / "data_batch_1").touch()
    told = json.loads(invoke("doctor", "--data-dir", str(tmp_path / "sets"), "--json").stdout)
    assert told["data"]["cifar10"] == str(folder)
    assert told["data"]["digits"] == "embedded"
    assert "no train" in told["data"]["cifar100"]
    assert told["packages"]["torch"][0].isdigit()
    assert told["cores"] >= 1
    assert told["devices"][-1].startswith("cpu ")


def test_doctor_is_plain_text_for_a_report() -> None:
    lines = invoke("doctor").stdout.splitlines()
    assert lines[0].startswith("probe ")
    assert lines[-1].split(maxsplit=1) == ["problems", "none found"]
    assert all(line.isprintable() for line in lines)


def test_doctor_finds_what_will_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name == "timm" else "1")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**29))
    monkeypatch.setattr("os.access", lambda *_: False)
    result = invoke("doctor", "-o", str(tmp_path / "runs" / "deep"))
    assert result.exit_code == 4
    for words in ("timm is missing", "cannot write", "0.5 GiB free for runs; use another -o"):
        assert words in result.stdout
    assert not (tmp_path / "runs").exists()


def test_data_sets_and_their_places() -> None:
    told = json.loads(invoke("data", "--json").stdout)["data"]
    assert list(told) == ["digits", "crops", "fashion-mnist", "cifar10", "cifar100"]
    assert "cifar100" in invoke("data").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    script = invoke("completion", shell).stdout
    assert f"_PROBE_COMPLETE={shell}_complete" in script


def test_a_shell_that_asks_gets_commands() -> None:
    asked = {"_PROBE_COMPLETE": "bash_complete", "COMP_WORDS": "probe cha", "COMP_CWORD": "1"}
    assert invoke(**asked).stdout.split() == ["plain,characterize"]


def test_show_config_prints_what_the_same_file_gives_back(tmp_path: Path) -> None:
    args = ["run", "m", "--scheduler", "deba", "--scheduler-arg", "window=5", "--lr", "0.1"]
    (tmp_path / "first.toml").write_text("epochs = 30\n")
    shown = invoke(*args, "-C", "first.toml", "--show-config", PROBE_BATCH_SIZE="32")
    assert shown.exit_code == 0
    for line in ("batch-size = 32  # environment", "epochs = 30  # file", "lr = 0.1  # typed"):
        assert line in shown.stdout.splitlines()
    assert "# limit is not set" in shown.stdout
    (tmp_path / "all.toml").write_text(shown.stdout)
    again = invoke("run", "m", "-C", "all.toml", "--show-config")
    assert tomllib.loads(again.stdout) == tomllib.loads(shown.stdout)
    assert {line.split("# ")[1] for line in again.stdout.splitlines()} >= {"file"}
    assert not list(tmp_path.glob("probe-runs"))


def test_show_config_as_json_of_any_command() -> None:
    result = invoke("validate", "m", "--seeds", "3-4", "--show-config", "--json")
    told: dict[str, Any] = json.loads(result.stdout)["settings"]
    assert told["seeds"] == {"value": [3, 4], "source": "typed"}
    assert told["lr"] == {"value": 0.01, "source": "default"}


def test_a_list_needs_no_heavy_library() -> None:
    assert not {"torch", "timm"} & set(vars(catalogue))
