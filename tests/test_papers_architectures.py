"""The six architectures of the paper, from characterization to a full adaptive run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PAPER = (
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "vit_base_patch16_224",
)


def probe_json(*args: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *args, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", PAPER)
def test_end_to_end(model: str, tmp_path: Path) -> None:
    common = [model, "--limit", "200", "--window", "2", "--epochs", "4", "-o", str(tmp_path)]
    common += ["--max-batch-size", "32"]
    answer = probe_json("characterize", *common)
    assert answer["prediction"]["verdict"] in ("adapt", "keep_fixed", "abstain")  # type: ignore[index]
    assert answer["headroom"] >= 1.0  # type: ignore[operator]
    eager = ["cooldown=1", "tolerance=100"]
    arguments = [word for pair in eager for word in ("--scheduler-arg", pair)]
    run = probe_json("run", *common, "--scheduler", "deba", *arguments)
    assert run["status"] == "finished"
    epochs = run["epochs"]
    assert [e["batch_size"] for e in epochs] == [16, 16, 16, 24]  # type: ignore[index,attr-defined]
