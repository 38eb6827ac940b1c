"""The examples run as they are, each in a process of its own, and the batch grows in each."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "plain_pytorch": (),
    "lightning_fit": ("lightning",),
    "huggingface_trainer": ("transformers", "accelerate"),
    "timm_recipe": (),
}


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    for package in EXAMPLES[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; see the extras in pyproject.toml")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in re.findall(r"batch \d+ -> (\d+)", done.stdout)]
    assert sizes
    assert max(sizes) > 16
