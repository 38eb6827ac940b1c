"""The command that makes a stored result again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from stability_probe.config import RunConfig
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import Characterization, RunResult, Study, Validation
from stability_probe.settings import LIMIT_FLAGS

_FLAGGED = (
    *("data", "data_dir", "limit", "img_size", "batch_size", "max_batch_size", "epochs"),
    *("window_epochs", "device", "precision", "optimizer", "lr", "lr_schedule", "lr_rule"),
    *("compile", "threads"),
)
_RUN_FLAGGED = (*_FLAGGED, "channels_last", "seed", "order_seed", "reset_moments")
_WITHOUT_FLAG = ("momentum", "weight_decay")
_FLAGS = {"batch_size": "-b", "window_epochs": "--window"}


def changed_flags(config: Mapping[str, Any], names: Sequence[str] = _FLAGGED) -> list[str]:
    """The flags that describe the same run again; a setting that is not stored has its default."""
    defaults = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    words = []
    for name in names:
        value = config.get(name, defaults[name])
        if value != defaults[name]:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            words += [flag] if value is True else [flag, str(value)]
    return words


def limit_flags(limits: Limits) -> list[str]:
    """The flags that set the same limits again."""
    return [
        word
        for name, flag in LIMIT_FLAGS.items()
        if (value := getattr(limits, name)) != getattr(DEFAULT_LIMITS, name)
        for word in (flag, str(value).removesuffix(".0"))
    ]


def characterize_command(c: Characterization, limits: Limits) -> str:
    """Of the probe. The memory format was measured, unless it was asked for."""
    asked = ("channels_last",) if c.curve.memory_format_reason == "as asked" else ()
    more = [*_seeds(c.seeds, (0,)), *limit_flags(limits)]
    return _command("characterize", c.config, [*_FLAGGED, *asked], more)


def validate_after(c: Characterization, limits: Limits) -> str:
    """Of the full runs that would put the prediction to the test."""
    more = [*_seeds(c.seeds, (0, 1, 2)), *limit_flags(limits)]
    return _command("validate", c.config, _FLAGGED, more)


def run_command(result: RunResult) -> str:
    """Of a full run; of the window of a probe, where the run is one."""
    config = result.config
    if config.get("max_epochs") is not None:
        return _command("characterize", config, _FLAGGED, _seeds((config["seed"],), (0,)))
    named = config["scheduler"] != RunConfig.scheduler
    more = ["--scheduler", config["scheduler"]] if named else []
    return _command("run", config, _RUN_FLAGGED, more + _scheduler_args(config))


def validate_command(v: Validation) -> str:
    """Of a validation, as far as what it printed tells its settings."""
    more = [*_seeds(v.seeds, (0, 1, 2)), *limit_flags(v.prediction.limits)]
    return _command("validate", v.config, _FLAGGED, more)


def study_command(study: Study) -> str:
    """Of a comparison or an ablation, which is the one whose reference is no fixed run."""
    seeds = _seeds(study.seeds, (0, 1, 2))
    if is_ablation(study):
        return _command("ablate", study.config, _FLAGGED, [*seeds, *_scheduler_args(study.config)])
    rivals = ",".join(arm.name for arm in study.arms if arm.role == "schedule")
    return _command(
        "compare",
        study.config,
        _FLAGGED,
        [*seeds, "--schedulers", rivals, *limit_flags(study.limits)],
    )


def is_ablation(study: Study) -> bool:
    """Whether a study changes one part of DEBA at a time."""
    return bool(study.config["scheduler"] != RunConfig.scheduler)


def _command(name: str, config: Mapping[str, Any], flags: Sequence[str], more: list[str]) -> str:
    command = shlex.join(
        ["probe", name, str(config["model"]), *changed_flags(config, flags), *more]
    )
    defaults = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    set_in_code = [
        f"{n}={config[n]}" for n in _WITHOUT_FLAG if config.get(n, defaults[n]) != defaults[n]
    ]
    # These have no flag: the command alone would be another run.
    return f"{command}  # with {', '.join(set_in_code)}, in Python" if set_in_code else command


def _seeds(seeds: Sequence[int], default: Sequence[int]) -> list[str]:
    return [] if tuple(seeds) == tuple(default) else ["--seeds", ",".join(map(str, seeds))]


def _scheduler_args(config: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in config.get("scheduler_args", {}).items():
        words += ["--scheduler-arg", f"{name}={json.dumps(value)}"]
    return words
