"""The command line: settings and their order, exit codes, and what reaches stdout."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cli import probe
from predictor import report, summary
from predictor.corpus import format_corpus
from stability_probe import exits
from stability_probe.config import RunConfig
from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.export import EXPORTS, export_schedule
from stability_probe.options import TRAINING
from stability_probe.records import Characterization, Prediction, RunResult, StabilityMetrics
from stability_probe.settings import FIELD_OF_FLAG, MAX_SEEDS, KeyValue, OutputFile, Seeds
from stability_probe.store import Store
from tests.factories import make_curve, make_epoch

CHECKOUT = Path(__file__).parents[1]
COMMANDS = sorted(probe.commands)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("PROBE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts functions in place of a library module, so that no test trains or imports torch."""

    def put(module: str, **functions: Any) -> None:
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**functions))

    return put


@pytest.fixture
def seen(fake: Callable[..., None]) -> list[RunConfig]:
    """The configs that `probe run` was asked for; each is answered by a finished run."""
    configs: list[RunConfig] = []

    def run(config: RunConfig, store: Store, progress: Any) -> RunResult:
        configs.append(config)
        return make_result(config)

    fake("stability_probe.run", run=run)
    return configs


def invoke(*args: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(probe, args, prog_name="probe", env=env)


WRITES: list[tuple[tuple[str, ...], str]] = [
    (("corpus", "build", "sweep.toml"), "model,family,data,seed,arm\n"),
    (("report", "run"), '<!doctype html>\n<meta name="generator" content="probe report">\n'),
    (("fit",), '{"crc32": "0",\n  "harm_rate": 0.2}\n'),
    (("export", "run"), '[{"epoch": 1, "first_sample": 0}]\n'),
    (("export", "run"), '"""Batch sizes by epoch of run, for Lightning.\n'),
    (("export", "run"), "--rampup-batch-size 16 8 100\n"),
]
"""Commands that write a file, and how one of theirs begins."""


@pytest.mark.parametrize(("command", "own"), WRITES)
def test_only_an_earlier_file_of_the_same_kind_may_be_overwritten(
    command: tuple[str, ...], own: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    others = {text for _, text in WRITES if text != own} if command[0] != "export" else set()
    for text in ("import torch\n", *others):
        out.write_text(text)
        told = fails(invoke(*command, "-o", "out"), 2, "out is there and is no", "another -o")
        assert "report" in told or command[0] != "report"
        assert out.read_text() == text
    fails(invoke(*command, "-o", "absent/out"), 3, "cannot write absent/out", "no folder")
    fails(invoke(*command, "-o", "."), 2, "is a directory")


def test_an_own_file_passes_that_check(tmp_path: Path) -> None:
    for command, own in WRITES[:2] + WRITES[3:]:  # a fit would take its minutes
        (tmp_path / "out").write_text(own)
        told = invoke(*command, "-o", "out").stderr
        assert "run" in told or "sweep.toml" in told, "what is asked for is not there"
        assert "another -o" not in told


def test_what_the_commands_write_is_known_for_their_own() -> None:
    """The marks of the options are texts of other modules, which may change."""
    result = make_result(RunConfig(model="m"))
    grown = tuple(make_epoch(epoch=e, batch_size=16 * e) for e in (1, 2, 3))
    result = dataclasses.replace(result, epochs=grown)
    written = {
        "rows": [format_corpus([])],
        "report": [report._MARK],
        "fitted": [(CHECKOUT / "data" / "fitted.json").read_text()],
        "exported": [export_schedule(result, to).text for to in EXPORTS],
    }
    for command in (probe, probe.commands["corpus"]):
        assert isinstance(command, click.Group)
        for option in [o for c in command.commands.values() for o in c.params]:
            if isinstance(option, OutputFile):
                for text in written.pop(str(option.name)):
                    assert any(mark in text[:1000] for mark in option._marks), option.name
    assert not written


def test_no_variable_names_a_file_that_is_written(tmp_path: Path) -> None:
    """PROBE_CORPUS names the rows that evaluate reads; `corpus build` once wrote them over."""
    for command, _ in WRITES:
        group = probe.commands[command[0]]
        made = group.commands[command[1]] if isinstance(group, click.Group) else group
        (option,) = [p for p in made.params if "-o" in p.opts]
        with made.make_context("probe", list(command[1:]), resilient_parsing=True) as context:
            context.auto_envvar_prefix = "PROBE"
            assert option.name is not None
            variable = f"PROBE_{option.name.upper()}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(variable, "other")
                patch.setenv("PROBE_CORPUS", "other")
                assert option.resolve_envvar_value(context) is None, variable


def fails(result: Result, code: int, *words: str) -> str:
    """Asserts one line on stderr, nothing on stdout, and the exit code."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("probe: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    return result.stderr


def make_result(config: RunConfig, **fields: Any) -> RunResult:
    values: dict[str, Any] = {
        "run_id": config.run_id(),
        "config": config.to_dict(),
        "status": "finished",
        "device": "cpu",
        "num_params": 10,
        "num_train": 100,
        "num_test": 50,
        "memory_format": "contiguous",
        "environment": {"device_name": "cpu"},
        "epochs": (make_epoch(epoch=1), make_epoch(epoch=2)),
    }
    return RunResult(**{**values, **fields})


def make_characterization(config: RunConfig) -> Characterization:
    metrics = StabilityMetrics(
        stability_score=0.9,
        grad_norm_variation=0.1,
        grad_component_variance=1e-4,
        loss_variation=0.1,
        noise_scale=None,
    )
    return Characterization(
        config=config.to_dict(),
        seeds=(0,),
        device="cpu",
        num_params=10,
        num_train=100,
        num_test=50,
        max_batch_size=64,
        normalization="batch",
        metrics=(metrics,),
        windows=((make_epoch(epoch=1), make_epoch(epoch=2)),),
        curve=make_curve([16, 32], [100.0, 150.0]),
        probe_s=1.0,
        environment={"device_name": "cpu"},
    )


def make_prediction(time_saved_pct: float = 20.0) -> Prediction:
    return Prediction(
        verdict="adapt",
        probability_of_benefit=0.9,
        time_saved_pct=time_saved_pct,
        time_saved_interval_pct=(10.0, 30.0),
        accuracy_delta_pp=0.0,
        accuracy_delta_interval_pp=(-1.0, 1.0),
        interval_level=0.8,
        reason="bigger batches run faster",
        basis="12 architectures",
    )


def fake_characterize(fake: Callable[..., None], prediction: Prediction) -> None:
    def characterize(config: RunConfig, **_: Any) -> Characterization:
        return make_characterization(config)

    fake("stability_probe.probe", characterize=characterize)
    fake("predictor", predict=lambda c, limits: prediction, summary=summary)


# --- settings: flag > environment > file > default


def test_flag_beats_environment_beats_file_beats_default(seen: list[RunConfig]) -> None:
    Path("f.toml").write_text("batch-size = 24\nlr = 1\nepochs = 7\ndata = 'crops'\n")
    env = {"PROBE_BATCH_SIZE": "32", "PROBE_EPOCHS": "8"}
    assert invoke("run", "m", "-C", "f.toml", "-b", "40", env=env).exit_code == 0
    got = seen[0]
    assert (got.batch_size, got.epochs, got.lr, got.data) == (40, 8, 1.0, "crops")
    assert got.optimizer == "sgd"


@given(
    flag=st.none() | st.integers(1, 2000),
    env=st.none() | st.integers(1, 2000),
    file=st.none() | st.integers(1, 2000),
)
def test_the_first_source_that_speaks_wins(
    flag: int | None, env: int | None, file: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    path.write_text("" if file is None else f"epochs = {file}\n")
    args = ["-C", str(path), "m"] + ([] if flag is None else ["--epochs", str(flag)])
    variables = {} if env is None else {"PROBE_EPOCHS": str(env)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        ctx = probe.commands["run"].make_context("run", args)
    expected = next((v for v in (flag, env, file) if v is not None), RunConfig.epochs)
    assert ctx.params["epochs"] == expected


@pytest.mark.parametrize("command", ["characterize", "run", "validate"])
def test_every_training_flag_has_the_default_of_run_config(command: str) -> None:
    ctx = probe.commands[command].make_context(command, ["m"])
    defaults = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    for option in TRAINING:
        name = str(option.name)
        assert ctx.params[name] == defaults[FIELD_OF_FLAG.get(name, name)]


def test_every_field_of_a_run_has_a_flag_or_a_reason_not_to() -> None:
    flags = {FIELD_OF_FLAG.get(str(o.name), o.name) for o in probe.commands["run"].params}
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    assert fields - flags == {"max_epochs", "momentum", "weight_decay"}


def test_every_flag_reads_its_variable(seen: list[RunConfig]) -> None:
    env = {
        "PROBE_DATA": "crops",
        "PROBE_WINDOW": "5",
        "PROBE_LR_SCHEDULE": "cosine",
        "PROBE_CHANNELS_LAST": "off",
        "PROBE_SEED": "3",
        "PROBE_SCHEDULER": "deba",
        "PROBE_SCHEDULER_ARG": "window=9 cooldown=6",
        "PROBE_JSON": "1",
        "PROBE_OUTPUT": "elsewhere",
    }
    result = invoke("run", "m", env=env)
    assert result.exit_code == 0
    json.loads(result.stdout)
    config = seen[0]
    assert (config.data, config.window_epochs, config.seed) == ("crops", 5, 3)
    assert (config.lr_schedule, config.channels_last) == ("cosine", "off")
    assert config.scheduler_args == {"reading": "eager", "window": 9, "cooldown": 6}


@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("--scheduler-arg", "window=9", 9),
        ("--scheduler-arg", "window=carry", "carry"),
        ("--scheduler-arg", 'window="9"', "9"),
        ("--scheduler-arg", "window=[1, 2]", [1, 2]),
        ("--scheduler-arg", "window=a=b", "a=b"),
        ("--scheduler-arg", "window=NaN1", "NaN1"),
    ],
)
def test_scheduler_arguments_are_json_where_they_can_be(
    seen: list[RunConfig], flag: str, text: str, expected: Any
) -> None:
    assert invoke("run", "m", flag, text).exit_code == 0
    assert seen[0].scheduler_args == {"window": expected}


def test_scheduler_arguments_in_a_file_are_a_table(seen: list[RunConfig]) -> None:
    Path("f.toml").write_text("[scheduler-arg]\nwindow = 'carry'\ncooldown = 6\n")
    assert invoke("run", "m", "-C", "f.toml").exit_code == 0
    assert seen[0].scheduler_args == {"window": "carry", "cooldown": 6}


@pytest.mark.parametrize("text", ["window", "=3", "window=1e999", "window=NaN"])
def test_bad_scheduler_argument(text: str) -> None:
    fails(invoke("run", "m", "--scheduler-arg", text), 2, repr(text))


def test_scheduler_argument_given_twice() -> None:
    fails(invoke("run", "m", *["--scheduler-arg", "a=1"] * 2), 2, "'a' is given twice")


def test_a_short_run_shrinks_the_window_nobody_asked_for(seen: list[RunConfig]) -> None:
    assert invoke("run", "m", "--epochs", "2").exit_code == 0
    assert seen[0].window_epochs == 2
    result = invoke("run", "m", "--epochs", "2", "--window", "3")
    fails(result, 2, "longer than the run", "--window 2")


@pytest.mark.parametrize("command", ["characterize", "validate"])
def test_a_run_shorter_than_the_window_leaves_nothing_to_predict(command: str) -> None:
    told = "is shorter than the window of 4, so there is nothing left to predict; just train"
    fails(invoke(command, "m", "--epochs", "3"), 2, f"3 epochs {told}", ", or use --window 2\n")
    assert "--window" not in fails(invoke(command, "m", "--epochs", "1"), 2, f"1 epoch {told}")
    fails(invoke(command, "m", "--epochs", "2", "--window", "3"), 2, "longer than the run")
    fails(invoke(command, "m", "--epochs", "0"), 2, "epochs is 0")


# --- -C FILE


def test_one_file_serves_every_command(seen: list[RunConfig]) -> None:
    Path("f.toml").write_text("seeds = [0, 1]\nformat = 'svg'\nscheduler = 'deba'\nquiet = true\n")
    assert invoke("run", "m", "-C", "f.toml").exit_code == 0
    assert invoke("runs", "-C", "f.toml").exit_code == 0
    ctx = probe.commands["validate"].make_context("validate", ["m"], default_map={"seeds": [0, 1]})
    assert ctx.params["seeds"] == (0, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batch_size = 'abc'", ["batch_size", '"abc"', "whole number"]),
        ("batch_size = 1.5", ["batch_size is 1.5", "whole number"]),
        ("batch_size = true", ["batch_size is true", "whole number"]),
        ("lr = 'fast'", ["lr is", "a number"]),
        ("data = 5", ["data is 5", "text in quotes"]),
        ("json = 'yes'", ["json is", "true or false"]),
        ("seeds = [0, 'a']", ["seeds is", "a list such as"]),
        ("seeds = [0, true]", ["seeds is", "a list such as"]),
        ("seeds = [1, 1]", ["seed 1 twice", "from f.toml"]),
        ("scheduler-arg = 3", ["scheduler-arg is 3", "a table"]),
        ("batch_sise = 3", ["unknown setting 'batch_sise'", "use batch-size;"]),
        ("[run]\nepochs = 3", ["unknown setting 'run'"]),
        ("config = 'g.toml'", ["unknown setting 'config'"]),
        ("batch_size = 3\nbatch-size = 4", ["set twice"]),
        ("epochs = 5\nbatch_size = ]", ["f.toml is no TOML file", "line 2"]),
        ("\x00", ["is no TOML file"]),
        ("precision = 'float16'", ["'float16' is not one of", "from f.toml"]),
        ("epochs = 0", ["epochs is 0", "at least 1"]),
    ],
)
def test_bad_file_is_one_line(content: str, words: list[str]) -> None:
    Path("f.toml").write_text(content)
    fails(invoke("characterize", "m", "-C", "f.toml"), 2, *words)


def test_what_a_file_may_hold_is_told_by_the_flags_of_the_command() -> None:
    Path("f.toml").write_text("zzz = 3\n")
    told = fails(invoke("evaluate", "-C", "f.toml"), 2, "use corpus or epochs or format or json")
    assert "_" not in told
    assert "figures" not in told


def test_a_misspelt_variable_is_told() -> None:
    env = {"PROBE_EPOCH": "5", "PROBE_HOME": "home", "PROBE_SEEDS": "1", "PROBE_URL": "x"}
    result = invoke("runs", env=env)
    assert result.exit_code == 0
    assert result.stderr == "probe: PROBE_EPOCH is no setting; did you mean PROBE_EPOCHS?\n"
    assert invoke("runs", "-q", env=env).stderr == ""


def test_file_that_is_no_text() -> None:
    Path("f.toml").write_bytes(b"\xff\xfe\x00")
    fails(invoke("runs", "-C", "f.toml"), 2, "is no TOML file")


def test_missing_file_keeps_the_case_of_its_name() -> None:
    fails(invoke("runs", "-C", "My.toml"), 2, "cannot read My.toml: No such file")
    fails(invoke("runs", "-C", "."), 2, "cannot read .: Is a directory")


# --- usage errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["charaterize", "m"], ["unknown command 'charaterize'", "use characterize"]),
        (
            ["resnet50"],
            [
                "unknown command",
                " or ".join(COMMANDS),
            ],
        ),
        (["run", "m", "--bach-size", "3"], ["--bach-size", "--batch-size"]),
        (["--verison"], ["--verison", "--version"]),
        (["run"], ["missing argument 'MODEL'", "probe run --help"]),
        (["run", "m", "extra"], ["unexpected extra argument", "extra"]),
        (["run", "m", "-b", "abc"], ["invalid value", "--batch-size", "'abc'"]),
        (["run", "m", "-b", "0"], ["batch_size is 0"]),
        (["run", "m", "-b"], ["-b", "requires an argument"]),
        (["run", "m", "--lr", "nan"], ["lr is nan"]),
        (["characterize", "m", "--min-time-saved", "nan"], ["least time saved is nan; use"]),
        (["validate", "m", "--max-accuracy-loss", "-1"], ["loss of accuracy is -1; use 0 to"]),
        (["compare", "m", "--min-time-saved", "100"], ["least time saved is 100; use"]),
        (["predict", "x", "--max-accuracy-loss", "2pp"], ["'2pp' is not a valid float"]),
        (["run", "m", "--optimizer", "adam"], ["'adam' is not one of", "adamw"]),
        (["run", "m", "--scheduler", "debba"], ["'debba'", "use deba"]),
        (["run", "m", "-b", "64", "--max-batch-size", "32"], ["--max-batch-size 64"]),
        (["run", "m", "--seeds", "0,1"], ["--seeds", "--seed"]),
        (["characterize", "m", "--seeds", "0,0"], ["names seed 0 twice"]),
        (["characterize", "m", "-o", __file__], ["is a file"]),
        (["plot", "x", "--format", "gif"], ["'gif' is not one of"]),
    ],
)
def test_usage_error_is_one_line(args: list[str], words: list[str]) -> None:
    fails(invoke(*args), 2, *words)


def test_usage_error_names_the_variable_it_came_from() -> None:
    result = invoke("run", "m", env={"PROBE_BATCH_SIZE": "abc"})
    fails(result, 2, "'abc'", "(from PROBE_BATCH_SIZE)")


def test_no_command_shows_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: probe" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_option_has_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert probe.commands[command].help
    for param in probe.commands[command].params:
        assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name


@pytest.mark.parametrize("group", [(), ("corpus",)])
def test_the_line_of_a_command_is_whole_and_those_used_first_come_first(
    group: tuple[str, ...],
) -> None:
    shown = invoke(*group, "--help").stdout.split("Commands:\n")[1].split("\n\n")[0]
    assert "..." not in shown
    if not group:
        names = [line.split()[0] for line in shown.splitlines()]
        assert names[:3] == ["characterize", "predict", "run"]
        assert sorted(names) == COMMANDS


def test_replay_policy_asks_for_a_schedule() -> None:
    fails(invoke("replay-policy", "x"), 2, "missing option '--scheduler'")


def test_help_shows_defaults_and_exit_codes() -> None:
    assert "[default: 100]" in invoke("run", "--help").stdout
    shown = invoke("--help").stdout
    for code in ("  1 ", "  2 ", "  3 ", "  4 ", "  70 ", "  130 "):
        assert code in shown


def test_version() -> None:
    assert invoke("--version").stdout.startswith("probe ")


# --- seeds


@given(st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=20, unique=True))
def test_seeds_survive_being_written_and_read(seeds: list[int]) -> None:
    text = ",".join(map(str, seeds))
    assert Seeds().convert(text, None, None) == tuple(seeds)
    assert Seeds().convert(seeds, None, None) == tuple(seeds)


@given(st.integers(0, 10**6), st.integers(0, MAX_SEEDS - 1))
def test_a_range_of_seeds_includes_both_ends(first: int, more: int) -> None:
    expected = tuple(range(first, first + more + 1))
    assert Seeds().convert(f"{first}-{first + more}", None, None) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        "a",
        "-1",
        "1.5",
        "3-1",
        "1-2-3",
        "0,0",
        "0-2,1",
        "²",
        "٣",
        "0-999999999",
        "0x1",
        "1 2",
        "99999999999",
    ],
)
def test_bad_seeds(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        Seeds().convert(text, None, None)
    assert "\n" not in caught.value.message


@given(st.text())
def test_any_text_is_seeds_or_one_clear_error(text: str) -> None:
    try:
        seeds = Seeds().convert(text, None, None)
    except click.BadParameter:
        return
    assert seeds
    assert len(set(seeds)) == len(seeds)


@given(st.dictionaries(st.text("abc_", min_size=1), st.integers() | st.booleans() | st.none()))
def test_key_values_survive_being_written_and_read(values: dict[str, Any]) -> None:
    texts = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    assert dict(KeyValue().convert(text, None, None) for text in texts) == values


# --- how commands end


@pytest.mark.parametrize("command", ["characterize", "run", "validate"])
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("unknown model 'm'"), 2, ["unknown model 'm'"]),
        (RunError("the loss became\nnon-finite"), 3, ["became non-finite"]),
        (MissingError("no data"), 4, ["no data"]),
        (ImportError("no torch", name="torch"), 4, ["cannot import torch"]),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 3, ["disk is full", "/x/y"]),
        (OSError(errno.EROFS, "Read-only", "/x/y"), 3, ["/x/y", "read-only", "-o"]),
        (PermissionError(errno.EACCES, "denied", "/x/y"), 3, ["no permission for /x/y"]),
        (OSError(errno.EIO, "I/O", "/x/y"), 3, ["cannot read or write /x/y"]),
        (MemoryError(), 3, ["out of memory"]),
        (KeyboardInterrupt(), 130, ["interrupted; what was measured is kept in kept-here"]),
        (ZeroDivisionError("oops"), 70, ["internal error: ZeroDivisionError: oops", "-v"]),
    ],
)
def test_every_error_is_one_line_and_its_exit_code(
    fake: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    error: BaseException,
    code: int,
    words: list[str],
) -> None:
    monkeypatch.setattr(exits, "_own_frame", lambda _: None)  # raised here, as if by probe

    def work(*args: Any, **kwargs: Any) -> None:
        raise error

    module = {"characterize": "stability_probe.probe", "run": "stability_probe.run"}
    fake(module.get(command, "predictor.validate"), **{command: work})
    fails(invoke(command, "m", "-o", "kept-here", "--json"), code, *words)
    told = invoke(command, "m", "-o", "kept-here", "-v")
    assert told.exit_code == code
    assert told.stdout == ""
    assert "Traceback" in told.stderr.split("\n", 1)[1]


OWN = """
import torch
from torch import nn
from stability_probe.schedulers.base import Proposal


class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3 * 8 * 8, num_classes)

    def forward(self, images):
        print("a pass")
        return super().forward(images.flatten(1))


class Tired(Net):
    def forward(self, images):
        if self.training and len(images) > 2:
            return super().forward(images) @ torch.ones(7)
        return super().forward(images)


class Rule:
    def __init__(self, answer=None):
        self.answer = answer

    def propose(self, record):
        if self.answer is None:
            raise KeyError("no such signal")
        return Proposal(batch_size=self.answer, reason="") if self.answer != 0 else 5

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""
RUN_OWN = (
    "--data",
    "tests.tiny:blobs",
    "--epochs",
    "2",
    "--channels-last",
    "off",
    "--device",
    "cpu",
)


def test_what_the_users_own_code_prints_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "ownprints.py").write_text(OWN)
    told = invoke("run", "ownprints:Net", *RUN_OWN, "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["status"] == "finished"
    assert "a pass" in told.stderr
    (tmp_path / "ownprints.py").unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ownfails:Tired",), ["your own code raised RuntimeError", "ownfails.py, line 19"]),
        (
            ("ownfails:Net", "--scheduler", "ownfails:Rule"),
            ["your own code raised KeyError: 'no such signal'", "ownfails.py, line 29"],
        ),
        (
            ("ownfails:Net", "--scheduler", "ownfails:Rule", "--scheduler-arg", "answer=0"),
            ["Rule.propose() returned 5; use a Proposal"],
        ),
        (
            ("ownfails:Net", "--scheduler", "ownfails:Rule", "--scheduler-arg", 'answer="2"'),
            ["Rule.propose() returned Proposal(batch_size='2'", "of a number of samples"],
        ),
    ],
)
def test_an_error_of_the_users_own_code_is_no_bug_of_probe(
    tmp_path: Path, arguments: tuple[str, ...], words: list[str]
) -> None:
    (tmp_path / "ownfails.py").write_text(OWN)
    sys.modules.pop("ownfails", None)
    told = invoke("run", *arguments, *RUN_OWN, "-q")
    assert told.exit_code == 2
    *prints, line = told.stderr.splitlines()
    assert set(prints) <= {"a pass"}
    assert line.startswith("probe: ")
    assert all(word in line for word in words), line


LATE = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3 * 8 * 8, num_classes)

    def forward(self, images):
        import ownsibling
        if self.training and len(images) > 2:
            ownsibling.quit_if_told()
        return super().forward(images.flatten(1))
"""


def test_own_code_may_import_its_siblings_late_but_not_end_the_command(tmp_path: Path) -> None:
    (tmp_path / "ownlate.py").write_text(LATE)
    sibling = tmp_path / "ownsibling.py"
    sibling.write_text("def quit_if_told(): pass\n")
    path = list(sys.path)
    told = invoke("run", "ownlate:Net", *RUN_OWN, "-q")
    assert told.exit_code == 0, told.stderr
    assert sys.path == path
    sibling.write_text("import sys\ndef quit_if_told():\n    sys.exit(0)\n")
    sys.modules.pop("ownsibling")
    told = invoke("run", "ownlate:Net", *RUN_OWN, "-q", "--seed", "1")
    fails(told, 2, "your own code raised SystemExit: 0", "ownsibling.py, line 3")
    for name in ("ownlate", "ownsibling"):
        sys.modules.pop(name)


def test_an_error_of_probe_in_a_callback_of_the_user_stays_a_bug() -> None:
    """The innermost code of the two is to blame."""
    with pytest.raises(AttributeError) as caught:
        exits._explain_os_error(None)  # type: ignore[arg-type]
    assert exits.explain(caught.value)[1] == exits.BUG


def test_a_command_that_measures_nothing_is_interrupted_as_quietly(
    fake: Callable[..., None],
) -> None:
    """Such as `evaluate`, which takes a minute and has no folder to name."""

    def work(*_: Any) -> None:
        raise KeyboardInterrupt

    fake("stability_probe.catalogue", matching=work)
    result = invoke("models")
    assert (result.exit_code, result.stderr) == (130, "probe: interrupted\n")


def test_json_is_one_object_and_nothing_else(seen: list[RunConfig]) -> None:
    result = invoke("run", "m", "--json")
    assert json.loads(result.stdout)["run_id"] == seen[0].run_id()
    assert result.stderr == ""


def test_what_is_not_finite_is_no_json(fake: Callable[..., None]) -> None:
    epochs = (make_epoch(loss=math.nan),)
    fake("stability_probe.run", run=lambda config, *_: make_result(config, epochs=epochs))
    fails(invoke("run", "m", "--json"), 3, "not finite")


def test_diverged_run_prints_what_it_has_and_fails(fake: Callable[..., None]) -> None:
    fake("stability_probe.run", run=lambda config, *_: make_result(config, status="diverged"))
    result = invoke("run", "m", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["status"] == "diverged"
    assert result.stderr == "probe: the loss became non-finite in epoch 3; use a smaller --lr\n"


def test_names_with_brackets_are_printed_as_they_are(seen: list[RunConfig]) -> None:
    result = invoke("run", "m", "--json")
    assert result.exit_code == 0
    run = make_result(seen[0], run_id="[red]x[/red]:smile:")
    sys.modules["stability_probe.run"].run = lambda *_: run
    assert "[red]x[/red]:smile:" in invoke("run", "m").stdout


def test_characterize_prints_and_keeps_its_answer(fake: Callable[..., None]) -> None:
    fake_characterize(fake, make_prediction())
    result = invoke("characterize", "m", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["prediction"]["verdict"] == "adapt"
    assert result.stderr == ""
    assert list(Path("probe-runs").rglob("*.json"))
    shown = invoke("characterize", "m")
    assert "probe plot probe-runs" in shown.stderr
    assert "other limits: probe predict probe-runs" in shown.stderr
    assert "ADAPT" in shown.stdout


def test_what_characterize_prints_leads_to_what_it_stored(
    fake: Callable[..., None], drawn: list[Any]
) -> None:
    fake_characterize(fake, make_prediction())
    printed = invoke("characterize", "m", "--json", "-o", "mine").stdout
    Path("c.json").write_text(printed)
    stored = Path(json.loads(printed)["stored"])
    assert [stored] == list(Path("mine").absolute().rglob("*.json"))
    again = invoke("predict", "c.json", "--json")
    assert json.loads(again.stdout) == json.loads(printed)
    assert invoke("plot", "c.json").exit_code == 0
    assert drawn[0][0].characterization == make_characterization(RunConfig(model="m"))
    stored.unlink()
    for command in ("predict", "plot", "report"):
        fails(invoke(command, "c.json"), 4, "c.json is what --json prints", stored.name)


def test_the_next_command_reads_the_same_runs(fake: Callable[..., None]) -> None:
    fake_characterize(fake, make_prediction())

    def told(*args: str) -> str:
        return invoke(*args).stdout.split("next: ")[1].replace("\n", " ")

    assert " -o " not in told("characterize", "m")
    assert told("characterize", "m", "-o", "mine").endswith("-o mine ")
    (stored,) = Path("mine").rglob("*.json")
    assert told("predict", str(stored)).endswith("-o mine ")
    stored.rename("moved.json")
    assert " -o " not in told("predict", "moved.json")


def test_a_file_that_is_no_json() -> None:
    Path("data.py").write_text("import torch\n")
    fails(invoke("predict", "data.py"), 4, "cannot read data.py: it is not JSON\n")


def test_full_disk_at_the_end_does_not_take_the_answer(
    fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left", "probe-runs/x")

    fake_characterize(fake, make_prediction())
    monkeypatch.setattr(Store, "save_characterization", save)
    result = invoke("characterize", "m", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["model"] == "m"
    assert "the disk is full" in result.stderr


@pytest.mark.parametrize(
    ("inside", "correct", "code"),
    [(True, True, 0), (True, None, 0), (False, True, 1), (True, False, 1), (False, None, 1)],
)
def test_validate_exits_1_when_the_prediction_failed(
    fake: Callable[..., None], inside: bool, correct: bool | None, code: int
) -> None:
    calls: list[Any] = []

    def validate(config: RunConfig, **kwargs: Any) -> Any:
        calls.append(kwargs["seeds"])
        return types.SimpleNamespace(inside_interval=inside, class_correct=correct)

    fake("predictor.validate", validate=validate)
    fakes = types.SimpleNamespace(
        validation_json=lambda v: {"inside_interval": v.inside_interval},
        validation_table=lambda v: "table",
        validation_failed=summary.validation_failed,
    )
    fake("predictor", summary=fakes)
    result = invoke("validate", "m", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {"schema_version": 1, "inside_interval": inside}
    assert invoke("validate", "m", "--seeds", "5-7").stdout == "table\n"
    assert calls == [(0, 1, 2), (5, 6, 7)]


# --- runs and plot


def store_run(root: Path, **fields: Any) -> RunResult:
    config = RunConfig(model="m")
    result = make_result(config, **fields)
    with Store(root).open(config) as directory:
        directory.finish(result)
    return result


def test_runs_lists_what_is_stored() -> None:
    result = store_run(Path("probe-runs"))
    listed = json.loads(invoke("runs", "--json").stdout)["runs"]
    assert [r["run_id"] for r in listed] == [result.run_id]
    assert result.run_id in invoke("runs").stdout.split()
    assert invoke("runs", "-o", "nowhere").exit_code == 0


@pytest.mark.parametrize("flag", ["-o", "--output", "--runs"])
def test_the_folder_of_runs_has_one_name_everywhere(flag: str) -> None:
    result = store_run(Path("mine"))
    assert result.run_id in invoke("runs", flag, "mine").stdout
    if flag == "--runs":
        assert invoke("explain", result.run_id, flag, "mine").exit_code == 0
    else:
        fails(invoke("explain", result.run_id, flag, "mine"), 2, "the folder of runs is --runs;")
        told = fails(invoke("models", flag, "mine"), 2, "no such option")
        assert "--runs" not in told


def test_a_run_that_is_not_there_is_looked_for_elsewhere() -> None:
    told = "no run 'x' in {}; see probe runs{}, or name its folder with --runs\n"
    fails(invoke("explain", "x"), 2, told.format("probe-runs", ""))
    fails(invoke("explain", "x", "--runs", "a b"), 2, told.format("a b", " -o 'a b'"))


def test_runs_tells_windows_and_how_the_batch_grew() -> None:
    store_run(Path("probe-runs"), epochs=(make_epoch(epoch=1), make_epoch(batch_size=24, epoch=2)))
    window = RunConfig(model="m", max_epochs=4)
    with Store(Path("probe-runs")).open(window) as directory:
        directory.append(make_epoch(epoch=1))
    listed = invoke("runs").stdout
    assert "16 → 24  2/100 " in listed
    assert "16       1/4 window, unfinished " in listed
    ascii_only = process("-m", "cli", "runs", env={"PYTHONIOENCODING": "ascii"})
    assert ascii_only.stdout == listed.replace("→", "?")


def test_nothing_like_a_pattern_is_a_usage_error(fake: Callable[..., None]) -> None:
    fake("stability_probe.models", model_names=lambda: ["vit"], suggest=lambda _: ["vit"])
    assert invoke("models", "v").stdout == "vit\n"
    for more in ((), ("--json",)):
        fails(invoke("models", "vid", *more), 2, "no model like 'vid'; use vit\n")
        fails(invoke("schedulers", "debaa", *more), 2, "no schedule like 'debaa'; use deba\n")


def test_runs_lists_what_it_can_read_and_names_the_rest() -> None:
    result = store_run(Path("probe-runs"))
    for name in ("a", "b"):
        Path("probe-runs", name).mkdir()
        Path("probe-runs", name, "config.json").write_text('{"model": "m", "lr": NaN}')
    told = invoke("runs", "--json")
    assert told.exit_code == 4
    assert [r["run_id"] for r in json.loads(told.stdout)["runs"]] == [result.run_id]
    words = "NaN is no finite number (and 1 more)"
    bad = Path("probe-runs", "a", "config.json")
    assert told.stderr == f"probe: not listed: cannot read {bad}: {words}\n"


@pytest.fixture
def drawn(fake: Callable[..., None]) -> list[tuple[Any, Path, str]]:
    calls: list[tuple[Any, Path, str]] = []

    def write(what: Any, root: Path, out: Path, fmt: str) -> list[Path]:
        calls.append((what, out, fmt))
        return [out / f"a.{fmt}"]

    fake("predictor.plots", write_plots=write)
    return calls


def test_plot_finds_a_run_by_name_folder_or_file(drawn: list[tuple[Any, Path, str]]) -> None:
    result = store_run(Path("probe-runs"))
    folder = f"probe-runs/{result.run_id}"
    for stored in (result.run_id, folder, f"{folder}/", f"{folder}/result.json"):
        assert invoke("plot", stored, "-o", "figs", "--format", "svg").exit_code == 0, stored
    assert drawn == [(result, Path("figs"), "svg")] * 4


def test_plot_finds_a_run_in_its_output_folder_too(drawn: list[tuple[Any, Path, str]]) -> None:
    result = store_run(Path("elsewhere"))
    assert invoke("plot", result.run_id, "-o", "elsewhere").exit_code == 0
    shown = invoke("plot", result.run_id, "--json", env={"PROBE_OUTPUT": "elsewhere"})
    assert json.loads(shown.stdout) == {"schema_version": 1, "files": ["a.png"]}
    assert [call[1] for call in drawn] == [Path("elsewhere"), Path(".")]


def test_plot_draws_a_characterization(drawn: list[tuple[Any, Path, str]]) -> None:
    c = make_characterization(RunConfig(model="m"))
    path = Store(Path("probe-runs")).save_characterization(c, make_prediction())
    result = invoke("plot", str(path))
    assert result.exit_code == 0
    assert result.stdout == "a.png\n"
    assert drawn[0][0].characterization == c


def test_plot_of_what_run_printed(seen: list[RunConfig], drawn: list[Any]) -> None:
    Path("r.json").write_text(invoke("run", "m", "--json").stdout)
    assert invoke("plot", "r.json").exit_code == 0
    assert drawn[0][0] == make_result(seen[0])


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"windows": 3}', '{"characterization": 3}'])
def test_plot_of_a_damaged_file(drawn: list[Any], content: str) -> None:
    Path("x.json").write_text(content)
    fails(invoke("plot", "x.json"), 4, "x.json")


def test_plot_of_what_is_not_there(drawn: list[Any]) -> None:
    result = store_run(Path("probe-runs"), epochs=())
    fails(invoke("plot", "x.json"), 4, "x.json")
    fails(invoke("plot", result.run_id[:-1]), 2, result.run_id)
    fails(invoke("plot", result.run_id), 2, "no finished epoch")


def test_explain_and_replay_policy_print_json() -> None:
    epochs = (make_epoch(epoch=1), make_epoch(epoch=2, action="increase", next_batch_size=24))
    result = store_run(Path("probe-runs"), epochs=epochs, num_train=1000)
    told = json.loads(invoke("explain", result.run_id, "--json").stdout)
    assert told["run_id"] == result.run_id
    assert [d["next_batch_size"] for d in told["decisions"]] == [16, 24]
    args = ["--scheduler", "timed", "--scheduler-arg", "cooldown=1", "--json"]
    told = json.loads(invoke("replay-policy", result.run_id, *args).stdout)
    assert [d["action"] for d in told["decisions"]] == ["increase", "increase"]


def test_explain_and_replay_policy_of_what_cannot_be(fake: Callable[..., None]) -> None:
    result = store_run(Path("probe-runs"))
    fails(invoke("explain", result.run_id[:-1]), 2, f"did you mean {result.run_id}")
    fails(invoke("explain", "x.json"), 4, "x.json")
    fails(invoke("replay-policy", result.run_id, "--scheduler", "debba"), 2, "use deba")
    args = ["--scheduler", "deba", "--scheduler-arg", "reading=mlid"]
    fails(invoke("replay-policy", result.run_id, *args), 2, "unknown reading of deba", "mild")
    epoch = make_epoch()
    held = make_characterization(RunConfig(model="m"))
    held = dataclasses.replace(held, windows=((epoch, epoch),))
    path = Store(Path("probe-runs")).save_characterization(held, make_prediction())
    fails(invoke("explain", str(path)), 2, "is a characterization, not a run; use a RUN_ID")


# --- real processes


def process(
    *args: str, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **(env or {})}
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=env, timeout=60, **options
    )


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["run", "m", "-b", "abc"], 2),
        (["run", "m", "-b", "0"], 2),
        (["run", "m", "--scheduler", "debba"], 2),
        (["runs"], 0),
    ],
)
def test_torch_is_not_imported_for(args: list[str], code: int) -> None:
    script = (
        "import sys, cli\n"
        f"sys.argv = ['probe', *{args!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'timm', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(99 if heavy else code)\n"
    )
    assert process("-c", script).returncode == code


def test_module_runs_as_a_script() -> None:
    result = process("-m", "cli", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: probe ")


def test_reader_that_leaves_early_is_no_error() -> None:
    script = f"'{sys.executable}' -m cli runs --json | true; echo ${{PIPESTATUS[0]}}"
    for _ in range(3):
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60
        )
        assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["runs", "--json"], ["runs"], ["--help"]])
def test_full_disk_under_stdout(args: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            [sys.executable, "-m", "cli", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            timeout=60,
        )
    assert done.returncode == 3
    assert done.stderr == (
        "probe: the disk is full, cannot write; free some space and type the same again\n"
    )
