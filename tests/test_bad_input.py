"""Bad input through the real command and library: one line, and the documented exit code."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli

TINY = ["tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--window", "2"]
TINY += ["--epochs", "3", "--channels-last", "off"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own, with the user's code in it."""
    (tmp_path / "mine.py").write_text(
        "def no_module():\n    return 3\n"
        "def fails():\n    raise OSError('no such weights')\n"
        "def no_images():\n    return 'x'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli.probe, args)


def check(result: Result, code: int, words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("probe: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr


@pytest.mark.parametrize("command", ["characterize", "run"])
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["resnet5O"], "did you mean resnet50"),
        (["torchvision:resnet19"], "did you mean torchvision:resnet"),
        ([*TINY, "--data", "digit"], "did you mean digits"),
        (["vit_tiny_patch16_224", "--img-size", "30"], "--img-size"),
        (["mine:no_module"], "mine:no_module returned int, not a torch module"),
        (["mine:fails"], "OSError: no such weights"),
        (["mine:absent"], "cannot import mine:absent"),
        (["nowhere:net"], "No module named 'nowhere'"),
        ([*TINY, "--data", "mine:no_images"], "mine:no_images"),
        ([*TINY, "-b", "98"], "use -b 97 or less"),
        ([*TINY, "-b", "1"], "use -b 2 or more"),
        ([*TINY, "--epochs", "1"], "the window of 2 epochs is longer than the run of 1"),
        ([*TINY, "--max-batch-size", "8"], "use --max-batch-size 16 or more"),
        ([*TINY, "--lr", "0"], "lr is 0.0; use a positive number"),
        ([*TINY, "--lr", "nan"], "lr is nan"),
        ([*TINY, "--limit", "2"], "limit"),
        ([*TINY, "--device", "cuda:x"], "device"),
        ([*TINY, "--lr-rule", "sqrt"], "use --lr-rule linear with sgd"),
    ],
)
def test_usage(command: str, args: list[str], words: str) -> None:
    check(invoke(command, *args), 2, words)


def test_unknown_schedule() -> None:
    check(invoke("run", *TINY, "--scheduler", "debba"), 2, "deba")
    check(
        invoke("run", *TINY, "--scheduler", "deba", "--scheduler-arg", "coldown=3"), 2, "cooldown"
    )


def test_missing_and_damaged_data(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    data = ["--data", "cifar10", "--data-dir", str(empty)]
    check(invoke("characterize", *TINY, *data), 4, str(empty))
    (empty / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03junk"))
    data = ["--data", "fashion-mnist", "--data-dir", str(empty)]
    check(invoke("characterize", *TINY, *data), 4, "idx3-ubyte")
    check(invoke("characterize", *TINY, "--data", "folder:nowhere"), 4, "nowhere")


@pytest.mark.parametrize("command", ["characterize", "validate"])
def test_a_loss_that_becomes_nan(command: str) -> None:
    result = invoke(command, "tests.tiny:plain", *TINY[1:], "--lr", "1e20")
    check(result, 3, "use a smaller --lr")


def test_a_diverged_run_is_kept_and_listed() -> None:
    result = invoke("run", "tests.tiny:plain", *TINY[1:], "--lr", "1e20", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["status"] == "diverged"
    (listed,) = json.loads(invoke("runs", "--json").stdout)["runs"]
    assert listed["status"] == "diverged"


def test_a_folder_that_is_a_run() -> None:
    assert invoke("run", *TINY).exit_code == 0
    (run,) = (p.parent for p in Path("probe-runs").glob("*/config.json"))
    before = {f.name: f.read_bytes() for f in run.iterdir()}
    check(invoke("run", *TINY, "-o", str(run), "--lr", "0.5"), 2, "is itself a run")
    assert {f.name: f.read_bytes() for f in run.iterdir()} == before


def test_another_config_never_overwrites_a_run() -> None:
    assert invoke("run", *TINY).exit_code == 0
    (run,) = (p.parent for p in Path("probe-runs").glob("*/config.json"))
    before = {f.name: f.read_bytes() for f in run.iterdir()}
    assert invoke("run", *TINY, "--lr", "0.5").exit_code == 0
    assert len(list(Path("probe-runs").glob("*/config.json"))) == 2
    assert {f.name: f.read_bytes() for f in run.iterdir()} == before


def test_an_output_that_is_a_file() -> None:
    Path("taken").write_text("mine")
    result = invoke("run", *TINY, "-o", "taken")
    check(result, 2, "taken")
    assert Path("taken").read_text() == "mine"


def test_characterize_twice_keeps_both_answers() -> None:
    for _ in range(2):
        result = invoke("characterize", *TINY, "--json")
        assert result.exit_code == 0, result.stderr
        answer = json.loads(result.stdout)
        assert answer["prediction"]["verdict"] in ("adapt", "keep_fixed", "abstain")
    assert len(list(Path("probe-runs/characterizations").iterdir())) == 2
