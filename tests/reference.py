"""docs/reference.md from the code: python -m tests.reference > docs/reference.md"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import click

from cli import probe
from stability_probe.catalogue import schedules
from stability_probe.config import RunConfig
from stability_probe.exits import EXIT_CODES

HEAD = """# Reference

Made from the code by `python -m tests.reference > docs/reference.md`; a test compares the two.
"""


def reference() -> str:
    """The whole document."""
    return "\n".join([HEAD, *_commands(), *_exit_codes(), *_schedules(), *_settings()])


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    for name, command in probe.commands.items():
        if isinstance(command, click.Group):
            for part, below in command.commands.items():
                yield _help(f"{name} {part}", below)
        else:
            yield _help(name, command)


def _help(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"probe {name}", max_content_width=98)
    context.terminal_width = 98
    return f"### probe {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield f"```text\n{EXIT_CODES.removeprefix(chr(8)).strip()}\n```\n"


def _schedules() -> Iterator[str]:
    yield "## Batch schedules\n"
    yield "Arguments of `--scheduler-arg`, with the defaults of a run of 100 epochs.\n"
    for entry in schedules():
        yield f"### {entry.name}\n\n{entry.summary}\n"
        if entry.arguments:
            yield "\n".join(f"- `{n}={v}`" if v else f"- `{n}`" for n, v in entry.arguments.items())
            yield ""


def _settings() -> Iterator[str]:
    yield "## What a run is\n"
    yield "Fields of `stability_probe.config.RunConfig`, as they stand in a run's `config.json`.\n"
    yield "| field | type | default |\n| --- | --- | --- |"
    for field in dataclasses.fields(RunConfig):
        known = field.default is not dataclasses.MISSING
        default = f"`{json.dumps(field.default)}`" if known else ""
        yield f"| `{field.name}` | `{field.type}` | {default} |".replace(" | None`", " or None`")


if __name__ == "__main__":
    print(reference(), end="")
