"""Names of the user's own code: ``package.module:callable``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

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
            f"cannot import {name} ({one_line(error)}); {_instead(module_name, attribute)}"
        ) from error
    if not callable(made):
        raise UsageError(f"{name} is no callable; give a function")
    return made


def as_callable(name: str) -> str | None:
    """How ``mynets.make`` or ``./mynets.py`` would name a function of the user's; None for a name
    that is of no module."""
    if name.endswith(".py"):
        return f"{_module_of(name)}:callable"
    module, _, attribute = name.rpartition(".")
    top = module.split(".")[0]
    with working_directory_importable():
        found = top.isidentifier() and importlib.util.find_spec(top) is not None
    return f"{module}:{attribute}" if found and attribute.isidentifier() else None


def _instead(module_name: str, attribute: str) -> str:
    """What to type in place of a name that cannot be imported."""
    if module_name.endswith(".py"):
        return f"leave out .py: {_module_of(module_name)}:{attribute}"
    there = vars(sys.modules[module_name]) if module_name in sys.modules else {}
    near = difflib.get_close_matches(attribute, [n for n, v in there.items() if callable(v)], n=1)
    if near:
        return f"did you mean {module_name}:{near[0]}?"
    return "use package.module:callable, importable from the working directory"


def _module_of(path: str) -> str:
    return ".".join(PurePath(path).with_suffix("").parts)


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
    last = sys.path[-1]
    try:
        yield
    finally:
        # Not by its value, which a notebook has at the front as well.
        del sys.path[max(i for i, path in enumerate(sys.path) if path == last)]


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def cause(error: BaseException) -> str:
    """Type and message on one line, at most 160 characters."""
    # An assertion without a message leaves only the colon behind its type.
    return textwrap.shorten(one_line(error).rstrip(": ."), 160, placeholder=" ...")
