"""How a command ends: one line on stderr and a documented exit code."""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from stability_probe.errors import ProbeError, near
from stability_probe.launch import follows, is_common, lost_another, processes, rank
from stability_probe.memory import lacks_memory
from stability_probe.settings import OutputFile, misspelt_variables, shown_settings
from stability_probe.user_code import late_imports

EXIT_CODES = """\b
Exit codes:
  0    done
  1    validate: the prediction failed; sweep: a run failed;
       corpus check: a number contradicts
  2    usage: unknown name, contradictory or impossible settings
  3    the run failed: diverged, out of memory, output not writable
  4    data or a part of the environment is missing or damaged
  70   a bug in probe
  130  interrupted (SIGINT); 143 by SIGTERM; type the same again to go on

Every flag is also read from PROBE_<FLAG>, such as PROBE_BATCH_SIZE, and from a TOML file given
with -C, such as batch-size = 32. A flag wins over the environment, that over the file.
"""

BUG = 70
"""Exit code of an error that nobody foresaw."""
OWN_CODE = "your own code"
RESULT_STREAM = "stability_probe.result_stream"
"""Where a command's context keeps the stream of its result."""
_FOR_SEVERAL = ("run",)
"""Commands that torchrun may start in several processes."""


class Command(click.Command):
    """Ends in one line on stderr and a documented exit code, whatever goes wrong inside."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # One variable a flag for every command, not PROBE_<COMMAND>_<FLAG>.
        kwargs.setdefault("context_settings", {}).setdefault("auto_envvar_prefix", "PROBE")
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        verbose = ctx.params.get("verbose", False)
        for line in () if ctx.params.get("quiet") else misspelt_variables(ctx):
            complain(line)
        if ctx.params.pop("show_config", False):
            click.echo(shown_settings(ctx))
            return None
        if processes() > 1 and self.name not in _FOR_SEVERAL:
            raise click.UsageError(f"torchrun starts one run only; use probe {self.name} without")
        ctx.meta[RESULT_STREAM] = sys.stdout
        try:
            # What the user's own code prints is no result.
            with warnings.catch_warnings(), redirect_stdout(sys.stderr), late_imports():
                if not verbose:  # libraries warn about what is no concern of the user
                    warnings.simplefilter("ignore")
                for option in self.params:
                    if isinstance(option, OutputFile):
                        option.check(ctx.params[str(option.name)])
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            message = "interrupted"
            if "model" in ctx.params and "output" in ctx.params:
                message += f"; what was measured is kept in {ctx.params['output']}"
            code = getattr(error, "exit_code", 130)
            cause: BaseException = error
        except (Exception, SystemExit) as error:
            message, code, cause = *explain(error), error
        complain(message, cause if verbose else None, common=is_common(cause))
        ctx.exit(code)


class Group(click.Group):
    """Says usage errors in one line, with the nearest names and where a bad value came from."""

    command_class = Command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            _end_usage_error(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _end_usage_error(error)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they are written down, which is by use; click's order is that of the alphabet."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"unknown command {args[0]!r}; use {near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _end_usage_error(error: click.UsageError) -> NoReturn:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    text = error.format_message().rstrip(".")
    if text.split(" ")[0].isalpha():  # click's own sentence, not the name of a file
        text = text[:1].lower() + text[1:]
    if isinstance(error, click.NoSuchOption) and error.option_name in ("-o", "--output"):
        # Where -o names what is written, or nothing, the folder of runs has a name of its own.
        text += "; the folder of runs is --runs" if _takes_runs(error.ctx) else ""
    hint = f"; see {error.ctx.command_path} --help" if error.ctx else ""
    complain(text + _source(error) + hint)
    raise click.exceptions.Exit(2) from error


def _takes_runs(ctx: click.Context | None) -> bool:
    return ctx is not None and any("--runs" in option.opts for option in ctx.command.params)


def _source(error: click.UsageError) -> str:
    """Where a value that nobody typed came from."""
    if not isinstance(error, click.BadParameter) or not error.param or not error.ctx:
        return ""
    name = str(error.param.name)
    source = error.ctx.get_parameter_source(name)
    if source == ParameterSource.ENVIRONMENT:
        return f" (from PROBE_{name.upper()})"
    if source == ParameterSource.DEFAULT_MAP:
        return f" (from {error.ctx.params.get('config')})"
    return ""


def explain(error: BaseException) -> tuple[str, int]:
    """An error in words, and the exit code of its class."""
    if isinstance(error, ProbeError):
        return str(error), error.exit_code
    if isinstance(error, ImportError):
        part = error.name or "a module"
        return f"cannot import {part} ({error}); install it, or stability-probe anew", 4
    if lost_another(error):
        return "another process of the run ended; it says why", 3
    if lacks_memory(error):
        return "out of memory; use a smaller --batch-size, --max-batch-size or --limit", 3
    if isinstance(error, OSError) and error.errno:
        return _explain_os_error(error), 3
    kind = type(error).__name__
    if (frame := _own_frame(error)) is not None:
        place = f"{frame.filename}, line {frame.lineno}"
        return f"{OWN_CODE} raised {kind}: {error} ({place})", 2
    return f"internal error: {kind}: {error}; please report it, with the output of -v", BUG


def _own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Where the user's own code raised an error, or called what did; None where it had no part."""
    package = Path(__file__).parent
    ours = (package, package.parent / "predictor", package.parent / "cli.py")
    # Not the prefix, in which a project may lie with its virtual environment.
    others = [
        Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if any(file.is_relative_to(path) for path in ours):
            return None
        if file.is_file() and not any(file.is_relative_to(path) for path in others):
            return frame
    return None


def _explain_os_error(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, cannot write{where}; free some space and type the same again"
    if error.errno == errno.EROFS:
        return f"cannot write{where}: the file system is read-only; use another -o"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for{where or ' a file'}; use another -o or change its mode"
    return f"cannot read or write{where}: {os.strerror(error.errno or 0)}"


def complain(message: str, cause: BaseException | None = None, *, common: bool = True) -> None:
    """One line on stderr; below it the traceback of `cause`, if any.

    Of several processes the first speaks for all, and each for itself where it is not `common`.
    """
    if follows() and common:
        return
    who = f"process {rank()}: " if follows() else ""
    click.echo(f"probe: {who}{' '.join(message.split())}", err=True)
    if cause is not None:
        click.echo("".join(traceback.format_exception(cause)), err=True, nl=False)
