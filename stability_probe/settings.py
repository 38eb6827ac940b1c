"""Settings of the command line: a flag, else ``PROBE_<FLAG>``, else a TOML file, else the default.

A flag is named as its field of `RunConfig`, apart from those in `FIELD_OF_FLAG`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stability_probe.config import RunConfig
from stability_probe.errors import UsageError, near
from stability_probe.limits import Limits
from stability_probe.words import counted

SCHEMA_VERSION = 1
"""Of every object that a command prints with --json."""

FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
MAX_SEEDS = 1000
_NOT_SHOWN = ("config", "json")

LIMIT_FLAGS = {
    "min_time_saved_pct": "--min-time-saved",
    "max_accuracy_loss_pp": "--max-accuracy-loss",
}
"""Of the fields of `Limits`."""

# The run calls it window_epochs, since it also has a window of decisions; a flag need not.
FIELD_OF_FLAG = {"window": "window_epochs", "scheduler_arg": "scheduler_args"}


# ParamType is generic in newer versions of click only.
class Seeds(click.ParamType):  # type: ignore[type-arg]
    """``0,1,2`` or ``0-4``, as a tuple of different seeds."""

    name = "seeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        words = value if isinstance(value, str) else ",".join(map(str, _as_sequence(value)))
        ranges = [self._range(word.strip(), param, ctx) for word in words.split(",")]
        if sum(map(len, ranges)) > MAX_SEEDS:
            self.fail(f"{words!r} holds more than {MAX_SEEDS} seeds", param, ctx)
        seeds = tuple(seed for each in ranges for seed in each)
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            self.fail(f"{words!r} names seed {twice[0]} twice", param, ctx)
        return seeds

    def _range(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
        if not match or int(match[2] or match[1]) < int(match[1]):
            self.fail(f"{word!r} is no seed; use numbers such as 0,1,2 or 0-4", param, ctx)
        return range(int(match[1]), int(match[2] or match[1]) + 1)


class Names(click.ParamType):  # type: ignore[type-arg]
    """``deba,timed``, as a tuple of different names."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else map(str, _as_sequence(value))
        names = tuple(word.strip() for word in words)
        if not all(names) or len(set(names)) < len(names):
            self.fail(f"{value!r} is no list of different names, such as deba,timed", param, ctx)
        return names


class KeyValue(click.ParamType):  # type: ignore[type-arg]
    """``name=value``, the value read as JSON where it is JSON, else as text."""

    name = "k=v"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip():
            self.fail(f"{value!r} is no name=value, such as window=15", param, ctx)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = text
        try:
            json.dumps(parsed, allow_nan=False)
        except ValueError:
            self.fail(f"{value!r} is not finite", param, ctx)
        return name.strip(), parsed


class OutputFile(click.Option):
    """``-o FILE``: a file to write, in place of none but an earlier one of its kind.

    Never from a variable: PROBE_CORPUS, which names rows to read, once named rows to overwrite.
    """

    def __init__(
        self, name: str, about: str, kind: str, *marks: str, default: str | None = None
    ) -> None:
        self._kind, self._marks = kind, marks
        super().__init__(
            ["-o", "--output", name],
            type=click.Path(dir_okay=False),
            default=default,
            show_default=default is not None,
            allow_from_autoenv=False,
            help=about,
        )

    def check(self, path: str | None) -> None:
        """Raise, before any work, unless it may be written; see `store.check_output`."""
        if path is not None:
            from stability_probe.files import check_output

            check_output(Path(path), self._kind, *self._marks)


def as_mapping(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    """Callback that gathers `KeyValue` pairs and refuses one that is given twice."""
    gathered: dict[str, Any] = {}
    for name, value in pairs:
        if name in gathered:
            raise click.BadParameter(f"{name!r} is given twice", ctx, param)
        gathered[name] = value
    return gathered


def make_config(options: Mapping[str, Any], *, predicts: bool = False) -> RunConfig:
    """The run that parsed options describe. Raises `UsageError` where they contradict.

    Of a command that `predicts` the window must leave epochs to predict; for another the window
    that nobody asked for shrinks to a shorter run.
    """
    values = {FIELD_OF_FLAG.get(name, name): value for name, value in options.items()}
    epochs, window = values["epochs"], values["window_epochs"]
    source = click.get_current_context().get_parameter_source("window")
    if source == ParameterSource.DEFAULT and 0 < epochs < window:
        if predicts:
            shorter = ", or use --window 2" if epochs > 2 else ""
            raise UsageError(
                f"a run of {counted(epochs, 'epoch')} is shorter than the window of {window}, so "
                f"there is nothing left to predict; just train it with probe run{shorter}"
            )
        values["window_epochs"] = epochs
    return RunConfig(**{name: value for name, value in values.items() if name in FIELDS})


def make_limits(options: Mapping[str, Any]) -> Limits:
    """What parsed options take for a benefit. Raises `UsageError` for what cannot be."""
    names = {field: flag.strip("-").replace("-", "_") for field, flag in LIMIT_FLAGS.items()}
    return Limits(**{field: options[name] for field, name in names.items()})


def load_settings(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Callback of ``-C FILE``: its values become the defaults of the command."""
    if path is not None:
        options = _every_option(ctx)
        del options[str(param.name)]
        own = [str(o.name).replace("_", "-") for o in ctx.command.params if o.name in options]
        flags = [name for name in own if f"--{name}" in options[name.replace("-", "_")].opts]
        ctx.default_map = read_settings(Path(path), options, flags)
    return path


def _every_option(ctx: click.Context) -> dict[str, click.Option]:
    """Of all commands, by name; of two of one name that of the command that was typed."""
    group = ctx.find_root().command
    commands = group.commands.values() if isinstance(group, click.Group) else ()
    return {
        str(option.name): option
        for command in (*commands, ctx.command)
        for option in command.params
        if isinstance(option, click.Option)
    }


def misspelt_variables(ctx: click.Context) -> list[str]:
    """A line for each variable that is no setting but is spelt much like one."""
    names = [f"PROBE_{name.upper()}" for name in (*_every_option(ctx), "home")]
    lines = []
    for variable in sorted(v for v in os.environ if v.startswith("PROBE_") and v not in names):
        # Others are of another program.
        if near_names := difflib.get_close_matches(variable, names, n=1, cutoff=0.91):
            lines.append(f"{variable} is no setting; did you mean {near_names[0]}?")
    return lines


def read_settings(
    path: Path, options: Mapping[str, click.Option], flags: Sequence[str]
) -> dict[str, Any]:
    """Settings by option name, from a TOML file that several commands may share.

    `flags` are what an unknown key may have meant. Raises `click.UsageError` for an unreadable
    file, an unknown key or a value of a wrong type.
    """
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is no TOML file: {error}") from error
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in options:
            raise click.UsageError(f"{path}: unknown setting {key!r}; use {near(key, flags)}")
        if name in values:
            raise click.UsageError(f"{path}: {key!r} is set twice, with - and with _")
        values[name] = _checked(f"{path}: {key}", value, options[name])
    return values


_SOURCES = {
    ParameterSource.COMMANDLINE: "typed",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


def shown_settings(ctx: click.Context) -> str:
    """Every setting of a command as TOML that `-C` reads, with where it comes from.

    As JSON where that is asked for: an object of value and source by setting.
    """
    told = {
        option.name: (ctx.params[option.name], _SOURCES.get(source, "default"))
        for option in ctx.command.params
        if isinstance(option, click.Option)
        and option.name in ctx.params
        and option.name not in _NOT_SHOWN
        and (source := ctx.get_parameter_source(option.name)) is not None
    }
    if ctx.params.get("json"):
        settings = {name: {"value": v, "source": origin} for name, (v, origin) in told.items()}
        return json.dumps({"schema_version": SCHEMA_VERSION, "settings": settings}, indent=2)
    lines = []
    for name, (value, origin) in told.items():
        key = str(name).replace("_", "-")
        # TOML has no word for what is not set.
        setting = f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"
        lines.append(f"{setting}  # {origin}" if value is not None else setting)
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """JSON's scalars and lists are TOML's; a table has = in place of the colon."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _checked(where: str, value: Any, option: click.Option) -> Any:
    """`value` if TOML gave it the option's type: click would read 1.5 and true as the number 1."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if option.multiple:
        if isinstance(value, dict):
            return tuple(value.items())
        fits, wanted = _all(value, str), "a table, or a list of texts such as window=15"
    elif isinstance(option.type, Seeds):
        fits = integer or isinstance(value, str) or _all(value, int)
        wanted = 'a list such as [0, 1, 2], or a text such as "0-4"'
    elif isinstance(option.type, Names):
        fits = isinstance(value, str) or _all(value, str)
        wanted = 'a list such as ["deba", "timed"], or a text such as "deba,timed"'
    elif option.is_flag:
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(option.type, click.types.IntParamType):
        fits, wanted = integer, "a whole number"
    elif isinstance(option.type, click.types.FloatParamType):
        fits, wanted = integer or isinstance(value, float), "a number"
    else:
        fits, wanted = isinstance(value, str), 'a text in quotes, such as "auto"'
    if not fits:
        shown = json.dumps(value, default=str)
        raise click.UsageError(f"{where} is {shown}; use {wanted}")
    return value


def _all(values: Any, kind: type) -> bool:
    # type(), not isinstance: true is an int to Python, and no seed.
    return isinstance(values, list) and bool(values) and all(type(v) is kind for v in values)


def _as_sequence(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)
