"""What the documents tell people to type works, and what they link to is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import reference

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "data" / "README.md"])
FENCE = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str, str]]:
    """(language, file name, text) of every fenced block."""
    return FENCE.findall(document.read_text())


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """A folder with a `probe` command of this checkout, first in the path of `run`."""
    command = tmp_path / "bin" / "probe"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path


def run(script: str, folder: Path) -> str:
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PROBE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_tutorial_can_be_typed(typed: Path) -> None:
    told: list[str] = []
    for language, name, text in blocks(ROOT / "docs" / "tutorial.md"):
        if name:
            (typed / "work" / name).write_text(text)
        else:
            assert language == "sh"
            # As written, but for fewer epochs: the same commands, in a third of the time.
            told.append(run(text.replace("--epochs 40", "--epochs 13"), typed))
    assert "CANNOT SAY" in told[0]
    # A busy machine, or its headroom, is told first; tests may run beside others.
    first = " ".join(told[0].split())
    assert "everything in the corpus" in first or "BUSY" in first
    assert "predicted" in told[1]
    assert len(told[2].splitlines()) == 1 + 3 + 6  # three windows, three pairs
    assert "3 added, 3 rows in" in told[4]
    # Rows of a busy machine do not count, and it says so: then the size is a reason still.
    if "none whose throughput a busy machine measured" not in " ".join(told[4].split()):
        assert "number of parameters lies below" not in " ".join(told[5].split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.stem)
def test_every_command_that_is_named_exists(document: Path) -> None:
    from cli import probe

    for name in re.findall(r"(?:`|^)probe ([a-z][a-z-]+)", document.read_text(), re.MULTILINE):
        assert name in probe.commands, name


def test_the_reference_is_that_of_the_code() -> None:
    """Made anew by: python -m tests.reference > docs/reference.md"""
    assert (ROOT / "docs" / "reference.md").read_text() == reference.reference()
