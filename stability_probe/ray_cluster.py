"""Runs of a sweep on a Ray cluster. The only file that imports ray."""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from stability_probe.config import RunConfig
from stability_probe.errors import MissingError
from stability_probe.executors import run_one
from stability_probe.exits import BUG, explain
from stability_probe.files import write_bytes

_FILES = ("config.json", "epochs.jsonl", "result.json", "summary.json")


class RayCluster:
    """As many runs at a time as the cluster has CPUs (one GPU each where a run
    wants CUDA, or takes what there is).

    The cluster is the one of `RAY_ADDRESS`, or one of this machine alone. Each run is written
    under the same root on the node that trains it, and its records come back to this one; a node
    that dies takes its run along to another, where it goes on if the nodes share the folder and
    begins anew if not. Raises `MissingError` where Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingError(
                "Ray is not installed; pip install 'stability-probe[ray]'"
            ) from error
        self._ray = ray
        self._owner = not ray.is_initialized()
        if self._owner:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        self._refs: dict[Any, Future[str | None]] = {}

    def submit(self, config: RunConfig, root: Path) -> Future[str | None]:
        threads = str(config.threads or 1)
        environment = {
            # What this process can import, the user's own modules included.
            "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)]),
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        }
        remote = self._ray.remote(_train).options(
            num_cpus=int(threads),
            num_gpus=1 if self._wants_card(config) else 0,
            max_retries=3,
            runtime_env={"env_vars": environment},
        )
        reference = remote.remote(config.to_dict(), str(root.resolve()))
        future: Future[str | None] = Future()
        future.set_running_or_notify_cancel()  # Ray does not tell when a run begins
        self._refs[reference] = future
        path = root / config.run_id()
        reference.future().add_done_callback(lambda done: _settle(done, future, path))
        return future

    def _wants_card(self, config: RunConfig) -> bool:
        # Ray hides every card from a worker that asks for none, and auto would mean its CPU.
        on_cluster: bool = self._ray.cluster_resources().get("GPU", 0) > 0
        return config.device.startswith("cuda") or (config.device == "auto" and on_cluster)

    def terminate(self) -> None:
        for reference, future in self._refs.items():
            if not future.done():
                self._ray.cancel(reference)

    def close(self) -> None:
        for future in self._refs.values():
            future.exception()
        if self._owner:
            self._ray.shutdown()


def _train(config: dict[str, Any], root: str) -> dict[str, bytes]:
    """In a worker: one run, and the files that tell its outcome."""
    described = RunConfig.from_dict(config)
    run_one(described, Path(root))
    folder = Path(root) / described.run_id()
    # A run that an older version finished on this node has no summary.
    return {name: (folder / name).read_bytes() for name in _FILES if (folder / name).exists()}


def _settle(done: Future[dict[str, bytes]], future: Future[str | None], path: Path) -> None:
    """Keep what came back; a failure becomes its reason."""
    try:
        files = done.result()
        path.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if not (path / name).exists():
                write_bytes(path / name, content)
    except BaseException as error:
        cause = getattr(error, "cause", None) or error
        reason, code = explain(cause)
        told = f"{type(cause).__name__}: {cause}" if code == BUG else reason
        future.set_result(told.strip().splitlines()[-1])
    else:
        future.set_result(None)
