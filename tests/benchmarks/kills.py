"""kill -9 at random instants of a run: what is lost, and does it end as if never killed?

    python -m tests.benchmarks.kills [--kills 200] [--seed 0] [--json]

Real processes. After every kill the journal must be readable and the checkpoint must know all
recorded epochs but at most the last; at the end records and weights must be those of a run that
nobody touched, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stability_probe.config import RunConfig
from stability_probe.records import EpochRecord
from stability_probe.store import Store, read_records
from tests.benchmarks.tell import tell
from tests.launcher import Launcher, launching, wait_for_lines
from tests.test_loop import timeless

CONFIG = RunConfig(
    model="tests.tiny:net",
    data="tests.tiny:blobs",
    device="cpu",
    window_epochs=3,
    max_batch_size=64,
    scheduler="deba",
    scheduler_args={"cooldown": 8, "min_calm_signals": 1},
    lr_rule="linear",
    channels_last="off",
    threads=1,
)
EPOCHS_A_KILL = 8


def kill_often(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Counts over `kills` kills of one run."""
    config = dataclasses.replace(CONFIG, epochs=EPOCHS_A_KILL * (kills + 1))
    chance = random.Random(seed)
    counts = dict.fromkeys(("kills", "after_the_end", "cut_lines", "checkpoint_behind"), 0)
    with launching(config, folder) as runs:
        runs.start(folder / "whole")
        assert runs.exit_code() == 0
        path = folder / "killed" / config.run_id()
        # An epoch to wait for, then a moment that falls anywhere in the next few.
        for epoch in sorted(chance.sample(range(EPOCHS_A_KILL * kills), kills)):
            pid = runs.start(folder / "killed")
            wait_for_lines(path / "epochs.jsonl", epoch)
            time.sleep(chance.uniform(0, 0.02))
            _kill(pid, runs, counts)
            _inspect(path, counts)
        runs.start(folder / "killed")
        assert runs.exit_code() == 0
    same = _outcome(folder / "killed", config) == _outcome(folder / "whole", config)
    return {"epochs": config.epochs, **counts, "identical_to_the_bit": same}


def _kill(pid: int, runs: Launcher, counts: dict[str, int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ended = runs.exit_code()
    counts["kills" if ended == -signal.SIGKILL else "after_the_end"] += 1


def _inspect(path: Path, counts: dict[str, int]) -> None:
    """What is on the disk after a kill. Raises `AssertionError` where more than it may is lost."""
    journal, checkpoint = path / "epochs.jsonl", path / "checkpoint.pt"
    if not journal.exists():
        return
    counts["cut_lines"] += not journal.read_bytes().endswith(b"\n") and journal.stat().st_size > 0
    recorded = [r.epoch for r in read_records(journal)]
    assert recorded == list(range(1, len(recorded) + 1))
    known = torch.load(checkpoint, weights_only=True)["epoch"] if checkpoint.exists() else 0
    assert len(recorded) - 1 <= known <= len(recorded), (known, len(recorded))
    counts["checkpoint_behind"] += known < len(recorded)


def _outcome(root: Path, config: RunConfig) -> tuple[list[EpochRecord], list[bytes]]:
    """Records without what the machine adds, and every weight as bytes."""
    records = [timeless(e) for e in Store(root).load(config.run_id()).epochs]
    saved = torch.load(root / config.run_id() / "checkpoint.pt", weights_only=True)
    weights = [t.numpy().tobytes() for t in saved["model"].values()]
    return records, weights


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 at random instants of a run")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = kill_often(options.kills, options.seed, Path(folder))
    tell(told, as_json=options.json)
    raise SystemExit(0 if told["identical_to_the_bit"] else 1)


if __name__ == "__main__":
    main()
