"""The options of the commands; defaults, types and choices come from `RunConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from stability_probe.config import CHOICES, RunConfig
from stability_probe.errors import near
from stability_probe.folders import RUNS_FOLDER
from stability_probe.limits import DEFAULT_LIMITS
from stability_probe.settings import (
    FIELD_OF_FLAG,
    FIELDS,
    LIMIT_FLAGS,
    KeyValue,
    Names,
    OutputFile,
    Seeds,
    as_mapping,
    load_settings,
)


def field_option(flag: str, about: str, *short: str, unset: str | None = None) -> click.Option:
    """The option of one `RunConfig` field; `unset` says what happens where its default is None."""
    field = FIELDS[FIELD_OF_FLAG.get(flag, flag)]
    kinds: dict[str, Any] = {"int": click.INT, "float": click.FLOAT, "str": click.STRING}
    return click.Option(
        [*short, f"--{flag.replace('_', '-')}", flag],
        type=click.Choice(CHOICES[flag]) if flag in CHOICES else kinds[str(field.type).split()[0]],
        default=field.default,
        show_default=unset or True,
        help=about,
    )


def check_scheduler(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Refuse an unknown schedule at once; its package needs numpy, so only where one is asked."""
    if name != RunConfig.scheduler and ":" not in name:
        from stability_probe.schedulers import SCHEDULERS

        if name not in SCHEDULERS:
            raise click.BadParameter(f"no {name!r}; use {near(name, SCHEDULERS)}", ctx, param)
    return name


def _flag(about: str, *names: str) -> click.Option:
    return click.Option(names, is_flag=True, default=False, help=about)


def seeds_option(default: str) -> click.Option:
    about = "Seeds, such as 0,1,2 or 0-4."
    return click.Option(["--seeds"], type=Seeds(), default=default, show_default=True, help=about)


def folder_option(about: str, *names: str, default: str = RUNS_FOLDER) -> click.Option:
    kind = click.Path(file_okay=False)
    return click.Option(names, type=kind, default=default, show_default=True, help=about)


MODEL = click.Argument(["model"])
PATTERN = click.Argument(["pattern"], required=False)
SHELL = click.Argument(["shell"], type=click.Choice(("bash", "zsh", "fish")))
SWEEP = click.Argument(["sweep"], metavar="FILE.toml")
RUN = click.Argument(["run"], metavar="RUN_ID|FILE.json")
RUN_IDS = click.Argument(["run_ids"], metavar="RUN_ID...", nargs=-1, required=True)
CHARACTERIZATION = click.Argument(["characterization"], metavar="FILE.json")
STORED = click.Argument(["stored"], metavar="RUN_ID|FILE.json")
DATA_DIR = field_option("data_dir", "Where data sets lie.", unset="the usual places")
REPORTED = click.Argument(["reported"], metavar="RUN_ID|FILE.json...", nargs=-1, required=True)
TRAINING: Sequence[click.Option] = (
    field_option("data", "Data set, folder:PATH or package.module:callable."),
    DATA_DIR,
    field_option("limit", "Train and test on at most so many samples.", unset="all"),
    field_option(
        "img_size",
        "Side of the input in pixels.",
        unset="32; 224 for folder:PATH; a callable's own",
    ),
    field_option("batch_size", "Samples per update at the start.", "-b"),
    field_option("max_batch_size", "Largest batch of a schedule.", unset="2048; less on few data"),
    field_option("epochs", "Epochs of the full run."),
    field_option("window", "First epochs, which the probe measures."),
    field_option("device", "cuda, mps, cpu or auto."),
    field_option("precision", "float32, or bfloat16 autocast."),
    field_option("lr", "Base learning rate."),
    field_option("optimizer", "sgd (with momentum) or adamw."),
    field_option("lr_schedule", "Learning rate over the epochs."),
    field_option("lr_rule", "How the learning rate follows the batch size."),
    field_option("channels_last", "Memory format; auto measures, then chooses."),
    _flag("Train by torch.compile; its own cost is told apart.", "--compile"),
    field_option("threads", "CPU threads.", unset="torch's choice"),
)
SCHEDULER_ARG = click.Option(
    ["--scheduler-arg"],
    type=KeyValue(),
    multiple=True,
    callback=as_mapping,
    help="Argument of the schedule, the value as JSON; repeatable.",
)


def scheduler_option(**default: Any) -> click.Option:
    return click.Option(
        ["--scheduler"],
        callback=check_scheduler,
        help="Batch schedule: fixed, deba, timed, adabatch, noise_scale, norm_test, replay, random "
        "or package.module:callable.",
        **default,
    )


POLICY: Sequence[click.Option] = (scheduler_option(required=True), SCHEDULER_ARG)
SCHEDULE: Sequence[click.Option] = (
    field_option("seed", "Seed of weights and order of samples."),
    field_option("order_seed", "Seed of the order alone.", unset="--seed"),
    _flag("Empty the optimizer's moments when the batch changes.", "--reset-moments"),
    scheduler_option(default=RunConfig.scheduler, show_default=True),
    SCHEDULER_ARG,
)
LIMITS: Sequence[click.Option] = tuple(
    click.Option(
        [LIMIT_FLAGS[name]],
        type=click.FLOAT,
        default=getattr(DEFAULT_LIMITS, name),
        show_default=True,
        help=about,
    )
    for name, about in (
        ("min_time_saved_pct", "What a benefit saves at least, in percent of the time."),
        ("max_accuracy_loss_pp", "What a benefit may lose, in points of test accuracy."),
    )
)
LOG = click.Option(
    ["--log"],
    type=click.Choice(("tensorboard", "mlflow", "wandb")),
    help="Also send every epoch to this tracker (an extra of the same name).",
)
ROOT = folder_option("Folder of the stored runs.", "-o", "--output", "--runs")
COMMON: Sequence[click.Option] = (
    click.Option(
        ["-C", "--config"],
        is_eager=True,
        callback=load_settings,
        metavar="FILE",
        help="TOML file of settings, named as the flags.",
    ),
    _flag("Print one JSON object.", "--json"),
    _flag("No progress, no notes.", "-q", "--quiet"),
    _flag("Progress also in logs; tracebacks of errors.", "-v", "--verbose"),
    _flag("No progress.", "--no-progress"),
    _flag("Print the settings and where each comes from; do nothing.", "--show-config"),
)
# Named output: PROBE_OUTPUT and the file's `output` are the stored runs in every command.
RUNS = folder_option("Folder of the stored runs.", "--runs", "output")
PLOT: Sequence[click.Option] = (
    click.Option(
        ["--format"],
        type=click.Choice(("png", "svg", "pdf")),
        default="png",
        show_default=True,
        help="File format of the figures.",
    ),
    folder_option("Folder for the figures.", "-o", "--output", "figures", default="."),
    RUNS,
)
JOBS = click.Option(
    ["--jobs"],
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs at a time, each a process of its own, and of one thread where they are several.",
)
EXECUTOR = click.Option(
    ["--executor"],
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Processes of this machine, or the Ray cluster of RAY_ADDRESS.",
)
DRY_RUN = _flag("Only say what would run, and about how long.", "--dry-run")
SCHEDULERS = click.Option(
    ["--schedulers"],
    type=Names(),
    default="deba,timed,adabatch,noise_scale,norm_test",
    show_default=True,
    help="Batch schedules to compare, by commas; package.module:callable for your own.",
)
CORPUS_OUT = OutputFile(
    "rows",
    "File for the rows; only an earlier corpus is overwritten.",
    "corpus",
    "model,family,data,seed,",
    default="corpus.csv",
)
REPORT_OUT = OutputFile(
    "report",
    "File for the page; only an earlier report is overwritten.",
    "report",
    '<meta name="generator" content="probe report">',
    default="report.html",
)
FITTED_OUT = OutputFile(
    "fitted",
    "File for the fitted numbers, as JSON; only an earlier fit is overwritten.",
    "fit",
    '"harm_rate"',
)
EVALUATION_PLOTS: Sequence[click.Option] = (
    click.Option(
        ["--plots", "figures"],
        type=click.Path(file_okay=False),
        help="Folder for a figure: reliability, told beside measured, learning curve, lengths of "
        "run.",
    ),
    PLOT[0],
)
CORPUS_IN = click.Option(
    ["--corpus"], type=click.Path(dir_okay=False), help="Rows to score; the shipped ones if unset."
)
HORIZON = click.Option(
    ["--epochs"],
    type=click.IntRange(min=1),
    help="Score for runs of so many epochs; as long as the rows are if unset.",
)
RATE = click.Option(
    ["--lr-schedule"],
    type=click.Choice(CHOICES["lr_schedule"]),
    help="Score runs whose learning rate goes so over the epochs; the commonest if unset.",
)
KNOWN_ROWS = click.Option(
    ["--corpus", "known"],
    type=click.Path(dir_okay=False),
    help="Rows of `probe corpus build`; what they compare is not run again, nor a throughput curve "
    "of this kind of device measured.",
)
EXPORT: Sequence[click.Option] = (
    click.Option(
        ["--to"],
        type=click.Choice(("json", "lightning", "huggingface", "megatron")),
        default="json",
        show_default=True,
        help="The trainer that is to follow the schedule.",
    ),
    OutputFile(
        "exported",
        "File to write, standard output if unset; only an earlier schedule is overwritten.",
        "schedule",
        '"""Batch sizes by epoch of ',
        '"first_sample"',
        "--rampup-batch-size",
    ),
)
