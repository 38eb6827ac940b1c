"""What a run is: one frozen, validated description, and the identity derived from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from stability_probe.errors import UsageError
from stability_probe.user_code import is_own

CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("float32", "bfloat16"),
    "optimizer": ("sgd", "adamw"),
    "lr_schedule": ("fixed", "cosine", "step"),
    "lr_rule": ("none", "linear", "sqrt"),
    "channels_last": ("auto", "on", "off"),
}

DEFAULT_READING = "eager"
"""Of DEBA: the nearest to what the paper reports, in 120 full runs (docs/findings.md)."""
MAX_COUNT = 1_000_000
"""Of epochs, samples, pixels, threads: more is a slip of the finger that would run for ever."""
MAX_SEED = 2**63 - 1
"""What torch's generators take."""

_FEWEST_NAMED = 1437
"""Training samples of the smallest named data set, digits: no smaller bound is cut by one."""

# Where the data lies is no part of what a run is. Nor is how many threads compute: their number
# changes the last bits of a sum and the seconds, which the environment of a result tells of.
_NOT_IDENTITY = frozenset({"data_dir", "threads"})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Raises `UsageError` for values that cannot work together."""

    model: str
    """timm name, ``torchvision:NAME`` or ``package.module:callable``."""
    data: str = "digits"
    """Data set name, ``folder:PATH`` or ``package.module:callable``."""
    data_dir: str | None = None
    """Where data sets on disk are looked for; None means the usual places."""
    limit: int | None = None
    """Seeded class-balanced subset: at most this many training and as many test samples."""
    img_size: int | None = None
    """Side of the square input in pixels; None means 32, and 224 for ``folder:PATH``."""
    batch_size: int = 16
    """Samples per update in the first epoch."""
    max_batch_size: int | None = None
    """A schedule never goes above this, nor above the samples there are; None means a default, see
    `largest_batch_size`."""
    epochs: int = 100
    """Epochs of the full run."""
    window_epochs: int = 4
    """First epochs, at the initial batch, that the probe measures and thresholds come from."""
    max_epochs: int | None = None
    """Stop early after this many epochs; the probe sets it to `window_epochs`."""
    seed: int = 0
    """Seeds weights, order of samples, augmentation and dropout."""
    order_seed: int | None = None
    """Seeds order, augmentation and dropout apart from the weights; None means `seed`."""
    device: str = "auto"
    """cuda, mps, cpu, or auto."""
    precision: str = "float32"
    """float32, or bfloat16 autocast."""
    optimizer: str = "sgd"
    """sgd (with momentum) or adamw."""
    lr: float = 0.01
    """Base learning rate at `batch_size`."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-4
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    lr_schedule: str = "fixed"
    """fixed, cosine or step, counted in epochs."""
    lr_rule: str = "none"
    """How the rate follows the batch: none (the paper), linear (SGD) or sqrt (Adam family)."""
    scheduler: str = "fixed"
    """Batch schedule: see `stability_probe.schedulers.SCHEDULERS`."""
    scheduler_args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the batch schedule."""
    reset_moments: bool = False
    """Empty the optimizer's moments at every change of the batch."""
    channels_last: str = "auto"
    """Memory format: on, off, or auto (measured, then chosen)."""
    compile: bool = False
    """Train by `torch.compile`; compiling is off the clock, and an error where it fails."""
    threads: int | None = None
    """CPU threads; None leaves torch's choice."""

    def __post_init__(self) -> None:
        self._make_plain()
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}; use one of {', '.join(allowed)}")
        for name in ("batch_size", "epochs", "window_epochs"):
            _require_between(name, getattr(self, name), 1, MAX_COUNT)
        for name in ("limit", "img_size", "max_batch_size", "max_epochs", "threads"):
            if getattr(self, name) is not None:
                _require_between(name, getattr(self, name), 1, MAX_COUNT)
        for name in ("seed", "order_seed"):
            if getattr(self, name) is not None:
                _require_between(name, getattr(self, name), 0, MAX_SEED)
        for name in ("model", "data", "device", "scheduler"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UsageError(f"{name} is {getattr(self, name)!r}; use a name")
        if not _is_number(self.lr) or not 0 < self.lr < float("inf"):
            raise UsageError(f"lr is {self.lr!r}; use a positive number")
        for name in ("reset_moments", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}; use true or false")
        for name in ("momentum", "weight_decay"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value!r}; use a number of at least 0")
        for name in ("lr", "momentum", "weight_decay"):
            # Equal configs have one id: as JSON, 0 and 0.0 differ.
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "scheduler_args", self._stored_arguments())
        if self.window_epochs > self.epochs:
            raise UsageError(
                f"the window of {self.window_epochs} epochs is longer than the run of "
                f"{self.epochs}; use --window {self.epochs} or less, or more --epochs"
            )
        if self.max_batch_size is not None and self.max_batch_size < self.batch_size:
            raise UsageError(
                f"the largest batch {self.max_batch_size} is below the initial batch "
                f"{self.batch_size}; use --max-batch-size {self.batch_size} or more"
            )

    def _make_plain(self) -> None:
        """A notebook's values become those that a file can hold: paths, and numbers of NumPy."""
        for name, value in vars(self).copy().items():
            if isinstance(value, os.PathLike):
                object.__setattr__(self, name, os.fspath(value))
            elif not isinstance(value, bool):
                object.__setattr__(self, name, _plain_number(value))

    def _stored_arguments(self) -> dict[str, Any]:
        """The schedule's arguments as they are stored and read back, which nobody else holds."""
        if not isinstance(self.scheduler_args, Mapping):
            raise UsageError("scheduler_args must be a table of names and values")
        try:
            text = json.dumps(dict(self.scheduler_args), allow_nan=False, default=_plain_or_fail)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"scheduler_args cannot be stored ({error}); use finite numbers, texts, lists "
                "and tables"
            ) from None
        # One run, one id, whether its reading was named or not.
        named = {"reading": DEFAULT_READING} if self.scheduler == "deba" else {}
        return {**named, **json.loads(text)}

    @property
    def last_epoch(self) -> int:
        """Number of epochs this run trains: `epochs`, or `max_epochs` where that is less."""
        return self.epochs if self.max_epochs is None else min(self.epochs, self.max_epochs)

    @property
    def stream_seed(self) -> int:
        """Seed of everything random after the weights."""
        return self.seed if self.order_seed is None else self.order_seed

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of `to_dict`. Raises `UsageError` for a field this version does not know."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(
                f"unknown setting {unknown[0]!r}; use one of {', '.join(sorted(known))}"
            )
        if "model" not in values:
            raise UsageError("no model is named; give one, such as resnet18")
        return cls(**values)

    def run_id(self) -> str:
        """Readable name with a hash of everything that differs from the defaults.

        Where data lies and the number of threads do not count; a default added later keeps the
        identity of old runs.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        differing = {
            name: value
            for name, value in self.to_dict().items()
            if name not in _NOT_IDENTITY and value != defaults[name] and value != {}
        }
        digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()[:10]
        model, scheduler = (
            as_file_name(name)[-48:].lstrip(".") for name in (self.model, self.scheduler)
        )
        return f"{model}-{scheduler}-s{self.seed}-{digest}"


def memory_flag(memory_format: str) -> str:
    """What `channels_last` is for a memory format, which torch calls contiguous_format and a curve
    contiguous."""
    return "on" if memory_format == "channels_last" else "off"


def run_ids(config: RunConfig) -> frozenset[str]:
    """Every id that a run may be stored under: its memory format was named, or measured."""
    asked = CHOICES["channels_last"]
    return frozenset(dataclasses.replace(config, channels_last=c).run_id() for c in asked)


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """`seeds` as plain numbers. Raises `UsageError` unless there is one at least and none twice:
    two runs of one seed are the same run, and would agree beyond all noise."""
    if not isinstance(seeds, Iterable):
        raise UsageError(f"seeds is {seeds!r}; use a list, such as [0, 1, 2]")
    plain = tuple(_plain_number(seed) for seed in seeds)
    if not plain:
        raise UsageError("no seed is given; use --seeds 0")
    if len(set(plain)) < len(plain):
        twice = next(seed for seed in plain if plain.count(seed) > 1)
        raise UsageError(f"seed {twice} is given twice; name each once")
    return plain


def as_file_name(name: str) -> str:
    """`name` with a dash for all that a file's name had better not hold."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def with_memory_format(config: RunConfig, memory_format: str) -> RunConfig:
    """`config` with the memory format decided, so that paired runs share it."""
    return dataclasses.replace(config, channels_last=memory_flag(memory_format))


def step_id(config: RunConfig) -> str:
    """Name of what decides the speed of a run's steps, and so its memory format and curve.

    Runs that differ in data, seed, rate or schedule only share it, unless the size of the images
    or the largest batch follows from the data.
    """
    names = [
        *("model", "img_size", "batch_size", "max_batch_size", "device", "precision", "optimizer"),
        *("channels_last", "compile"),
    ]
    bound = config.max_batch_size
    if bound is None or (config.limit is not None and config.limit < bound):
        names += ["data", "limit"]
    elif is_own(config.data) or bound > _FEWEST_NAMED:  # named data sets have images of one size
        names.append("data")
    return RunConfig(**{name: getattr(config, name) for name in names}).run_id()


def largest_batch_size(config: RunConfig, num_train: int) -> int:
    """Largest batch a schedule may reach on `num_train` samples: never more than there are.

    Where none is given: the paper's 2048 (arXiv 2511.03809), but never fewer than five updates an
    epoch (our reading for small data).
    """
    unset = max(config.batch_size, min(2048, num_train // 5 // 8 * 8))
    return min(config.max_batch_size or unset, num_train)


def _plain_number(value: Any) -> Any:
    """`value`, as a number of Python where it is one of another library."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


def _plain_or_fail(value: Any) -> Any:
    plain = _plain_number(value)
    if plain is value:
        raise TypeError(f"{type(value).__name__} is no plain value")
    return plain


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_between(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}; use a whole number of at least {least}")
    if value > most:
        raise UsageError(f"{name} is {value!r}; use {most} or less")
