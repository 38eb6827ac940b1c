"""Every block of the documents: commands are understood and run, tables are of what was stored.

The tutorial's and the integrations' blocks are run as they stand, by their own tests; what
measures for hours is run in small, and held against its stored result, here.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import pytest
from click.testing import CliRunner
from rich.console import Console, RenderableType

import cli
from predictor.corpus import CORPUS_READING, load_corpus
from predictor.evaluate import Evaluation
from predictor.scores_summary import evaluation_tables
from stability_probe import executors, study
from stability_probe.config import RunConfig
from stability_probe.files import read_json
from stability_probe.store import read_study
from stability_probe.study_summary import study_table
from tests.test_docs import DOCUMENTS, ROOT, blocks

STUDIES = ROOT / "data" / "studies"


def commands() -> Iterator[tuple[str, str]]:
    """(document, one command line) of every block that has no language or is a shell's."""
    for document in DOCUMENTS:
        for language, _, text in blocks(document):
            if language not in ("", "sh"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    if re.match(r"\s*(probe|python -m tests\.|RUN=)", part):
                        yield document.stem, part.strip()


COMMANDS = sorted(set(commands()))
PROBE = [(d, c) for d, c in COMMANDS if c.startswith("probe ") and "$" not in c]
BENCHMARKS = [(d, c) for d, c in COMMANDS if c.startswith("python -m tests.benchmarks.")]


def test_commands_are_found() -> None:
    assert len(PROBE) >= 20
    assert len(BENCHMARKS) > 10


@pytest.mark.parametrize(("document", "command"), PROBE)
def test_a_command_is_understood(document: str, command: str) -> None:
    """Its options exist, its values are of their kind and its settings go together."""
    words = shlex.split(re.split(r" [|<>] ", command)[0], comments=True)[1:]
    if "-h" in words or "..." in command or words == ["--help"]:
        return
    understood(cli.probe, words)


def understood(command: click.Command, words: list[str]) -> None:
    context = command.make_context(command.name, words)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, sub, rest = command.resolve_command(context, rest)
        assert sub is not None, name
        understood(sub, rest)


class Understood(Exception):
    """The arguments were parsed; nothing is measured."""


@pytest.mark.parametrize(("document", "command"), BENCHMARKS)
def test_a_benchmark_is_understood(
    document: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse(self, *args, **kwargs)
        raise Understood

    _, _, module, *words = shlex.split(command, comments=True)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Understood):
        importlib.import_module(module).main()


def shown(result: RenderableType) -> str:
    """What a command prints where the screen has 80 columns, without blanks at line ends."""
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False, markup=False, emoji=False)
    console.print(result)
    return without_ends(file.getvalue())


def without_ends(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


def tables() -> str:
    return without_ends((ROOT / "docs" / "findings.md").read_text())


@pytest.mark.parametrize(
    "path", sorted({*STUDIES.glob("*.json")} - {STUDIES / "readings.json"}), ids=lambda p: p.stem
)
def test_the_table_of_a_study_is_of_what_was_stored(path: Path) -> None:
    assert shown(study_table(read_study(path))) in tables()


def test_the_scores_are_those_that_were_stored() -> None:
    stored = revived(Evaluation, read_json(ROOT / "data" / "scores.json"))
    assert shown(evaluation_tables(stored)) in tables()


def revived(kind: Any, value: Any) -> Any:
    """`value`, read from JSON, as an object of the annotated type `kind`."""
    if dataclasses.is_dataclass(kind):
        fields = get_type_hints(kind)
        return kind(**{name: revived(fields[name], value[name]) for name in fields})
    within = [k for k in get_args(kind) if k not in (type(None), Ellipsis)]
    if value is None or not within:
        return value
    if len(within) == 1 and type(None) in get_args(kind):
        return revived(within[0], value)
    if isinstance(value, list):
        return tuple(revived(within[0], item) for item in value)
    if isinstance(value, dict):
        return {key: revived(within[1], item) for key, item in value.items()}
    raise AssertionError(f"{value!r} is no {kind}")


def test_the_readings_are_those_that_were_stored() -> None:
    text = tables().replace("**", "")
    for name, r in json.loads((STUDIES / "readings.json").read_text()).items():
        saved, curve = (f"{m:.1f} ± {sd:.1f} %" for m, sd in (r["saved_pct"], r["curve_saved_pct"]))
        mean, sd = r["accuracy_delta_pp"]
        runs = r["runs"]
        row = [
            *(name, saved, f"{r['within_reported']} of {runs}"),
            *(curve, f"{r['curve_within_reported']} of {runs}"),
            f"{r['increases']} / {r['rollbacks']}",
            f"{r['runs_with_rollback']} of {runs}",
            f"{mean:+.2f} ± {sd:.2f}",
            f"{r['rehearsed_increases']} / {r['rehearsed_rollbacks']}",
        ]
        assert f"| {' | '.join(row)} |" in text


# --- commands that measure, on a net and data of no size ---------------------------------------

SMALL = {
    "--data": "tests.tiny:blobs",
    "--epochs": "6",
    "--window": "2",
    "--max-batch-size": "32",
    "--seeds": "0,1",
    "--threads": "1",
    "--limit": None,
    "--img-size": None,
    "-b": None,
}
"""What is given in place of an option's value; None drops the option."""
MEASURING = ("characterize", "run", "compare", "ablate")


def in_small(command: str) -> list[str]:
    """The words of a command that measures, its model and amounts exchanged."""
    name, _, *rest = shlex.split(command)[1:]
    words = [name, "tests.tiny:net"]
    given = dict(SMALL)
    while rest:
        word = rest.pop(0)
        value = [] if word == "--compile" else [rest.pop(0)]
        if word not in SMALL:
            words += [word, *value]
    if name == "run":
        del given["--seeds"]
    return words + [w for option, v in given.items() if v is not None for w in (option, v)]


class Here:
    """Runs of a study in this process, one after the other."""

    def submit(self, config: RunConfig, root: Path) -> Future[str | None]:
        future: Future[str | None] = Future()
        executors.run_one(config, root)
        future.set_result(None)
        return future

    def close(self) -> None: ...

    def terminate(self) -> None: ...


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (executors, study):
        monkeypatch.setattr(module, "LocalProcesses", lambda jobs: Here())


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize(
    ("document", "command"),
    [(d, c) for d, c in PROBE if c.split()[1] in MEASURING and d != "tutorial"],
)
def test_a_command_that_measures_runs_in_small(
    document: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.probe, [*in_small(command), "--quiet"])
    assert done.exit_code == 0, done.output
    assert "tiny" in done.stdout


TINY_SWEEP = f"""
[base]
model = "tests.tiny:net"
data = "tests.tiny:blobs"
device = "cpu"
threads = 1
epochs = 6
window_epochs = 2
max_batch_size = 32
[grid]
seed = [0, 1]
[schedules]
fixed = {{scheduler = "fixed"}}
deba = {{scheduler = "deba", scheduler_args = {{reading = "{CORPUS_READING["reading"]}"}}}}
"""


@pytest.mark.usefixtures("_in_this_process")
def test_sweeps_and_the_corpus_of_one_run_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of README, with another file in the place of those that are shipped."""
    lines = [c for _, c in PROBE if c.split()[1] == "sweep"]
    lines += [c for _, c in PROBE if c.split()[1:3] == ["corpus", "build"]]
    assert len(lines) >= 3
    monkeypatch.chdir(tmp_path)
    for line in lines:
        for file in re.findall(r"\S+\.toml", line):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(TINY_SWEEP)
        done = CliRunner().invoke(cli.probe, [*shlex.split(line)[1:], "--quiet"])
        assert done.exit_code == 0, done.output
    rows = load_corpus(Path("data/corpus.csv"))
    assert [(r.model, r.seed) for r in rows] == [("tests.tiny:net", 0), ("tests.tiny:net", 1)]
