"""Runs in processes of their own, forked from one that has imported everything already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stability_probe.config import RunConfig

REPOSITORY = Path(__file__).resolve().parents[1]

LAUNCHER = """
import json, os, sys
from pathlib import Path
from stability_probe.config import RunConfig
from stability_probe.interrupt import Interrupted
from stability_probe.run import load_run_data, run
from stability_probe.store import Store

config = RunConfig.from_dict(json.loads(sys.argv[1]))
load_run_data(config)  # imports what it needs
for line in sys.stdin:  # a store; each run gets a process of its own, forked after the imports
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(config, Store(Path(line.strip())))
            code = 0
        except Interrupted as interrupted:
            code = interrupted.exit_code
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Launcher:
    """Starts runs in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout

    def start(self, root: Path) -> int:
        """The process id."""
        self._to.write(f"{root}\n")
        self._to.flush()
        return int(self._from.readline())

    def exit_code(self) -> int:
        """Waits for the process; minus the signal where one ended it."""
        return int(self._from.readline())


@contextmanager
def launching(config: RunConfig, folder: Path) -> Iterator[Launcher]:
    """A launcher for one run; the user's modules are looked for in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(config.to_dict())],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Launcher(process)
        finally:
            process.kill()


def wait_for_lines(file: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, f"{file} never got {count} lines"
        time.sleep(0.001)
