"""Many damaged files under every reader, many odd values under every command that reads.

    python -m tests.benchmarks.fuzz [--cases 1000] [--seed 0] [--json]

Exits 1 when a case ends in anything but a line that says what is wrong, or a result.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzzing import COMMANDS, READERS, fault_of, read_damaged, run_with_odd


def campaign(cases: int, seed: int) -> dict[str, Any]:
    """Cases, told ones and faults by reader and command; a tenth as many where it draws."""
    found: dict[str, Any] = {}
    for kind in READERS:
        found[f"bytes: {kind}"] = _count(lambda s, f, kind=kind: _bytes(kind, s, f), cases, seed)
    for command in COMMANDS:
        number = cases // 10 if command.startswith(("plot", "report")) else cases
        found[f"values: {command}"] = _count(
            lambda s, f, command=command: _values(command, s, f), number, seed
        )
    return found


def _count(case: Callable[[int, Path], tuple[bool, str | None]], cases: int, seed: int) -> Any:
    told, faults = 0, []
    for number in range(seed, seed + cases):
        with tempfile.TemporaryDirectory() as folder:
            was_told, fault = case(number, Path(folder))
        told += was_told
        if fault is not None:
            faults.append({"seed": number, "fault": fault})
    return {"cases": cases, "told": told, "faults": faults}


def _bytes(kind: str, seed: int, folder: Path) -> tuple[bool, str | None]:
    try:
        return bool(read_damaged(kind, seed, folder)), None
    except Exception as error:  # that is what is looked for
        return False, repr(error)


def _values(command: str, seed: int, folder: Path) -> tuple[bool, str | None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = run_with_odd(command, seed)
    finally:
        os.chdir(before)
    return done.exit_code != 0, fault_of(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["PROBE_HOME"] = home
        found = campaign(args.cases, args.seed)
    if args.json:
        print(json.dumps(found))
    else:
        for name, told in found.items():
            counts = (told["cases"], told["told"], len(told["faults"]))
            print("{:28}{:7} cases{:7} told{:4} faults".format(name, *counts))
            for fault in told["faults"][:3]:
                print(f"    seed {fault['seed']}: {fault['fault']}")
    raise SystemExit(1 if any(told["faults"] for told in found.values()) else 0)


if __name__ == "__main__":
    main()
