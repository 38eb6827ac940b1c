"""The batch schedule of a stored run, for trainers that take only a fixed one."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from stability_probe.errors import UsageError, near
from stability_probe.megatron import fit_rampup
from stability_probe.plain import to_plain
from stability_probe.records import RunResult


@dataclass(frozen=True, kw_only=True)
class SchedulePoint:
    """One epoch of a batch schedule."""

    epoch: int
    """From 1."""
    first_sample: int
    """Samples seen before it."""
    first_step: int
    """Updates made before it."""
    batch_size: int
    lr: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A schedule in the words of another trainer."""

    text: str
    note: str = ""
    """What the other trainer cannot do as the run did."""


def schedule_points(result: RunResult) -> list[SchedulePoint]:
    """The schedule of a run, an entry an epoch."""
    samples = [0, *itertools.accumulate(e.samples for e in result.epochs)]
    steps = [0, *itertools.accumulate(e.updates for e in result.epochs)]
    return [
        SchedulePoint(
            epoch=e.epoch,
            first_sample=samples[index],
            first_step=steps[index],
            batch_size=e.batch_size,
            lr=e.lr,
        )
        for index, e in enumerate(result.epochs)
    ]


def export_schedule(result: RunResult, to: str) -> Exported:
    """The schedule of a run with at least one epoch; `to` is a name of `EXPORTS`.

    Raises `UsageError` for another name, and for a schedule that the other trainer cannot have.
    """
    if to not in EXPORTS:
        raise UsageError(f"unknown trainer {to!r}; use {near(to, EXPORTS)}")
    return EXPORTS[to](result)


def _to_json(result: RunResult) -> Exported:
    return Exported(text=json.dumps(to_plain(schedule_points(result)), indent=1, allow_nan=False))


def _to_megatron(result: RunResult) -> Exported:
    ramp = fit_rampup([(e.samples, e.batch_size) for e in result.epochs])
    note = (
        f"a linear ramp: batches differ from those of the run by {ramp.error_pct:.0f} % on "
        f"average, {ramp.updates} updates in place of {result.updates}"
    )
    if result.config["lr_rule"] != "none":
        note += "; the run scaled its rate with the batch, --lr does not"
    return Exported(text=ramp.arguments, note=note)


def _to_lightning(result: RunResult) -> Exported:
    return Exported(text=_filled(_LIGHTNING, result))


def _to_huggingface(result: RunResult) -> Exported:
    return Exported(text=_filled(_HUGGINGFACE, result))


def _filled(template: str, result: RunResult) -> str:
    sizes = textwrap.fill(
        f"BATCH_SIZES = {list(result.batch_sizes)}", 88, subsequent_indent=" " * 15
    )
    values = {
        # A stored file may name itself as it likes; in the script it is text and nothing else.
        "RUN_ID": re.sub(r"[^\w.-]", "-", result.run_id),
        "SIZES": sizes,
        "FIRST": str(result.batch_sizes[0]),
        "RULE": repr(result.config["lr_rule"]),
    }
    for name, value in values.items():
        template = template.replace(f"<{name}>", value)
    return template.strip()


_LIGHTNING = '''
"""Batch sizes by epoch of <RUN_ID>, for Lightning.

    sampler, callback = batch_schedule(dataset)
    trainer = Trainer(max_epochs=len(BATCH_SIZES), callbacks=[callback],
                      reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False)
    trainer.fit(module, DataLoader(dataset, batch_sampler=sampler))
"""

from stability_probe.integrations import AdaptiveBatchSampler
from stability_probe.integrations.lightning import AdaptiveBatchCallback

<SIZES>
LR_RULE = <RULE>


def batch_schedule(dataset, seed=0):
    sampler = AdaptiveBatchSampler(dataset, BATCH_SIZES[0], seed=seed)
    callback = AdaptiveBatchCallback(
        sampler,
        "replay",
        batch_sizes=BATCH_SIZES,
        max_batch_size=max(BATCH_SIZES),
        lr_rule=LR_RULE,
    )
    return sampler, callback
'''

_HUGGINGFACE = '''
"""Batch sizes by epoch of <RUN_ID>, for Hugging Face's Trainer.

    trainer = Trainer(model, TrainingArguments(num_train_epochs=len(BATCH_SIZES), ...), ...)
    follow_batch_schedule(trainer)
    trainer.train()

Batch per device x devices x accumulation must be <FIRST>, the first of these sizes.
"""

from stability_probe.integrations.huggingface import AdaptiveBatchCallback

<SIZES>
LR_RULE = <RULE>


def follow_batch_schedule(trainer):
    return AdaptiveBatchCallback(
        trainer,
        "replay",
        batch_sizes=BATCH_SIZES,
        max_batch_size=max(BATCH_SIZES),
        lr_rule=LR_RULE,
    )
'''

EXPORTS: dict[str, Callable[[RunResult], Exported]] = {
    "json": _to_json,
    "lightning": _to_lightning,
    "huggingface": _to_huggingface,
    "megatron": _to_megatron,
}
