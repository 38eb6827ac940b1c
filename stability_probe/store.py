"""One directory a run: config, append-only records, checkpoint, result.

ROOT/RUN_ID/config.json      what the run is
            epochs.jsonl     one record a line, flushed and synced
            checkpoint.pt    state after the last recorded epoch
            result.json      written once, at the end
            summary.json     the line of `probe runs`, so that a list reads no whole result
            lock             held while a process works on the run
"""

from __future__ import annotations

import difflib
import fcntl
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stability_probe.config import RunConfig
from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.files import append_text, new_file, read_json, write_json, write_text
from stability_probe.folders import output_flags
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import Characterization, EpochRecord, Prediction, RunResult, Study
from stability_probe.sealed import seal, unseal

CHARACTERIZATIONS = "characterizations"
"""The folder beside the runs that holds them."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One line of `probe runs`."""

    run_id: str
    model: str
    data: str
    scheduler: str
    seed: int
    batch_size: int
    epochs_done: int
    epochs: int
    status: str
    """finished, diverged or unfinished."""
    final_accuracy: float | None
    time_s: float
    last_batch_size: int | None = None
    """None before the first epoch."""
    is_window: bool = False
    """The short fixed run of a probe."""


class RunDirectory:
    """The files of one run, open for writing by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    def records(self) -> list[EpochRecord]:
        """Finished epochs in order; a cut last line is ignored."""
        return read_records(self.path / "epochs.jsonl")

    def keep(self, records: list[EpochRecord]) -> None:
        """Drop recorded epochs that the checkpoint does not know."""
        lines = "".join(seal(to_plain(r)) + "\n" for r in records)
        write_text(self.path / "epochs.jsonl", lines)

    def append(self, record: EpochRecord) -> None:
        """Add one epoch; on the disk when this returns."""
        append_text(self.path / "epochs.jsonl", seal(to_plain(record)) + "\n")

    def result(self) -> RunResult | None:
        """The result of a finished run."""
        return read_result(self.path)

    def finish(self, result: RunResult) -> None:
        text = seal(to_plain(result))
        write_text(self.path / "result.json", text)
        # Its size ties the summary to the result that it tells of.
        summary = {"result_bytes": len(text), **to_plain(_summary_of(self.path.name, result))}
        write_json(self.path / "summary.json", summary)


class Store:
    """A folder of runs. Creating it touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def check_root(self) -> None:
        """Raise `UsageError` when the folder of runs is one run."""
        if (self.root / "config.json").exists():
            raise UsageError(f"{self.root} is itself a run; use another -o, such as its parent")

    @contextmanager
    def open(self, config: RunConfig) -> Iterator[RunDirectory]:
        """The directory of a run, made if need be and locked against a second process.

        Raises `UsageError` when it holds another run, `RunError` when a process is at work on it.
        """
        self.check_root()
        path = self.root / config.run_id()
        path.mkdir(parents=True, exist_ok=True)
        with (path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another process is at work on {path}; wait for it") from None
            _claim(path / "config.json", config)
            yield RunDirectory(path)

    def list(self, damaged: list[str] | None = None) -> list[RunSummary]:
        """Every run stored here, by name; folders that hold no run are passed over.

        Raises `MissingError` for a run that cannot be read, or adds what is wrong to `damaged`.
        """
        found = []
        for file in sorted(self.root.glob("*/config.json")):
            try:
                found.append(read_summary(file.parent))
            except MissingError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
        return found

    def save_characterization(self, c: Characterization, prediction: Prediction) -> Path:
        """Keep a characterization beside the runs; an earlier one is never overwritten."""
        name = RunConfig.from_dict(c.config).run_id()
        content = {"characterization": to_plain(c), "prediction": to_plain(prediction)}
        return self._save(CHARACTERIZATIONS, name, content)

    def save_study(self, kind: str, study: Study) -> Path:
        """Keep a comparison or an ablation; an earlier one is never overwritten."""
        name = f"{RunConfig.from_dict(study.config).run_id()}-{kind}"
        return self._save("studies", name, {"study": to_plain(study)})

    def _save(self, folder: str, name: str, content: dict[str, Any]) -> Path:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        path = new_file(self.root / folder, name)
        try:
            write_json(path, content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _listed(self) -> str:
        """The command that lists these runs."""
        return shlex.join(["probe", "runs", *output_flags(self.root)])

    def load(self, run_id: str) -> RunResult:
        """A run's result; of an unfinished run, what there is so far.

        Raises `UsageError` for a name that is not stored here, `MissingError` for damaged files.
        """
        path = self.root / run_id
        names = [p.parent.name for p in self.root.glob("*/config.json")]
        if run_id not in names:
            near = difflib.get_close_matches(run_id, names, n=3, cutoff=0.3)
            hint = f"did you mean {' or '.join(near)}" if near else f"see {self._listed()}"
            raise UsageError(
                f"no run {run_id!r} in {self.root}; {hint}, or name its folder with --runs"
            )
        return read_result(path) or _unfinished(path)


def as_store(runs: Store | Path | str) -> Store:
    """The store of a folder, which may be named by its path."""
    return runs if isinstance(runs, Store) else Store(Path(runs))


def read_measured(kind: type[T], path: Path) -> T:
    """One record that was measured and kept. Raises `MissingError` where it is no such record."""
    try:
        return from_plain(kind, read_json(path))
    except TypeError as error:
        raise MissingError(f"{path} is damaged: {error}; delete it to measure anew") from error


def read_records(path: Path) -> list[EpochRecord]:
    """Records of a journal. Raises `MissingError` for damage anywhere but in the last line."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(from_plain(EpochRecord, unseal(line)))
        except (TypeError, ValueError) as error:
            raise MissingError(f"{path} is damaged in line {number}: {error}") from error
    return records


def read_result(path: Path) -> RunResult | None:
    """The result in a run's directory, None while it is unfinished."""
    file = path / "result.json"
    if not file.exists():
        return None
    try:
        return from_plain(RunResult, read_json(file))
    except TypeError as error:
        raise MissingError(f"{file} is damaged: {error}") from error


def read_characterization(path: Path) -> tuple[Characterization, Prediction]:
    """What `Store.save_characterization` wrote. Raises `MissingError` for anything else."""
    content = read_json(path)
    try:
        return (
            from_plain(Characterization, content["characterization"]),
            from_plain(Prediction, content["prediction"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise MissingError(
            f"{path} holds no characterization ({error}); use a file that probe characterize stored"
        ) from error


def characterization_file(path: Path) -> Path:
    """The stored file itself, or the one that is named by what `characterize --json` printed.

    Raises `MissingError` for what is no JSON and for a named file that is not there.
    """
    named = read_json(path).get("stored")
    if not isinstance(named, str):
        return path
    if not Path(named).is_file():
        raise MissingError(
            f"{path} is what --json prints, and the stored file that it names, {named}, is not "
            "there; use that file, or characterize again"
        )
    return Path(named)


def runs_beside(path: Path) -> Path | None:
    """The folder of runs that a stored characterization lies in; None for one that was moved."""
    return path.parent.parent if path.parent.name == CHARACTERIZATIONS else None


def read_study(path: Path) -> Study:
    """What `Store.save_study` wrote. Raises `MissingError` for anything else."""
    content = read_json(path)
    try:
        return from_plain(Study, content["study"])
    except (AttributeError, KeyError, TypeError) as error:
        raise MissingError(
            f"{path} holds no study ({error}); use a file that probe compare stored"
        ) from error


def _claim(file: Path, config: RunConfig) -> None:
    if not file.exists():
        # Without a checksum: its name is a hash of all that matters, and people read it.
        write_text(file, json.dumps(config.to_dict(), indent=1, allow_nan=False))
        return
    if _stored_config(file).run_id() != config.run_id():
        raise UsageError(f"{file.parent} holds another run; use another -o")


def _stored_config(file: Path) -> RunConfig:
    try:
        return RunConfig.from_dict(read_json(file))
    except (TypeError, UsageError) as error:
        raise MissingError(f"{file} is no config of this version: {error}") from error


def _unfinished(path: Path) -> RunResult:
    config = _stored_config(path / "config.json")
    if config.run_id() != path.name:
        raise MissingError(f"{path / 'config.json'} is damaged, or that of another run")
    return RunResult(
        run_id=path.name,
        config=config.to_dict(),
        status="unfinished",
        device=config.device,
        num_params=0,
        num_train=0,
        num_test=0,
        memory_format="",
        environment={},
        epochs=tuple(read_records(path / "epochs.jsonl")),
    )


def read_summary(path: Path) -> RunSummary:
    """The line of `probe runs` for the run in a directory."""
    return _stored_summary(path) or _summary_of(path.name, read_result(path) or _unfinished(path))


def _stored_summary(path: Path) -> RunSummary | None:
    """The stored summary; None where there is none, or not of the result beside it."""
    try:
        values = read_json(path / "summary.json")
        if values.pop("result_bytes") != (path / "result.json").stat().st_size:
            return None
        if not {"last_batch_size", "is_window"} <= values.keys():
            return None  # written before they were kept
        return from_plain(RunSummary, values)
    except (MissingError, OSError, TypeError, KeyError):
        return None


def _summary_of(name: str, result: RunResult) -> RunSummary:
    config: Mapping[str, Any] = result.config
    last_epoch = RunConfig.from_dict(config).last_epoch
    return RunSummary(
        run_id=name,
        model=config["model"],
        data=config["data"],
        scheduler=config["scheduler"],
        seed=config["seed"],
        batch_size=config["batch_size"],
        epochs_done=len(result.epochs),
        epochs=last_epoch,
        status=result.status,
        final_accuracy=result.final_accuracy if result.epochs else None,
        time_s=result.time_s,
        last_batch_size=result.epochs[-1].batch_size if result.epochs else None,
        is_window=config.get("max_epochs") is not None,
    )
