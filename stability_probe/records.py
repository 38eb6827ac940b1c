"""What was measured: frozen records, numbers only, that go to JSON and back unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.notebook import Shown


@dataclass(frozen=True, kw_only=True)
class NoiseScaleRecord:
    """Gradient noise at fixed parameters (McCandlish et al., arXiv 1812.06162, App. A)."""

    trace_sigma: float
    """Unbiased per-sample tr Σ."""
    grad_sq_norm: float
    """Unbiased ‖G‖²; zero or negative means the noise scale is undefined."""
    noise_scale: float | None
    """tr Σ / ‖G‖² in samples, None where undefined."""
    num_samples: int
    """Samples the estimate saw."""
    time_s: float
    """Seconds the pass took, off the training clock."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One number a batch schedule looked at, beside its limit."""

    name: str
    """In words, such as norm variation."""
    value: float | None
    threshold: float | None
    """None where the number is compared with nothing."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One pass over the training data. Times exclude evaluation and noise measurement."""

    epoch: int
    """From 1."""
    batch_size: int
    """Samples per update."""
    micro_batch_size: int
    """Samples per forward and backward; smaller than `batch_size` only where memory forced it, or
    several processes share a batch."""
    lr: float
    updates: int
    samples: int
    loss: float
    """Training loss, mean over samples, as seen while training."""
    grad_norm: float
    """Mean over the measured steps; what the batch size leaves of the samples is a smaller batch
    among them, of a larger norm."""
    grad_norm_sem: float
    """Standard error of that mean."""
    grad_norm_last: float
    """Norm of the last measured mini-batch (the pilot shows it is mostly sampling noise)."""
    grad_component_variance: float
    """Mean over the measured steps."""
    num_measured_steps: int
    grad_norm_variation: float | None
    """Relative change of the epoch-mean norm since the epoch before; None in the first."""
    loss_variation: float | None
    """Relative change of the loss since the epoch before; None in the first."""
    test_loss: float
    test_accuracy: float
    """Fraction of test samples classified correctly."""
    time_s: float
    """Wall-clock seconds of training."""
    cpu_s: float
    """Process CPU seconds of training, all threads."""
    eval_s: float = 0.0
    """Wall-clock seconds of the evaluation that followed."""
    compile_s: float = 0.0
    """Wall-clock seconds of compilation before the epoch, off its clock."""
    noise: NoiseScaleRecord | None = None
    """Measured at the end of the window, and wherever the schedule asks for it."""
    grad_component_variance_last: float | None = None
    """Of the last measured mini-batch."""
    peak_memory_bytes: int | None = None
    """Largest memory while training: allocated on a CUDA device, resident of the process on a
    CPU; None where the system does not tell."""
    action: str = "hold"
    """What the schedule decided after this epoch: increase, rollback or hold."""
    next_batch_size: int = 0
    """Batch of the epoch that follows."""
    reason: str = ""
    """The decision in words."""
    cooldown_left: int = 0
    """Epochs before the batch may change again."""
    evidence: tuple[Evidence, ...] = ()
    """What the decision rests on."""


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """One decision of a schedule, with the rate it led to."""

    epoch: int
    batch_size: int
    """Of the epoch that has ended."""
    action: str
    """increase, rollback or hold."""
    next_batch_size: int
    cooldown_left: int
    """Epochs before the batch may change again."""
    lr: float
    """Of the epoch that has ended."""
    next_lr: float
    reason: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True)
class RunResult(Shown):
    """One finished run."""

    run_id: str
    config: Mapping[str, Any]
    status: str
    """finished or diverged."""
    device: str
    num_params: int
    num_train: int
    num_test: int
    memory_format: str
    environment: Mapping[str, str]
    epochs: tuple[EpochRecord, ...]
    normalization: str = ""
    """batch, layer, group, rms, none or mixed; empty where a run did not record it."""

    @property
    def time_s(self) -> float:
        return sum(e.time_s for e in self.epochs)

    @property
    def cpu_s(self) -> float:
        return sum(e.cpu_s for e in self.epochs)

    @property
    def compile_s(self) -> float:
        """Off the clock: not in `time_s`."""
        return sum(e.compile_s for e in self.epochs)

    @property
    def updates(self) -> int:
        return sum(e.updates for e in self.epochs)

    @property
    def samples(self) -> int:
        return sum(e.samples for e in self.epochs)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Largest of the epochs that know theirs."""
        known = [e.peak_memory_bytes for e in self.epochs if e.peak_memory_bytes is not None]
        return max(known, default=None)

    @property
    def final_accuracy(self) -> float:
        """Test accuracy after the last epoch, never the best one."""
        return self.epochs[-1].test_accuracy

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(e.batch_size for e in self.epochs)

    def __rich__(self) -> Any:
        from stability_probe.run_summary import run_table

        return run_table(self)

    def plot(self, figure: Any = None) -> list[Any]:
        """Axes of the panels of `probe plot`, in `figure` or a new matplotlib figure."""
        from stability_probe.plots import plot_run

        return list(plot_run(self, figure))


@dataclass(frozen=True, kw_only=True)
class ThroughputPoint:
    """Training speed at one batch size."""

    batch_size: int
    samples_per_s: float
    spread: float
    """(slowest − fastest) / median of the repeated timings."""


@dataclass(frozen=True, kw_only=True)
class ThroughputCurve:
    """Training samples/s against batch size on one device."""

    points: tuple[ThroughputPoint, ...]
    """In rising order of batch size."""
    memory_format: str
    """channels_last or contiguous."""
    memory_format_reason: str
    busy: bool
    """Repeated timings disagreed: something else was running."""
    stopped_by: str | None = None
    """Why the curve ends before the largest batch: out of memory."""
    time_s: float = 0.0
    """Seconds the measurement took."""
    device_name: str = ""
    """Where it was measured; empty in curves stored before it was recorded."""


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Mean over seeds, with the sample standard deviation (None for a single seed)."""

    mean: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a fixed-batch run says epoch by epoch, as far as a prediction looks at it.

    Every tuple has one entry an epoch.
    """

    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    """Epoch means."""
    grad_norms_last: tuple[float, ...]
    """Of the last measured mini-batch."""
    grad_component_variances: tuple[float, ...]
    """Epoch means."""
    trace_sigma: float | None
    """At the end of the probe's window; None where it was not measured."""
    grad_sq_norm: float | None

    def first(self, epochs: int) -> Profile:
        """The same run's first epochs; the noise is that of the probe's window."""
        return Profile(
            losses=self.losses[:epochs],
            grad_norms=self.grad_norms[:epochs],
            grad_norms_last=self.grad_norms_last[:epochs],
            grad_component_variances=self.grad_component_variances[:epochs],
            trace_sigma=self.trace_sigma,
            grad_sq_norm=self.grad_sq_norm,
        )


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """How large a model is, for images of one shape."""

    num_params: int
    """Trainable."""
    num_macs: int
    """Multiply-adds of the forward pass of one image."""
    num_tensors: int
    """Trainable parameter tensors: the more, the more kernels an update launches."""
    num_norm_layers: int
    normalization: str
    """batch, layer, group, rms, none or mixed."""


@dataclass(frozen=True, kw_only=True)
class StabilityMetrics:
    """What the window of one run says about gradient stability."""

    stability_score: float
    """In (0, 1]; 1 is perfectly steady."""
    grad_norm_variation: float
    """Mean over the window's epochs."""
    grad_component_variance: float
    loss_variation: float
    noise_scale: float | None
    """In samples, at the end of the window; None where undefined."""


@dataclass(frozen=True, kw_only=True)
class Characterization(Shown):
    """Everything the probe measured, before any prediction."""

    config: Mapping[str, Any]
    """The `RunConfig` of the full run it speaks of (seed of the first window)."""
    seeds: tuple[int, ...]
    device: str
    num_params: int
    num_train: int
    num_test: int
    max_batch_size: int
    """Largest batch the schedule may reach."""
    normalization: str
    """batch, layer, group, rms, none or mixed."""
    metrics: tuple[StabilityMetrics, ...]
    """One a seed."""
    windows: tuple[tuple[EpochRecord, ...], ...]
    """The window's epochs, one tuple a seed."""
    curve: ThroughputCurve
    probe_s: float
    """Seconds the windows took: training, evaluation and noise; throughput curve apart."""
    environment: Mapping[str, str]
    size: ModelSize | None = None
    """None in characterizations stored before it was recorded."""

    @property
    def compile_s(self) -> float:
        """Seconds of `probe_s` that compilation took."""
        return sum(e.compile_s for window in self.windows for e in window)

    def __rich__(self) -> Any:
        from stability_probe.probe_summary import measured_table

        return measured_table(self)

    def plot(self, figure: Any = None) -> list[Any]:
        """Axes of the panels of `probe plot`, in `figure` or a new matplotlib figure."""
        from stability_probe.plots import plot_characterization

        return list(plot_characterization(self, figure))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the adaptive schedule is expected to do for this model on this device."""

    verdict: str
    """adapt, keep_fixed or abstain."""
    probability_of_benefit: float
    time_saved_pct: float
    time_saved_interval_pct: tuple[float, float] | None
    """None where the corpus does not speak for the case, or is too small to tell."""
    accuracy_delta_pp: float
    accuracy_delta_interval_pp: tuple[float, float] | None
    interval_level: float
    """Nominal coverage of both intervals."""
    reason: str
    """Why this verdict, in a sentence."""
    basis: str
    """What it rests on: corpus size and its leave-one-family-out score."""
    alternative: str | None = None
    """A plainer choice that would save as much, where there is one."""
    measured_before: str | None = None
    """What the corpus measured of this very model, where it did."""
    limits: Limits = DEFAULT_LIMITS
    """What was taken for a benefit."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Adaptive against fixed, one pair of full runs with the same seed."""

    seed: int
    time_saved_pct: float
    accuracy_delta_pp: float
    updates_saved_pct: float
    time_to_target_saved_pct: float
    """-inf where the adaptive run never reached the target."""
    benefit_class: str
    """benefits, neutral or harms, by the limits of the prediction that it is held against."""
    fixed_scatter_pp: float | None = None
    """How far the fixed run's accuracy moves from epoch to epoch at its end, percentage points; see
    `metrics.accuracy_scatter_pp`."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One arm of a study against another, paired by seed."""

    values: tuple[float, ...]
    """One a seed."""
    mean: float
    std: float | None
    """Sample standard deviation over seeds; None for a single one."""
    p_value: float | None
    """Of a paired t-test, corrected for the number of comparisons; None for a single seed."""
    larger_than_noise: bool
    """The test rejects, and the mean exceeds what another order of samples alone does."""
    resolution: float = 0.0
    """Step in which the values compared are known: an accuracy comes in whole test samples."""


@dataclass(frozen=True, kw_only=True)
class ArmOutcome:
    """What one arm of a study did over all seeds, and how it differs from the reference."""

    name: str
    role: str
    """reference, noise, fixed, decay, schedule or control."""
    run_ids: tuple[str, ...]
    """One a seed."""
    status: str
    """finished, diverged (in some seed) or failed (a run is missing)."""
    time_s: MeanStd | None
    """On the clock of the study; this and what follows is None unless the arm is finished."""
    accuracy: MeanStd | None
    """Final test accuracy, a fraction."""
    updates: float | None
    samples: float | None
    mean_batch_size: float | None
    """Over the epochs."""
    peak_memory_bytes: int | None
    """Largest of the seeds; None where runs did not record it."""
    time_to_target_s: tuple[float | None, ...]
    """One a seed: until the reference's final accuracy minus 0.5 pp; None on a miss."""
    time_saved_pct: Difference | None
    """As measured; None also where the runs of a pair are of two machines."""
    curve_saved_pct: Difference | None
    """By the batch sizes and the throughput curve of a quiet machine; what a schedule measures
    for itself is not in it."""
    accuracy_delta_pp: Difference | None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two arms of a study set against each other: what one has that the other has not."""

    name: str
    arm: str
    against: str
    time_saved_pct: Difference | None
    """As in `ArmOutcome`; None also where both take as long by their making."""
    curve_saved_pct: Difference | None
    accuracy_delta_pp: Difference


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper, judged by a study."""

    text: str
    verdict: str
    """held, not held or not decided."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """Several arms of full runs on one model, paired by seed."""

    config: Mapping[str, Any]
    """Of the reference, with the first seed."""
    seeds: tuple[int, ...]
    reference: str
    """Name of the arm that all others are compared with."""
    clock: str
    """cpu_s or time_s: which seconds the study compares."""
    environment: Mapping[str, str]
    """Of the reference, with the first seed."""
    curve: ThroughputCurve
    noise_time_pct: float | None
    """Largest difference in time of an A/A pair; None where none was run on one machine."""
    noise_accuracy_pp: float | None
    detectable_sd: float | None
    """A mean difference of this many of its standard deviations passes the test, whatever others
    do; None for a single seed, where nothing can."""
    arms: tuple[ArmOutcome, ...]
    contrasts: tuple[Contrast, ...]
    claims: tuple[Claim, ...]
    advice: str
    """What to do, in a sentence or two."""
    machines: tuple[str, ...] = ()
    """All that its runs were made on, in words; empty in studies stored before it was recorded."""
    limits: Limits = DEFAULT_LIMITS
    """What was taken for a benefit."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A prediction beside what full runs measured."""

    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    prediction: Prediction
    comparisons: tuple[Comparison, ...]
    time_saved_pct: MeanStd
    accuracy_delta_pp: MeanStd
    updates_saved_pct: float
    time_to_target_saved_pct: float | None
    """Mean over seeds; None where a seed never reached its target."""
    benefit_class: str
    """Of the mean outcome, by the limits of the prediction."""
    inside_interval: bool | None
    """Both means lie inside their predicted intervals."""
    class_correct: bool | None
    """None when the prediction abstained."""
