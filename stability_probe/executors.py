"""Where the runs of a sweep go: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from stability_probe.config import RunConfig
from stability_probe.exits import BUG, OWN_CODE, explain
from stability_probe.interrupt import Interrupted


class Executor(Protocol):
    """Runs that are independent of each other; one's crash never ends another."""

    def submit(self, config: RunConfig, root: Path) -> Future[str | None]:
        """Begin a run when there is room; the future tells why it failed, None where it did not."""

    def terminate(self) -> None:
        """Begin no further run; ask those under way to store their state and end."""

    def close(self) -> None:
        """Wait for what is under way, then let go of everything."""


class LocalProcesses:
    """`jobs` runs at a time, each a process of its own with its output in ROOT/logs."""

    def __init__(self, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ending = False

    def submit(self, config: RunConfig, root: Path) -> Future[str | None]:
        return self._pool.submit(self._run, config, root)

    def _run(self, config: RunConfig, root: Path) -> str | None:
        threads = str(config.threads or 1)
        log = root / "logs" / f"{config.run_id()}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            with self._lock:
                if self._ending:
                    return "not begun"
                process = subprocess.Popen(  # noqa: S603 - this Python, without a shell
                    [
                        *(sys.executable, "-m", "stability_probe.executors"),
                        *(json.dumps(config.to_dict()), str(root)),
                    ],
                    env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A terminal's Ctrl-C reaches the parent alone, which passes it on once.
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
        if code == 0:
            log.unlink(missing_ok=True)
            return None
        return _reason(code, log)

    def terminate(self) -> None:
        with self._lock:
            self._ending = True
            for process in self._running:
                process.terminate()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def _reason(code: int, log: Path) -> str:
    """The last line a run wrote, or what ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("probe: ")
    # A log that cannot be written stays empty, as on a full disk.
    return f"exit code {code}, and not a word in {log}; is the disk full?"


def run_one(config: RunConfig, root: Path) -> None:
    """One run of a sweep, in the process that is there for it."""
    from stability_probe.run import run
    from stability_probe.store import Store

    run(config, Store(root))


def make_executor(name: str, jobs: int) -> Executor:
    """An executor by name: local or ray. Raises `MissingError` where Ray is not installed."""
    if name == "ray":
        from stability_probe.ray_cluster import RayCluster

        return RayCluster()
    return LocalProcesses(jobs)


def _main(config: str, root: str) -> None:
    try:
        run_one(RunConfig.from_dict(json.loads(config)), Path(root))
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    except (Exception, SystemExit) as error:
        reason, code = explain(error)
        if code == BUG:
            raise  # its traceback belongs into the log
        if reason.startswith(OWN_CODE):
            traceback.print_exc()
        print(f"probe: {reason}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    _main(*sys.argv[1:])
