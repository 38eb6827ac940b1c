"""Files that are whole or not there, sealed where JSON, and never written over by mistake."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.sealed import seal, unseal

_DEVICES = Path("/dev")


def write_text(path: Path, text: str) -> None:
    """Write all of a file or nothing: temporary name, sync, rename."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write all of a file or nothing: temporary name, sync, rename. A link stays a link."""
    target = Path(os.path.realpath(path))
    # Machines that share a folder may have processes of the same number.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with _naming(path), temporary.open("wb") as file:
            _to_disk(file, content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add to a file; on the disk when this returns."""
    with _naming(path), path.open("ab") as file:
        _to_disk(file, text.encode())


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """`write_text` of one JSON object with its checksum, which `read_json` checks."""
    write_text(path, seal(values))


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object. Raises `MissingError` when it is absent or damaged."""
    try:
        return unseal(path.read_bytes())
    except OSError as error:
        raise MissingError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise MissingError(f"cannot read {path}: {error}") from error


def new_file(folder: Path, name: str) -> Path:
    """An empty file with the first free number, which no other process can get too."""
    number = 1
    while True:
        path = folder / f"{name}-{number}.json"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


def check_output(path: Path, kind: str, *marks: str) -> None:
    """Raise unless a file that the user named may be written.

    Only an earlier one of its `kind` is overwritten: it has one of `marks` among its first bytes.
    """
    if not path.parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; use a file in it, such as -o {path / 'out'}")
    if not path.exists():
        return
    # Where stdout is a file, /dev/stdout is one too.
    if not path.is_file() or path.parent == _DEVICES:
        raise UsageError(f"{path} is no file to keep; use another -o (--json prints on stdout)")
    with path.open("rb") as file:
        start = file.read(1000)
    if start and not any(mark.encode() in start for mark in marks):
        raise UsageError(f"{path} is there and is no {kind}; use another -o")


@contextmanager
def sole_maker(path: Path) -> Iterator[None]:
    """Of several processes that would measure what `path` is to hold, one does, undisturbed, while
    the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _to_disk(file: IO[bytes], content: bytes | memoryview) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error while writing names no file, or a temporary one: name the one that was meant."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
