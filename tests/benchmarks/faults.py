"""Faults put into real commands: what is lost, and is anything ever silently wrong?

    python -m tests.benchmarks.faults [--kills 50] [--flips 200] [--seed 0] [--json]

- killed: `kill -9` of `characterize`, `run`, `validate` and `sweep` at random instants, each begun
  anew until it ends. No finished run may be lost, and all records must be those of commands that
  nobody touched, bit for bit.
- flipped: one bit of any stored file; the command must tell, or answer as if nothing had happened.
- full: a disk that is full from some write on (needs root, for a small tmpfs): one line, exit code
  3, and with more room the same end.
- written: the same for each file that another command writes, over an older one that stays.
- readonly: a store that turns read-only in the middle of a run (needs root, for a mount): one line,
  exit code 3, and with the permission back the same end.
- worker: `kill -9` of one job of a sweep: the others finish, the sweep names the job and exits 1,
  and the same line trains it to the same end.
- crowd: eight processes that want the same run in one store.

Exits 1 where anything else happens.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stability_probe.records import RunResult
from stability_probe.store import read_characterization, read_result
from tests.test_loop import timeless

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("tests.tiny:net", "--data", "tests.tiny:blobs", "--device", "cpu", "--window", "3"),
    *("--channels-last", "off", "--threads", "1", "--max-batch-size", "64"),
]
SWEEP = """
[base]
model = "tests.tiny:net"
data = "tests.tiny:blobs"
device = "cpu"
window_epochs = 3
epochs = 40
channels_last = "off"
threads = 1
max_batch_size = 64
[grid]
seed = [0, 1]
[schedules]
fixed = {scheduler = "fixed"}
timed = {scheduler = "timed"}
"""
COMMANDS = {
    "characterize": ["characterize", *TINY, "--epochs", "100", "--seeds", "0-7"],
    "run": ["run", *TINY, "--epochs", "120", "--scheduler", "deba"],
    "validate": ["validate", *TINY, "--epochs", "40", "--seeds", "0,1"],
    "sweep": ["sweep", "sweep.toml", "--jobs", "2"],
}


WRITERS = {
    "plot": ["plot", "{run}", "--runs", "runs", "-o", "small"],
    "report": ["report", "{run}", "--runs", "runs", "-o", "small/report.html"],
    "export": ["export", "{run}", "--runs", "runs", "-o", "small/schedule.json"],
    "rows": ["corpus", "build", "sweep.toml", "--runs", "runs", "-o", "small/rows.csv"],
    "own rows": ["corpus", "add", "{run}", "--runs", "runs"],  # in the user's folder
    "fit": ["fit", "--quiet", "-o", "small/fitted.json"],
}
"""Commands that write a file outside the store; {run} is a run of a schedule."""


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """A command that trains into the folder's store."""
    return begin([*arguments, "-o", "runs", "--quiet"], folder, home=folder / "home")


def begin(arguments: list[str], folder: Path, home: Path) -> subprocess.Popen[str]:
    """A command in a session of its own, so that all its processes can be killed at once."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PROBE_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(root: Path) -> dict[str, RunResult]:
    """Finished runs by name. Raises `MissingError` where one cannot be read."""
    found = {p.parent.name: read_result(p.parent) for p in root.glob("*/config.json")}
    return {name: _comparable(result) for name, result in found.items() if result is not None}


def _comparable(result: RunResult) -> RunResult:
    """Without what the machine adds."""
    epochs = tuple(map(timeless, result.epochs))
    return dataclasses.replace(result, epochs=epochs, environment={})


def killed(command: str, kills: int, chance: random.Random, folder: Path) -> dict[str, Any]:
    """Counts over `kills` kills of one command, begun anew in new folders as often as it ends."""
    whole = folder / "whole"
    prepare(whole)
    begin = time.perf_counter()
    process = start(COMMANDS[command], whole)
    process.communicate()
    took = time.perf_counter() - begin
    expected = finished(whole / "runs")
    counts = {"kills": 0, "ended": 0, "lost": 0, "different": 0}
    while counts["kills"] < kills:
        attempt = folder / f"attempt{counts['ended']}"
        prepare(attempt)
        _kill_until_it_ends(command, attempt, took, kills, chance, counts)
        counts["ended"] += 1
        found = finished(attempt / "runs")
        counts["different"] += found != expected
        for path in (attempt / "runs" / "characterizations").glob("*.json"):
            read_characterization(path)
    return counts


def _kill_until_it_ends(
    command: str,
    folder: Path,
    took: float,
    kills: int,
    chance: random.Random,
    counts: dict[str, int],
) -> None:
    done: set[str] = set()
    while True:
        process = start(COMMANDS[command], folder)
        if counts["kills"] < kills:
            try:
                process.communicate(timeout=chance.uniform(0.2, 1.2) * took)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                counts["kills"] += 1
        output, errors = process.communicate()
        now = set(finished(folder / "runs"))
        counts["lost"] += len(done - now)
        done = now
        if process.returncode in (0, 1):  # 1: validate, where the prediction failed
            return
        assert process.returncode == -signal.SIGKILL, (output, errors)
        _end_orphans(folder)


def _end_orphans(folder: Path) -> None:
    """Jobs of a sweep have sessions of their own; wait until no process works on the store."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in (path.parent / "environ").read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue
    time.sleep(0.1)


def prepare(folder: Path) -> None:
    folder.mkdir()
    (folder / "sweep.toml").write_text(SWEEP)


def flipped(flips: int, chance: random.Random, folder: Path) -> dict[str, Any]:
    """One bit of one stored file, at random, of a finished and of an interrupted run."""
    from click.testing import CliRunner

    import cli

    os.chdir(folder)
    os.environ["PROBE_HOME"] = str(folder / "home")
    run = ["run", *TINY, "--epochs", "6", "--scheduler", "deba", "-o", "runs", "--quiet"]
    invoke = CliRunner().invoke
    counts = {"flips": 0, "told": 0, "as_before": 0, "wrong": 0}
    for state in ("finished", "interrupted"):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        assert invoke(cli.probe, run).exit_code == 0
        expected = finished(folder / "runs")
        (path,) = (p.parent for p in (folder / "runs").glob("*/config.json"))
        if state == "interrupted":
            _cut_back(path)
        kept = {p: p.read_bytes() for p in sorted(path.iterdir()) if p.stat().st_size}
        for _ in range(flips // 2):
            file = chance.choice(list(kept))
            content = bytearray(kept[file])
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            for other in path.iterdir():
                other.unlink()
            for name, text in kept.items():
                name.write_bytes(text)
            file.write_bytes(content)
            done = invoke(cli.probe, run)
            counts["flips"] += 1
            if done.exit_code in (2, 4) and done.stderr.count("\n") == 1:
                counts["told"] += 1
            elif done.exit_code == 0 and finished(folder / "runs") == expected:
                counts["as_before"] += 1
            else:
                counts["wrong"] += 1
    return counts


def _cut_back(path: Path) -> None:
    """As after the last epoch, but without its result: as a kill just before the end leaves it."""
    (path / "result.json").unlink()
    (path / "summary.json").unlink()


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """A tmpfs of `kib` KiB at `folder`. Raises `CalledProcessError` without the right to."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full(attempts: int, chance: random.Random, folder: Path) -> dict[str, Any]:
    """A disk too small for all that a command stores, and then large enough."""
    counts = {"full": 0, "enough": 0, "wrong": 0}
    for name, command in COMMANDS.items():
        whole = folder / name
        prepare(whole)
        start(command, whole).communicate()
        expected = finished(whole / "runs")
        needed = sum(-(-len(content) // 4096) * 4 for content in _files(whole / "runs").values())
        for number in range(attempts):
            attempt = folder / f"{name}{number}"
            prepare(attempt)
            with small_disk(attempt / "runs", chance.randrange(4, needed)):
                process = start(command, attempt)
                output, errors = process.communicate()
                if process.returncode == 0:
                    counts["enough"] += 1
                    continue
                # A sweep goes on with other runs, and ends with a table of those that failed, of
                # which one may not even have had room for its log.
                if process.returncode == 1:
                    told = "the disk is full" in output or "is the disk full?" in output
                else:
                    told = "the disk is full" in errors and errors.count("\n") == 1
                wider = ["mount", "-o", "remount,size=8m", str(attempt / "runs")]
                subprocess.run(wider, check=True)
                again = start(command, attempt)
                again.communicate()
                same = again.returncode in (0, 1) and finished(attempt / "runs") == expected
                right = process.returncode in (1, 3) and told and same
                counts["full" if right else "wrong"] += 1
    return counts


def written(folder: Path) -> dict[str, Any]:
    """Each command of `WRITERS`: once with room, then with none over what it wrote the first time.

    The user's folder is on the small disk for the command that writes there alone.
    """
    counts = {"full": 0, "wrong": 0}
    folder /= "written"
    prepare(folder)
    sweep = (folder / "sweep.toml").read_text().replace("timed", "deba")
    (folder / "sweep.toml").write_text(sweep)
    start(COMMANDS["sweep"], folder).communicate()
    (run,) = (p.name for p in (folder / "runs").glob("*deba-s0-*"))
    small = folder / "small"
    for name, words in WRITERS.items():
        command = [word.format(run=run) for word in words]
        home = small / "home" if name == "own rows" else folder / "home"
        with small_disk(small, kib=8192):
            process = begin(command, folder, home)
            assert process.wait() == 0, process.communicate()
            before = _files(small)
            assert before, name
            _fill(small)
            process = begin(command, folder, home)
            _, errors = process.communicate()
            (small / "filler").unlink()
            told = process.returncode == 3 and "the disk is full" in errors
            one_line = errors.count("\n") == 1
            counts["full" if told and one_line and _files(small) == before else "wrong"] += 1
    return counts


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _fill(folder: Path) -> None:
    """Leave no room on the disk of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written under `folder`. Raises `CalledProcessError` without the right to."""
    # Made read-only at another place first: a folder at work is busy.
    view = folder.with_name(f"{folder.name}-read-only")
    view.mkdir()
    subprocess.run(["mount", "--bind", str(folder), str(view)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
    subprocess.run(["mount", "--bind", str(view), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder), str(view)], check=True)


def readonly(attempts: int, chance: random.Random, folder: Path) -> dict[str, Any]:
    """A store that nobody may write to any more from some epoch on, and then may again."""
    counts = {"read_only": 0, "enough": 0, "wrong": 0}
    prepare(folder / "whole")
    start(COMMANDS["run"], folder / "whole").communicate()
    expected = finished(folder / "whole" / "runs")
    for number in range(attempts):
        attempt = folder / f"readonly{number}"
        prepare(attempt)
        process = start(COMMANDS["run"], attempt)
        wait_for_records(attempt / "runs", chance.randrange(1, 110), process)
        with read_only(attempt / "runs"):
            _, errors = process.communicate()
        if process.returncode == 0:
            counts["enough"] += 1
            continue
        told = process.returncode == 3 and "is read-only" in errors and errors.count("\n") == 1
        again = start(COMMANDS["run"], attempt)
        again.communicate()
        same = again.returncode == 0 and finished(attempt / "runs") == expected
        counts["read_only" if told and same else "wrong"] += 1
    return counts


def wait_for_records(runs: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the first run to begin has so many records, or the process has ended."""
    while process.poll() is None:
        for journal in runs.glob("*/epochs.jsonl"):
            if journal.read_bytes().count(b"\n") >= count:
                return
        time.sleep(0.005)


def worker(times: int, folder: Path) -> dict[str, Any]:
    """One job of a sweep killed; then the sweep again."""
    counts = {"killed": 0, "wrong": 0}
    prepare(folder / "whole")
    start(COMMANDS["sweep"], folder / "whole").communicate()
    expected = finished(folder / "whole" / "runs")
    for number in range(times):
        attempt = folder / f"worker{number}"
        prepare(attempt)
        sweep = start(COMMANDS["sweep"], attempt)
        wait_for_records(attempt / "runs", 1, sweep)
        victim = _job_of(attempt)
        os.kill(victim, signal.SIGKILL)
        output, errors = sweep.communicate()
        alone = sweep.returncode == 1 and "SIGKILL" in output + errors
        others = finished(attempt / "runs")
        again = start(COMMANDS["sweep"], attempt)
        again.communicate()
        right = (
            alone
            and len(others) == len(expected) - 1
            and all(expected[name] == run for name, run in others.items())
            and again.returncode == 0
            and finished(attempt / "runs") == expected
        )
        counts["killed" if right else "wrong"] += 1
    return counts


def _job_of(folder: Path) -> int:
    """The process of a job whose run has begun."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if b"stability_probe.executors" in words and str(folder).encode() in b" ".join(
            (*words, os.readlink(path.parent / "cwd").encode())
        ):
            return int(path.parent.name)
    raise AssertionError("no job is at work")


def crowd(times: int, folder: Path) -> dict[str, Any]:
    """Eight processes, one run: one works on it, the others say so or find it done."""
    counts = {"processes": 0, "worked_or_found": 0, "told": 0, "wrong": 0}
    for number in range(times):
        attempt = folder / f"crowd{number}"
        prepare(attempt)
        several = [start(COMMANDS["run"], attempt) for _ in range(8)]
        for process in several:
            _, errors = process.communicate()
            counts["processes"] += 1
            if process.returncode == 0:
                counts["worked_or_found"] += 1
            elif process.returncode == 3 and "another process is at work" in errors:
                counts["told"] += 1
            else:
                counts["wrong"] += 1
        assert len(finished(attempt / "runs")) == 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a command to kill, or one of the faults above")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        **{
            name: lambda folder, name=name: killed(name, args.kills, chance, folder)  # type: ignore[misc]
            for name in COMMANDS
        },
        "full": lambda folder: full(max(1, args.kills // 8), chance, folder),
        "written": written,
        "readonly": lambda folder: readonly(max(1, args.kills // 4), chance, folder),
        "worker": lambda folder: worker(max(1, args.kills // 5), folder),
        "crowd": lambda folder: crowd(max(1, args.kills // 10), folder),
        "flipped": lambda folder: flipped(args.flips, chance, folder),
    }
    found = {}
    for name, part in parts.items():
        if args.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                found[name] = part(Path(folder))
                os.chdir(ROOT)
            if not args.json:
                told = ", ".join(f"{count} {what}" for what, count in found[name].items())
                print(f"{name:14}{told}".replace("_", " "), flush=True)
    if args.json:
        print(json.dumps(found))
    bad = sum(f.get(what, 0) for f in found.values() for what in ("lost", "different", "wrong"))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
