"""Each line of `bad_inputs.txt`: one line on stderr, its exit code, no file touched, no hang."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests.bad_inputs import write_files

TABLE = Path(__file__).with_name("bad_inputs.txt")
GOOD = (
    "run mine:net --data mine:good --img-size 8 --device cpu --epochs 3 --window 2 "
    "--channels-last off"
)


def table() -> list[tuple[str, int, str]]:
    """(what is typed, exit code, words) of every line."""
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    found = []
    for typed, answer in zip(lines[::2], lines[1::2], strict=True):
        assert answer.startswith("    "), typed
        code, words = answer.strip().split(" ", 1)
        found.append((typed, int(code), words))
    return found


LINES = table()


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"probe-runs", "__pycache__"} & set(path.parts)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with all that the lines name, which none of them may change."""
    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    before = contents(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PROBE_HOME", str(tmp_path_factory.mktemp("home")))
        yield folder
    assert contents(folder) == before


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("typed", "code", "words"), LINES, ids=[line[0][:70] for line in LINES])
def test_bad_input(typed: str, code: int, words: str) -> None:
    for module in ("mine", "broken", "raises", "exits"):
        sys.modules.pop(module, None)
    arguments = shlex.split(GOOD + typed.removeprefix("RUN") if typed.startswith("RUN") else typed)
    done = CliRunner().invoke(cli.probe, arguments)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("probe: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def test_the_table_is_large_and_its_lines_differ() -> None:
    assert len({typed for typed, _, _ in LINES}) == len(LINES) >= 350
    assert {code for _, code, _ in LINES} == {2, 3, 4}


@pytest.mark.usefixtures("folder")
def test_the_run_that_the_table_spoils_is_good() -> None:
    sys.modules.pop("mine", None)
    done = CliRunner().invoke(cli.probe, [*shlex.split(GOOD), "--quiet"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PROBE_BATCH_SIZE", "many", "from PROBE_BATCH_SIZE"),
        ("PROBE_OPTIMIZER", "adam", "from PROBE_OPTIMIZER"),
        ("PROBE_COMPILE", "perhaps", "from PROBE_COMPILE"),
        ("PROBE_SEED", "1e3", "from PROBE_SEED"),
        ("PROBE_CONFIG", "absent.toml", "cannot read absent.toml"),
        ("PROBE_OUTPUT", "taken", "from PROBE_OUTPUT"),
        ("PROBE_SCHEDULER", "debba", "from PROBE_SCHEDULER"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_environment(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    done = CliRunner().invoke(cli.probe, shlex.split(GOOD))
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert os.environ[variable] == value
