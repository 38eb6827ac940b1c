"""Names of the user's own code: ``package.module:callable``."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stability_probe.errors import UsageError


def is_own(name: str) -> bool:
    """Whether a data set or a schedule is the user's: `folder:PATH`, `package.module:callable`."""
    return ":" in name


def import_callable(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    try:
        made: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise UsageError(
            f"cannot import {name} ({one_line(error)}); use package.module:callable, "
            "importable from the working directory"
        ) from error
    if not callable(made):
        raise UsageError(f"{name} is no callable; give a function")
    return made


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """While the user's code is imported and called: there it comes before all else."""
    path = os.getcwd()
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


@contextmanager
def late_imports() -> Iterator[None]:
    """For a whole command: what the user's code imports only as it runs is found beside it, but
    no file there hides a library."""
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def cause(error: BaseException) -> str:
    """Type and message on one line, at most 160 characters."""
    # An assertion without a message leaves only the colon behind its type.
    return textwrap.shorten(one_line(error).rstrip(": ."), 160, placeholder=" ...")
