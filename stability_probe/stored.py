"""What a user names on the command line: a run, its folder, or a file that holds one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stability_probe.errors import MissingError, UsageError
from stability_probe.records import Characterization, RunResult, Study, from_plain
from stability_probe.store import Store, read_characterization, read_json, read_study


def load_run(name: str, root: Path) -> RunResult:
    """A run by its name in `root`, by its folder, or from a JSON file that holds one.

    Raises `UsageError` for what is no run or has no epoch yet, `MissingError` for damaged files.
    """
    found = load_stored(name, root, root)
    if not isinstance(found, RunResult):
        kind = type(found).__name__.lower()
        raise UsageError(f"{name} is a {kind}, not a run; use a RUN_ID, see probe runs")
    return found


def load_stored(name: str, root: Path, figures: Path) -> RunResult | Characterization | Study:
    """What `plot` draws: a run by its name or folder, or a JSON file of a run, probe or study."""
    path = Path(name)
    if path.suffix != ".json":
        if (path / "config.json").is_file():
            root, name = path.parent, path.resolve().name
        elif not (root / name).is_dir() and (figures / name).is_dir():
            root = figures
        run = Store(root).load(name)
        if not run.epochs:
            raise UsageError(f"{name} has no finished epoch yet")
        return run
    values = read_json(path)
    if "characterization" in values:
        return read_characterization(path)[0]
    if "study" in values:
        return read_study(path)
    # What `run --json` printed is a result with more to it.
    known = {field.name for field in dataclasses.fields(RunResult)}
    try:
        return from_plain(RunResult, {n: v for n, v in values.items() if n in known})
    except (AttributeError, TypeError) as error:
        raise MissingError(
            f"{path} holds no epochs of a run or probe to draw; use a RUN_ID, see probe runs"
        ) from error
