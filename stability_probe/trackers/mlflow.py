"""MLflow: the server or folder of MLFLOW_TRACKING_URI. The only file that imports it."""

from __future__ import annotations

import time
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

EXPERIMENT = "probe"


class MlflowRun:
    """One run of the experiment `EXPERIMENT`."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, epoch) for name, value in numbers.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def open_run(name: str, folder: Path) -> MlflowRun:
    """A new run; MLflow itself decides where, so `folder` is not used."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    identity = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    return MlflowRun(client, client.create_run(identity, run_name=name).info.run_id)
