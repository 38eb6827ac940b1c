"""What a user names on the command line: a run, its folder, or a file that holds one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stability_probe.config import RunConfig, memory_flag
from stability_probe.errors import MissingError, UsageError
from stability_probe.files import read_json
from stability_probe.plain import from_plain
from stability_probe.records import Characterization, Prediction, RunResult, Study, Validation
from stability_probe.store import (
    Store,
    characterization_file,
    read_characterization,
    read_result,
    read_study,
)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A characterization with the prediction that was made of it."""

    characterization: Characterization
    prediction: Prediction
    name: str = ""
    """Of its file, without the suffix: a model may have several."""


Stored = RunResult | Probed | Study | Validation


def load_run(name: str, root: Path) -> RunResult:
    """A run by its name in `root`, by its folder, or from a JSON file that holds one.

    Raises `UsageError` for what is no run or has no epoch yet, `MissingError` for damaged files.
    """
    found = load_drawable(name, root, root)
    if not isinstance(found, RunResult):
        probed = "characterization" if isinstance(found, Probed) else type(found).__name__.lower()
        raise UsageError(f"{name} is a {probed}, not a run; use a RUN_ID, see probe runs")
    return found


def load_drawable(name: str, root: Path, figures: Path) -> Stored:
    """What `plot` draws: a run with an epoch, else as `load_stored`."""
    found = load_stored(name, root, figures)
    if isinstance(found, RunResult) and not found.epochs and Path(name).suffix != ".json":
        raise UsageError(f"{name} has no finished epoch yet")
    return found


def load_stored(name: str, root: Path, other: Path | None = None) -> Stored:
    """A run by its name in `root` or `other` or by its folder, or what a JSON file holds: a run,
    a probe, a study, or what `validate --json` printed. What `characterize --json` printed names
    the file of the probe.

    Raises `UsageError` for a name that is not stored, `MissingError` for damaged files.
    """
    path = Path(name)
    if path.suffix != ".json":
        if (path / "config.json").is_file():
            path = path.resolve()  # the folder one is in has no name of its own
            root, name = path.parent, path.name
        elif other and not (root / name).is_dir() and (other / name).is_dir():
            root = other
        return Store(root).load(name)
    values = read_json(path)
    if "characterization" in values or "stored" in values:
        path = characterization_file(path)
        c, p = read_characterization(path)
        return Probed(characterization=c, prediction=p, name=path.stem)
    if "study" in values:
        return read_study(path)
    if "comparisons" in values and "measured" in values:
        return _validation(path, values)
    # What `run --json` printed is a result with more to it.
    known = {field.name for field in dataclasses.fields(RunResult)}
    try:
        return from_plain(RunResult, {n: v for n, v in values.items() if n in known})
    except (AttributeError, TypeError) as error:
        raise MissingError(
            f"{path} holds no epochs of a run or probe to draw; use a RUN_ID, see probe runs"
        ) from error


def fixed_twin(result: RunResult, root: Path) -> RunResult | None:
    """The fixed run in `root` that is the same in all else; None where none is finished there,
    or the run is itself fixed."""
    if result.config.get("scheduler") == RunConfig.scheduler:
        return None
    config = RunConfig.from_dict(result.config)
    twin = dataclasses.replace(config, scheduler=RunConfig.scheduler, scheduler_args={})
    found = finished_run(twin, root, result.memory_format)
    return found or finished_run(
        dataclasses.replace(twin, reset_moments=False), root, result.memory_format
    )


def finished_run(config: RunConfig, root: Path, memory_format: str) -> RunResult | None:
    """The finished run of `config` in `root`, however its memory format was asked for."""
    flag = memory_flag(memory_format)
    for asked in dict.fromkeys((config.channels_last, flag, "auto")):
        folder = root / dataclasses.replace(config, channels_last=asked).run_id()
        found = read_result(folder) if folder.is_dir() else None
        if found is None or not found.epochs or found.status != "finished":
            continue
        # A run that is under way does not tell its memory format yet.
        if not memory_format or memory_flag(found.memory_format) == flag:
            return found
    return None


def as_stored(config: RunConfig, root: Path) -> RunConfig:
    """The run of `config`, its memory format decided, under the id by which it is finished in
    `root`: `probe run` may have made it, and measured which format is the faster."""
    memory_format = "channels_last" if config.channels_last == "on" else "contiguous"
    found = finished_run(config, root, memory_format)
    return RunConfig.from_dict(found.config) if found else config


def _validation(path: Path, values: Mapping[str, Any]) -> Validation:
    """Of the object that `validate --json` printed, where an infinite number is null."""
    try:
        told, measured = values["prediction"], values["measured"]
        pairs = [dict(pair) for pair in values["comparisons"]]
        for pair in pairs:
            if pair["time_to_target_saved_pct"] is None:
                pair["time_to_target_saved_pct"] = -math.inf
        config = {n: values[n] for n in ("model", "data", "batch_size", "epochs")}
        rest = {n: values[n] for n in ("seeds", "inside_interval", "class_correct")}
        whole = {**measured, **rest, "config": config, "prediction": told, "comparisons": pairs}
        return from_plain(Validation, whole)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MissingError(
            f"{path} holds no validation ({error}); use what probe validate --json printed"
        ) from error
