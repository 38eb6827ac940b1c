"""The corpus: paired full runs, one row a comparison, with what every label needs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from predictor.features import family
from stability_probe import metrics
from stability_probe.errors import MissingError
from stability_probe.folders import data_home
from stability_probe.limits import Limits
from stability_probe.records import (
    ModelSize,
    Profile,
    RunResult,
    StabilityMetrics,
    ThroughputCurve,
    ThroughputPoint,
)

CORPUS_READING = {"reading": "eager"}
"""Arguments of DEBA in the shipped corpus's runs; predictions speak of this reading alone."""
PROFILE_EPOCHS = 15
"""Epochs of the fixed run whose signals a row keeps: DEBA's window in the paper."""
END_EPOCHS = 5
"""At the end of a run: which of them it ends with is luck, so that each tells what came of it."""
_SIGNALS = ("losses", "grad_norms", "grad_norms_last", "grad_component_variances")
PROFILE_COLUMNS = tuple(f"profile_{name}" for name in _SIGNALS)
CONFIG_COLUMNS = (
    *("model", "data", "seed", "epochs", "window_epochs", "optimizer", "lr", "lr_schedule"),
    *("lr_rule", "momentum", "weight_decay", "reset_moments", "precision"),
)
"""What both runs of a row share of their `RunConfig`, under the same names."""


@dataclass(frozen=True, kw_only=True)
class CorpusRow:
    """One adaptive run beside the fixed run with the same seed."""

    model: str
    family: str
    data: str
    seed: int
    arm: str
    """Name of the second run's schedule in the sweep."""
    scheduler: str
    scheduler_args: str
    """As JSON."""
    optimizer: str
    lr: float
    adaptive_lr: float
    """Base rate of the second run; a fixed larger batch may have another."""
    lr_schedule: str
    lr_rule: str
    momentum: float
    weight_decay: float
    reset_moments: bool
    precision: str
    num_params: int
    num_macs: int
    num_tensors: int
    num_norm_layers: int
    normalization: str
    num_train: int
    num_test: int
    epochs: int
    window_epochs: int
    max_batch_size: int
    fixed_status: str
    adaptive_status: str
    fixed_batch_sizes: tuple[int, ...]
    """By epoch."""
    adaptive_batch_sizes: tuple[int, ...]
    fixed_accuracies: tuple[float, ...]
    """Test accuracy by epoch, a fraction."""
    adaptive_accuracies: tuple[float, ...]
    fixed_cpu_s: tuple[float, ...]
    """Process CPU seconds of training by epoch (one thread)."""
    adaptive_cpu_s: tuple[float, ...]
    fixed_wall_s: float
    adaptive_wall_s: float
    fixed_updates: int
    adaptive_updates: int
    profile_losses: tuple[float, ...]
    """Of the fixed run's first `PROFILE_EPOCHS` epochs; see `Profile`."""
    profile_grad_norms: tuple[float, ...]
    profile_grad_norms_last: tuple[float, ...]
    profile_grad_component_variances: tuple[float, ...]
    trace_sigma: float | None
    grad_sq_norm: float | None
    curve_batch_sizes: tuple[int, ...]
    """Of the device the runs were made on, measured while nothing else ran."""
    curve_samples_per_s: tuple[float, ...]
    curve_busy: bool
    """Whether something else did run: predictions do not count such a row."""
    memory_format: str
    device: str
    device_name: str
    torch: str
    fixed_run_id: str
    adaptive_run_id: str

    @property
    def all_but_seed(self) -> tuple[object, ...]:
        """What rows have in common that differ in the seed, the schedule or the machine alone."""
        names = (*CONFIG_COLUMNS, "num_params", "num_macs", "num_train", "num_test")
        shared = (getattr(self, name) for name in names if name != "seed")
        return (*shared, self.fixed_batch_sizes[0], self.max_batch_size)

    @property
    def pair_id(self) -> tuple[str, str]:
        """The ids of the two runs, which say what a row compares."""
        return self.fixed_run_id, self.adaptive_run_id

    @property
    def curve(self) -> ThroughputCurve:
        """The throughput curve of the machine the row was measured on."""
        return ThroughputCurve(
            points=tuple(
                ThroughputPoint(batch_size=b, samples_per_s=s, spread=0.0)
                for b, s in zip(self.curve_batch_sizes, self.curve_samples_per_s, strict=True)
            ),
            memory_format=self.memory_format,
            memory_format_reason="",
            busy=self.curve_busy,
        )

    @property
    def profile(self) -> Profile:
        """The fixed run's first epochs, signal by signal."""
        return Profile(
            losses=self.profile_losses,
            grad_norms=self.profile_grad_norms,
            grad_norms_last=self.profile_grad_norms_last,
            grad_component_variances=self.profile_grad_component_variances,
            trace_sigma=self.trace_sigma,
            grad_sq_norm=self.grad_sq_norm,
        )

    @property
    def size(self) -> ModelSize:
        """The model's size for this data."""
        return ModelSize(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ModelSize)})

    @property
    def window(self) -> StabilityMetrics:
        """What the probe's window of the fixed run says."""
        return metrics.stability_metrics(self.profile.first(self.window_epochs))

    @property
    def time_saved_pct(self) -> float:
        """As measured: CPU seconds on a CPU, wall clock elsewhere, as `compare_runs` does; nothing
        where the run diverged."""
        if self.adaptive_status == "diverged":
            return 0.0
        if self.device == "cpu":
            return metrics.saved_pct(sum(self.adaptive_cpu_s), sum(self.fixed_cpu_s))
        return metrics.saved_pct(self.adaptive_wall_s, self.fixed_wall_s)

    @property
    def curve_saved_pct(self) -> float:
        """Of both runs' batch sizes, by the throughput curve of the same machine when quiet."""
        return self.saved_pct_on(self.curve)

    def saved_pct_on(self, curve: ThroughputCurve) -> float:
        """Time that the batch sizes save on the machine of `curve`: rows of several machines are
        compared on one. A run that diverged saves nothing: it has to be made again.
        """
        if self.adaptive_status == "diverged":
            return 0.0
        times = [
            float(metrics.path_time_s(curve, sizes, self.num_train))
            for sizes in (self.adaptive_batch_sizes, self.fixed_batch_sizes)
        ]
        return metrics.saved_pct(*times)

    @property
    def accuracy_delta_pp(self) -> float:
        """Final epoch, adaptive minus fixed; a run that diverged leaves no model, so 0 %."""
        if self.adaptive_status == "diverged":
            return metrics.accuracy_delta_pp(0.0, self.fixed_accuracies[-1])
        return metrics.accuracy_delta_pp(self.adaptive_accuracies[-1], self.fixed_accuracies[-1])

    @property
    def end_deltas_pp(self) -> tuple[float, ...]:
        """`accuracy_delta_pp` if both runs had stopped at each of their last `END_EPOCHS` epochs,
        but at most a quarter of them; they end with the last."""
        if self.adaptive_status == "diverged":
            return (self.accuracy_delta_pp,)
        count = max(1, min(END_EPOCHS, len(self.fixed_accuracies) // 4))
        ends = zip(self.adaptive_accuracies[-count:], self.fixed_accuracies[-count:], strict=True)
        return tuple(metrics.accuracy_delta_pp(adaptive, fixed) for adaptive, fixed in ends)

    def benefit_share(self, limits: Limits, curve: ThroughputCurve | None = None) -> float:
        """Share of `end_deltas_pp` that are a benefit, by the time that the whole run saves on
        `curve`, its own by default."""
        saved = self.saved_pct_on(curve or self.curve)
        return metrics.class_share("benefits", saved, self.end_deltas_pp, limits)

    def benefit_class(self, limits: Limits) -> str:
        """benefits, neutral or harms, by the curve: neighbours on the machine decide no label."""
        return metrics.benefit_class(self.curve_saved_pct, self.accuracy_delta_pp, limits)


def make_row(
    fixed: RunResult,
    adaptive: RunResult,
    curve: ThroughputCurve,
    *,
    arm: str,
    size: ModelSize,
    max_batch_size: int,
) -> CorpusRow:
    """A row from two runs that share a seed and the curve of their machine."""
    config = fixed.config
    profile = metrics.profile(fixed.epochs[:PROFILE_EPOCHS])
    return CorpusRow(
        **{n: config[n] for n in CONFIG_COLUMNS},
        **dataclasses.asdict(size),
        **{c: getattr(profile, n) for c, n in zip(PROFILE_COLUMNS, _SIGNALS, strict=True)},
        trace_sigma=profile.trace_sigma,
        grad_sq_norm=profile.grad_sq_norm,
        family=family(config["model"]),
        arm=arm,
        scheduler=adaptive.config["scheduler"],
        scheduler_args=json.dumps(adaptive.config["scheduler_args"], sort_keys=True),
        adaptive_lr=adaptive.config["lr"],
        num_train=fixed.num_train,
        num_test=fixed.num_test,
        max_batch_size=max_batch_size,
        fixed_status=fixed.status,
        adaptive_status=adaptive.status,
        fixed_batch_sizes=fixed.batch_sizes,
        adaptive_batch_sizes=adaptive.batch_sizes,
        fixed_accuracies=tuple(e.test_accuracy for e in fixed.epochs),
        adaptive_accuracies=tuple(e.test_accuracy for e in adaptive.epochs),
        fixed_cpu_s=tuple(round(e.cpu_s, 4) for e in fixed.epochs),
        adaptive_cpu_s=tuple(round(e.cpu_s, 4) for e in adaptive.epochs),
        fixed_wall_s=fixed.time_s,
        adaptive_wall_s=adaptive.time_s,
        fixed_updates=fixed.updates,
        adaptive_updates=adaptive.updates,
        curve_batch_sizes=tuple(p.batch_size for p in curve.points),
        curve_samples_per_s=tuple(p.samples_per_s for p in curve.points),
        curve_busy=curve.busy,
        memory_format=fixed.memory_format,
        device=fixed.device,
        device_name=fixed.environment.get("device_name", ""),
        torch=fixed.environment.get("torch", ""),
        fixed_run_id=fixed.run_id,
        adaptive_run_id=adaptive.run_id,
    )


def own_corpus_path() -> Path:
    """Where a user's own rows are kept, below `data_home`."""
    return data_home() / "corpus.csv"


def corpus_path() -> Path:
    """The shipped corpus: in the package, or in the checkout's data/."""
    installed = Path(str(resources.files("predictor"))) / "corpus_data" / "corpus.csv"
    checkout = Path(__file__).parent.parent / "data" / "corpus.csv"
    for path in (installed, checkout):
        if path.exists():
            return path
    raise MissingError(f"no corpus at {installed} or {checkout}; install the package again")


def load_corpus(path: Path | None = None) -> list[CorpusRow]:
    """All rows. Raises `MissingError` naming the line that cannot be read."""
    path = path or corpus_path()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise MissingError(f"cannot read {path}: {cause}") from error
    rows: list[CorpusRow] = []
    names = [f.name for f in dataclasses.fields(CorpusRow)]
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        columns = set(reader.fieldnames or ())
        if columns.isdisjoint(names):
            raise MissingError(f"{path} is no corpus; use a file that probe corpus build wrote")
        differing = sorted(columns.symmetric_difference(names))
        if differing:
            raise MissingError(
                f"{path} is not a corpus of this version: it differs in the column {differing[0]}; "
                "move it away and make it anew by probe corpus build or add"
            )
        for values in reader:
            rows.append(_parse_row(values))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise MissingError(f"{path} is damaged in line {len(rows) + 2}: {error}") from error
    return rows


def known_paths() -> list[Path]:
    """Files of the shipped rows, and of the user's own where there are any."""
    own = own_corpus_path()
    return [corpus_path(), *([own] if own.exists() else [])]


def load_rows(paths: Iterable[Path]) -> list[CorpusRow]:
    """Rows of several files; what an earlier one compares counts once. Raises as `load_corpus`."""
    rows: list[CorpusRow] = []
    for path in paths:
        rows += not_among(rows, load_corpus(path))
    return rows


def load_with(path: Path, added: Sequence[CorpusRow]) -> list[CorpusRow]:
    """The rows of a file, where there is one, and these, which replace what they compare again.

    Raises as `load_corpus`.
    """
    before = load_corpus(path) if path.exists() else []
    return [*not_among(added, before), *added]


def not_among(known: Iterable[CorpusRow], rows: Iterable[CorpusRow]) -> list[CorpusRow]:
    """The rows that compare what none of `known` does."""
    compared = {row.pair_id for row in known}
    return [row for row in rows if row.pair_id not in compared]


def in_order(rows: Iterable[CorpusRow]) -> list[CorpusRow]:
    """Rows in an order of their own, so that the order of measurement leaves no trace."""
    return sorted(rows, key=lambda r: (r.family, r.model, r.data, r.arm, r.seed, *r.pair_id))


def format_corpus(rows: Iterable[CorpusRow]) -> str:
    """Rows as CSV, in order."""
    names = [f.name for f in dataclasses.fields(CorpusRow)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in in_order(rows):
        writer.writerow([format_cell(getattr(row, name)) for name in names])
    return buffer.getvalue()


def format_cell(value: Any) -> str:
    """A field as it stands in the file: floats have six digits."""
    if isinstance(value, tuple):
        return " ".join(format_cell(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _parse_row(values: Mapping[str | None, str | None]) -> CorpusRow:
    if None in values or None in values.values():
        raise ValueError("it has more or fewer cells than the header")
    return CorpusRow(
        **{f.name: _parse(str(f.type), str(values[f.name])) for f in dataclasses.fields(CorpusRow)}
    )


def _parse(kind: str, text: str) -> Any:
    if kind.startswith("tuple"):
        item = "int" if "int" in kind else "float"
        return tuple(_parse(item, part) for part in text.split())
    if kind.startswith("float | None") and text == "":
        return None
    if kind.startswith("float"):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text!r} is not a finite number")
        return number
    if kind == "bool":
        return {"True": True, "False": False}[text]
    return int(text) if kind == "int" else text
