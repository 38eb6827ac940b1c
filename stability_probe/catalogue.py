"""What can be named on the command line: models, data sets and batch schedules."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stability_probe.config import DEFAULT_READING, RunConfig
from stability_probe.schedulers import SCHEDULERS, default_arguments


def matching(names: Iterable[str], pattern: str | None) -> list[str]:
    """Names that fit a shell pattern such as ``*vit*``; without wildcards, those that hold it.

    >>> matching(["resnet18", "test_vit"], "vit"), matching(["resnet18", "vit"], "vit*")
    (['test_vit'], ['vit'])
    """
    if pattern is None:
        return list(names)
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """A batch schedule as it is asked for."""

    name: str
    summary: str
    """The first sentence of its documentation."""
    arguments: Mapping[str, str]
    """Names for --scheduler-arg and their defaults, empty where one must be given."""


def schedules(pattern: str | None = None) -> list[ScheduleEntry]:
    """The batch schedules whose name fits."""
    return [
        ScheduleEntry(
            name=name,
            summary=(inspect.getdoc(SCHEDULERS[name]) or "").split("\n\n")[0].replace("\n", " "),
            arguments=_arguments(name),
        )
        for name in matching(SCHEDULERS, pattern)
    ]


def _arguments(name: str) -> dict[str, str]:
    """Defaults are those that a run with default settings has."""
    rule = SCHEDULERS[name]
    parameters = inspect.signature(rule).parameters.values()
    # A class without an __init__ of its own takes anything and uses nothing.
    own = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given = default_arguments(RunConfig(model="any", scheduler=name))
    told = {
        p.name: "" if (value := given.get(p.name, p.default)) is p.empty else json.dumps(value)
        for p in own
    }
    if name == "deba":
        told = {"reading": json.dumps(DEFAULT_READING)} | told
    return told | ({} if name == "fixed" else {"cooldown": str(getattr(rule, "cooldown", 0))})
