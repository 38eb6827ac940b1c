"""Fuzzing that is led by coverage (Atheris, libFuzzer) under every reader of a file.

    python -m tests.benchmarks.guided_fuzz [--seconds 60] [--only READER] [--json]

Needs `pip install atheris` (Linux, where it has wheels). Each reader runs in a process of its own
for so many seconds, beginning with a whole file; a file that ends it in anything but a line that
says what is wrong, takes longer than 20 seconds or more than 3 GiB is kept under `fuzz-found/`.
Exits 1 where there was one.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

READERS = (
    *("records", "result", "characterization", "study", "scores", "corpus", "sweep", "config"),
    *("idx images", "idx labels", "idx gzip", "cifar"),
)
"""Those of `tests.fuzzing`, which is not imported before it can be instrumented."""


def campaign(readers: list[str], seconds: int, found: Path) -> dict[str, Any]:
    """Files tried, edges covered and faults, by reader."""
    told = {}
    for reader in readers:
        command = [sys.executable, "-m", "tests.benchmarks.guided_fuzz", "--only", reader]
        limits = ["--seconds", str(seconds), "--child", str(found)]
        done = subprocess.run([*command, *limits], capture_output=True, text=True, check=False)
        tried = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        covered = re.findall(r"cov: (\d+)", done.stderr)
        told[reader] = {
            "files": int(tried[-1]) if tried else 0,
            "edges": int(covered[-1]) if covered else 0,
            "fault": None if done.returncode == 0 else _last_lines(done.stderr),
        }
    return told


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if "Error" in line or "ERROR" in line]
    return " | ".join(lines[:3]) or text[-500:]


def fuzz(reader: str, seconds: int, found: Path) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    ours = ["stability_probe", "predictor", "tomllib"]
    with atheris.instrument_imports(include=ours, enable_loader_override=False):
        import click

        from stability_probe.errors import ProbeError
        from tests.fuzzing import READERS

    write, read = READERS[reader]
    folder = Path(tempfile.mkdtemp())
    for part in ("whole", "seeds", "read"):
        (folder / part).mkdir()
    (folder / "seeds" / "whole").write_bytes(write(folder / "whole"))

    def one(content: bytes) -> None:
        try:
            read(folder / "read", content)
        except (ProbeError, click.UsageError):
            return

    found.mkdir(exist_ok=True)
    options = [
        f"-max_total_time={seconds}", "-rss_limit_mb=3072", "-timeout=20", "-print_final_stats=1",
        f"-artifact_prefix={found}/{reader.replace(' ', '-')}-",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], str(folder / "seeds"), *options], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--only", choices=READERS)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.child is not None:
        fuzz(args.only, args.seconds, args.child)
    readers = [args.only] if args.only else list(READERS)
    told = campaign(readers, args.seconds, Path("fuzz-found").resolve())
    if args.json:
        print(json.dumps(told))
    else:
        for reader, counts in told.items():
            print("{:18}{:9} files{:7} edges".format(reader, counts["files"], counts["edges"]))
            if counts["fault"]:
                print(f"    {counts['fault']}")
    raise SystemExit(1 if any(counts["fault"] for counts in told.values()) else 0)


if __name__ == "__main__":
    main()
