"""Every Python block of docs/integrations.md is part of an example, or is run here."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/integrations.md").read_text(), re.S)
EXAMPLES = [path.read_text() for path in (ROOT / "examples").glob("*.py")]
OWN = [block for block in BLOCKS if not any(block in example for example in EXAMPLES)]


def test_blocks_are_found_and_most_come_from_examples() -> None:
    assert len(BLOCKS) == 8
    assert len(OWN) == 5


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the reader has: the names of the plain example, after it ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        return runpy.run_path(str(ROOT / "examples/plain_pytorch.py"))


@pytest.mark.parametrize("number", range(len(OWN)))
def test_a_block_runs(
    number: int, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "accelerate" in OWN[number]:
        pytest.importorskip("accelerate", reason="the extra huggingface is not installed")
    exec(compile(textwrap.dedent(OWN[number]), "docs/integrations.md", "exec"), names)


def test_the_page_names_only_what_is_there() -> None:
    text = (ROOT / "docs/integrations.md").read_text()
    for link in re.findall(r"\]\((\.\./[^)]+)\)", text):
        assert (ROOT / "docs" / link).resolve().exists(), link
