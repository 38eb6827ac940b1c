"""The training loop against plain PyTorch, and the invariants of an epoch."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stability_probe import loop, metrics, noise_pass, step
from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, normalize
from stability_probe.device import peak_memory, reset_peak_memory
from stability_probe.distributed import World
from stability_probe.errors import DivergedError, UsageError
from stability_probe.loop import evaluate, train
from stability_probe.order import batch_lengths, epoch_batches, generator_for
from stability_probe.records import EpochRecord, NoiseScaleRecord
from stability_probe.state import make_state
from tests.tiny import blobs

CONFIG = RunConfig(
    model="tests.tiny:net",
    data="tests.tiny:blobs",
    epochs=6,
    window_epochs=2,
    device="cpu",
    channels_last="off",
)


def with_fields(**fields: Any) -> RunConfig:
    return dataclasses.replace(CONFIG, **fields)


def train_all(config: RunConfig, dataset: Dataset) -> list[EpochRecord]:
    return list(train(make_state(config, dataset), dataset, config))


def timeless(record: EpochRecord) -> EpochRecord:
    noise = dataclasses.replace(record.noise, time_s=0.0) if record.noise else None
    told: dict[str, Any] = {"time_s": 0.0, "cpu_s": 0.0, "eval_s": 0.0, "peak_memory_bytes": None}
    return dataclasses.replace(record, **told, noise=noise)


@given(st.integers(2, 300), st.integers(2, 64), st.integers(0, 5))
def test_every_sample_once_an_epoch_and_never_a_batch_of_one(
    samples: int, batch_size: int, seed: int
) -> None:
    batches = epoch_batches(samples, batch_size, torch.Generator().manual_seed(seed))
    assert sorted(torch.cat(batches).tolist()) == list(range(samples))
    assert min(len(b) for b in batches) > 1
    assert max(len(b) for b in batches) <= batch_size + 1
    assert all(len(b) == batch_size for b in batches[:-1])
    assert batch_lengths(samples, batch_size) == [len(b) for b in batches]


def test_an_epoch_is_that_of_a_plain_loop() -> None:
    """Same weights, same loss, and the norm of every step, written out by hand."""
    dataset = blobs()
    config = with_fields(model="tests.tiny:plain", epochs=1, window_epochs=1)
    state = make_state(config, dataset)
    other = make_state(config, dataset)
    optimizer = torch.optim.SGD(other.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    (record,) = train(state, dataset, config)
    losses, norms, variances = [], [], []
    for batch in epoch_batches(97, 16, generator_for(0, 1, "order")):
        images = normalize(dataset.train_images[batch], dataset)
        loss = F.cross_entropy(other.model(images), dataset.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        flat = torch.cat([p.grad.flatten() for p in other.model.parameters()])  # type: ignore[union-attr]
        norms.append(flat.norm().item())
        variances.append(flat.var(unbiased=False).item())
        optimizer.step()
        losses += [loss.item()] * len(batch)
    for mine, plain in zip(state.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(mine, plain)
    assert record.loss == pytest.approx(sum(losses) / 97, rel=1e-5)
    assert record.grad_norm == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert record.grad_norm_last == pytest.approx(norms[-1], rel=1e-5)
    mean_variance = sum(variances) / len(variances)
    assert record.grad_component_variance == pytest.approx(mean_variance, rel=1e-4)
    assert (record.updates, record.samples, record.num_measured_steps) == (6, 97, 6)


class Traffic(TorchDispatchMode):
    """Counts numbers read by the host, which wait for the device, and values sent to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.sent: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.reads += func in waits
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, out) if isinstance(x, torch.Tensor)]
        if len({x.device.type for x in tensors if x.dim()}) > 1:
            self.sent += [x.numel() for x in tensors if x.device.type == "cpu"]
        return out


def test_a_step_with_signals_waits_for_no_number() -> None:
    """On a device that computes on its own, as a GPU does, each would stall it."""
    dataset = blobs()
    state = make_state(CONFIG, dataset)
    state.model.train()
    sums = torch.zeros(2)
    with Traffic() as traffic:
        images, labels = step.load_batch(dataset, torch.arange(16), state, torch.Generator())
        loss = step.train_step(state, dataset, images, labels, "float32", sums)
    assert traffic.reads == 0
    assert sums[0] > 0
    with Traffic() as traffic:
        loss.item()
    assert traffic.reads == 1


def test_a_step_sends_its_draws_to_the_device_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three numbers an image: its index is there already, its pixels never leave."""
    monkeypatch.setattr(step, "autocast", lambda *_: nullcontext())  # unknown to this device
    dataset = dataclasses.replace(blobs(), augment=True)
    state = make_state(CONFIG, dataset)
    there = torch.device("meta")
    state.model.to(there).train()
    state.device = there
    data = dataset.to(there)
    normalize(data.train_images[:2], data)
    shuffle = generator_for(0, 1, "order")
    batches = epoch_batches(len(data.train_labels), 16, shuffle, device=there)
    sums = torch.zeros(2, device=there)
    with Traffic() as traffic:
        images, labels = step.load_batch(data, batches[0], state, torch.Generator())
        step.train_step(state, data, images, labels, "float32", sums)
    assert (traffic.reads, traffic.sent) == (0, [3 * 16])


@pytest.mark.gpu
def test_no_step_of_an_epoch_waits_for_a_gpu() -> None:
    """The same, told by the device itself; only whole epochs are waited for."""
    dataset = dataclasses.replace(blobs(), augment=True)
    state = make_state(with_fields(device="cuda"), dataset)
    state.model.train()
    data = dataset.to("cuda")
    batches = epoch_batches(len(data.train_labels), 16, torch.Generator(), device=state.device)
    sums = torch.zeros(2, device=state.device)

    def steps() -> None:
        for batch in batches:
            images, labels = step.load_batch(data, batch, state, torch.Generator())
            step.train_step(state, data, images, labels, "float32", sums)

    steps()  # sets up what waits once: libraries, pinned memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_evaluation_is_the_plain_mean_and_changes_nothing() -> None:
    dataset = blobs(num_test=300)
    state = make_state(CONFIG, dataset)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    loss, accuracy = evaluate(state, dataset, CONFIG)
    state.model.eval()
    with torch.no_grad():
        logits = state.model(normalize(dataset.test_images, dataset))
    assert loss == pytest.approx(F.cross_entropy(logits, dataset.test_labels).item(), rel=1e-5)
    hits = (logits.argmax(1) == dataset.test_labels).float().mean().item()
    assert accuracy == pytest.approx(hits)
    assert accuracy == round(300 * accuracy) / 300, "a quotient of whole numbers, to the bit"
    assert all(torch.equal(v, before[k]) for k, v in state.model.state_dict().items())


class Keeps(nn.Module):
    """Keeps a tensor from its first pass, as a mask or table of positions is kept by shape."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.kept: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(images)
        if self.kept is None:
            self.kept = torch.ones_like(out[:1])
        return out * self.kept


def test_what_a_model_keeps_from_an_evaluation_can_be_trained_with() -> None:
    dataset = blobs()
    state = make_state(CONFIG, dataset)
    state.model = Keeps(state.model)
    state.forward = state.model
    evaluate(state, dataset, CONFIG)
    state.model.train()
    images, labels = step.load_batch(dataset, torch.arange(16), state)
    assert step.train_step(state, dataset, images, labels, "float32").isfinite()


@pytest.mark.parametrize("limit", [256, 100, 3, 1])
def test_evaluation_that_exceeds_the_memory_is_done_in_parts(limit: int) -> None:
    dataset = blobs(num_test=301)
    config = dataclasses.replace(CONFIG, batch_size=64)
    state = make_state(config, dataset)
    whole = evaluate(state, dataset, config)
    failures = 0

    def fits(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal failures
        if len(inputs[0]) > limit:
            failures += 1
            raise torch.OutOfMemoryError("no memory for so many samples")

    with state.model.register_forward_pre_hook(fits):
        parts = evaluate(state, dataset, config)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert failures == max(0, math.ceil(math.log2(256 / limit)))


@pytest.mark.parametrize(("batch_size", "at_once"), [(2, 64), (16, 64), (32, 128), (97, 256)])
def test_evaluation_takes_four_training_batches_at_once(batch_size: int, at_once: int) -> None:
    dataset = blobs(num_test=301)
    config = dataclasses.replace(CONFIG, batch_size=batch_size)
    state = make_state(config, dataset)
    seen: list[int] = []
    with state.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))):
        evaluate(state, dataset, config)
    assert max(seen) == at_once
    assert sum(seen) == 301


def test_evaluation_without_memory_for_a_sample_is_an_error() -> None:
    dataset = blobs()
    state = make_state(CONFIG, dataset)

    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with state.model.register_forward_pre_hook(fails), pytest.raises(torch.OutOfMemoryError):
        evaluate(state, dataset, CONFIG)


def test_it_learns() -> None:
    records = train_all(with_fields(lr=0.05, epochs=8), blobs())
    assert records[-1].test_accuracy > 0.9
    assert records[-1].loss < records[0].loss


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    dataset = blobs()
    first, second = (train_all(CONFIG, dataset) for _ in range(2))
    assert [timeless(r) for r in first] == [timeless(r) for r in second]
    assert train_all(with_fields(seed=1), dataset)[0].loss != first[0].loss


@pytest.mark.parametrize("scheduler", ["fixed", "deba"])
def test_a_window_is_the_first_epochs_of_the_full_run(scheduler: str) -> None:
    dataset = blobs()
    window = train_all(with_fields(max_epochs=2), dataset)
    full = train_all(with_fields(scheduler=scheduler), dataset)
    told: dict[str, Any] = {"reason": "", "evidence": (), "cooldown_left": 0}
    assert [dataclasses.replace(timeless(r), **told) for r in window] == [
        dataclasses.replace(timeless(r), **told) for r in full[:2]
    ]


def test_the_noise_measurement_leaves_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = blobs()
    measured = train_all(CONFIG, dataset)
    nothing = metrics.noise_scale([1.0, 1.0], 1.0, 8)
    monkeypatch.setattr(loop, "measure_noise_scale", lambda *_: nothing)
    skipped = train_all(CONFIG, dataset)
    assert measured[1].noise not in (None, nothing)
    assert [dataclasses.replace(timeless(r), noise=None) for r in measured] == [
        dataclasses.replace(timeless(r), noise=None) for r in skipped
    ]


def test_noise_scale_is_that_of_per_sample_gradients() -> None:
    """For a net without BatchNorm, tr Σ and ‖G‖² follow from every sample's own gradient."""
    dataset = blobs(num_train=2048)
    config = with_fields(model="tests.tiny:plain", window_epochs=6)
    state = make_state(config, dataset)
    params = dict(state.model.named_parameters())

    def loss_of(p: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(state.model, p, (x[None],))
        return F.cross_entropy(logits, y[None])

    per_sample = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0, 0))(
        {k: v.detach() for k, v in params.items()},
        normalize(dataset.train_images, dataset),
        dataset.train_labels,
    )
    g = torch.cat([v.flatten(1) for v in per_sample.values()], dim=1).double()
    trace, sq_norm = g.var(dim=0).sum().item(), g.mean(dim=0).square().sum().item()
    estimates = [
        noise_pass.measure_noise_scale(
            state, dataset, dataclasses.replace(config, seed=seed), share=0.18
        )
        for seed in range(40)
    ]
    mean = {
        name: torch.tensor([getattr(e, name) for e in estimates]).double()
        for name in ("trace_sigma", "grad_sq_norm")
    }
    for name, truth in (("trace_sigma", trace), ("grad_sq_norm", sq_norm)):
        error = (mean[name].mean() - truth).abs()
        assert error < 4 * mean[name].std() / 40**0.5 + 0.02 * truth, name


@pytest.mark.parametrize(("processes", "size"), [(1, 16), (2, 8), (3, 6)])
def test_a_noise_pass_takes_no_more_at_once_than_training_does(
    processes: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, sizes = blobs(num_train=2048), []
    state = make_state(CONFIG, dataset)
    state.world = World(size=processes)
    load = step.load_batch

    def spy(data: Any, batch: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(batch))
        return load(data, batch, *rest)

    monkeypatch.setattr(noise_pass, "load_batch", spy)
    noise_pass.measure_noise_scale(state, dataset, CONFIG, share=0.1)
    assert set(sizes) == {size}


def test_an_adaptive_run_trains_with_the_batch_it_decided() -> None:
    dataset = blobs(num_train=400)
    args = {"cooldown": 1, "tolerance": 100.0}
    records = train_all(with_fields(scheduler="deba", scheduler_args=args), dataset)
    sizes = [r.batch_size for r in records]
    assert sizes[1:] == [r.next_batch_size for r in records[:-1]]
    assert sizes[:3] == [16, 16, 16]
    assert sizes[3:] == [24, 40, 64]
    assert [r.updates for r in records] == [-(-400 // b) for b in sizes]
    assert {r.samples for r in records} == {400}


def test_the_rate_follows_the_batch_when_asked() -> None:
    args = {"cooldown": 1, "tolerance": 100.0}
    config = with_fields(scheduler="deba", scheduler_args=args, lr_rule="linear")
    records = train_all(config, blobs(num_train=400))
    assert [r.lr for r in records] == pytest.approx([0.01 * r.batch_size / 16 for r in records])


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    dataset = blobs()
    config = with_fields(lr=1e20, model="tests.tiny:plain")
    with pytest.raises(DivergedError, match="non-finite in epoch"):
        train_all(config, dataset)


def test_a_gradient_that_is_not_finite_ends_the_run_though_the_loss_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An overflow in backward alone, before any loss, of training or of the test, shows it."""
    monkeypatch.setattr(loop, "evaluate", lambda *_: (0.5, 0.5))
    dataset = blobs()
    config = with_fields(epochs=2, batch_size=len(dataset.train_labels))
    state = make_state(config, dataset)
    next(state.model.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError, match="non-finite in epoch 1"):
        list(train(state, dataset, config))


def test_bfloat16_autocast_trains_float32_weights() -> None:
    dataset = blobs()
    config = with_fields(precision="bfloat16", epochs=2)
    state = make_state(config, dataset)
    records = list(train(state, dataset, config))
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    full = train_all(with_fields(epochs=2), dataset)
    assert records[0].loss != full[0].loss
    assert records[0].loss == pytest.approx(full[0].loss, rel=0.05)


def test_channels_last_changes_the_layout_not_the_result() -> None:
    dataset = blobs()
    config = with_fields(channels_last="on", epochs=2)
    state = make_state(config, dataset)
    weight = next(state.model.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    records = list(train(state, dataset, config))
    assert records[1].loss == pytest.approx(
        train_all(with_fields(epochs=2), dataset)[1].loss, rel=1e-3
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 98}, "larger than the 97 training samples"),
        ({"batch_size": 1}, "BatchNorm"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"lr_rule": "sqrt"}, "no sqrt learning-rate rule is known for sgd"),
        ({"scheduler": "nope"}, "unknown scheduler 'nope'"),
    ],
)
def test_what_does_not_fit_says_so(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_state(with_fields(**fields), blobs())


def test_batchnorm_and_too_few_samples_for_two_batches_say_so() -> None:
    few = with_fields(batch_size=2)
    with pytest.raises(UsageError, match="two batches of 2, and there are only 3 training samples"):
        make_state(few, blobs(num_train=3))
    assert len(train_all(few, blobs(num_train=4))) == CONFIG.last_epoch


@pytest.mark.gpu
def test_a_gpu_trains_the_same_curve() -> None:
    dataset = blobs()
    there = train_all(with_fields(device="cuda"), dataset)
    here = train_all(CONFIG, dataset)
    assert there[0].loss == pytest.approx(here[0].loss, rel=0.05)
    assert there[-1].test_accuracy == pytest.approx(here[-1].test_accuracy, abs=0.15)


def test_another_order_of_samples_from_the_same_weights() -> None:
    data = blobs()
    config = with_fields(epochs=2, max_epochs=1)
    other = dataclasses.replace(config, order_seed=7)
    a, b = make_state(config, data), make_state(other, data)
    weights = [p.clone() for p in a.model.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(weights, b.model.parameters(), strict=True))
    assert [r.loss for r in train(a, data, config)] != [r.loss for r in train(b, data, other)]
    same = dataclasses.replace(config, order_seed=config.seed)
    (record,) = train(make_state(same, data), data, same)
    assert timeless(record) == timeless(next(train(make_state(config, data), data, config)))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_forgets_what_was_before_and_sees_what_came_after() -> None:
    device, size = torch.device("cpu"), 300 * 2**20
    big = torch.ones(size, dtype=torch.uint8)
    assert (peak_memory(device) or 0) > size
    del big
    reset_peak_memory(device)
    before = peak_memory(device)
    assert before is not None
    big = torch.ones(size, dtype=torch.uint8)
    after = peak_memory(device)
    assert after is not None
    assert 0.9 * len(big) < after - before < 1.1 * len(big)


def test_a_pass_that_the_schedule_asks_for_is_on_its_clock_and_the_probes_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU a study goes by CPU seconds: a schedule that measures noise must not get it free."""

    def busy(*_: Any) -> NoiseScaleRecord:
        begin = time.process_time()
        while time.process_time() - begin < 0.3:
            pass
        return metrics.noise_scale([2.0, 3.0], 1.0, 8, time_s=0.3)

    monkeypatch.setattr(loop, "measure_noise_scale", busy)
    plain = train_all(CONFIG, blobs())
    assert plain[1].noise is not None
    assert max(r.cpu_s for r in plain) < 0.3
    asked = with_fields(scheduler="noise_scale", scheduler_args={"every": 3})
    costly = [r.epoch for r in train_all(asked, blobs()) if min(r.cpu_s, r.time_s) >= 0.3]
    assert costly == [3, 6]


def test_each_pass_of_a_schedule_draws_other_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    load = step.load_batch

    def spy(data: Any, batch: torch.Tensor, *rest: Any) -> Any:
        drawn.append(batch.tolist())
        return load(data, batch, *rest)

    monkeypatch.setattr(noise_pass, "load_batch", spy)
    train_all(with_fields(scheduler="noise_scale", scheduler_args={"every": 1}), blobs())
    per_pass = len(drawn) // 6
    first = [drawn[n * per_pass] for n in range(6)]
    assert len({tuple(f) for f in first}) == 6


def test_evaluation_takes_as_many_at_once_whatever_batch_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    evaluate_some = loop._try_evaluate

    def spy(state: Any, data: Any, images: Any, labels: torch.Tensor) -> Any:
        sizes.append(len(labels))
        return evaluate_some(state, data, images, labels)

    monkeypatch.setattr(loop, "_try_evaluate", spy)
    growing = {"scheduler": "timed", "scheduler_args": {"cooldown": 1}, "max_batch_size": 64}
    records = train_all(with_fields(**growing), blobs(num_test=200))
    assert records[-1].batch_size > 16
    assert sizes == [64, 64, 64, 8] * 6


def test_the_peak_of_an_epoch_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(loop, "reset_peak_memory", lambda _: told.append("reset"))
    monkeypatch.setattr(loop, "peak_memory", lambda _: told.append("peak") or 5)
    train_all(with_fields(epochs=3), blobs())
    assert told == ["reset", "peak"] * 3


def test_the_clock_of_an_epoch_runs_from_an_idle_device_to_an_idle_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    real = loop.train_step

    def step(*args: Any) -> Any:
        told.append("step")
        return real(*args)

    def clock() -> float:
        told.append("clock")
        return float(len(told))

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "synchronize", lambda _: told.append("wait"))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=clock, process_time=clock))
    data = blobs()
    record = next(train(make_state(CONFIG, data), data, CONFIG))
    steps = [index for index, what in enumerate(told) if what == "step"]
    assert len(steps) == record.updates
    assert told[steps[0] - 3 : steps[0]] == ["wait", "clock", "clock"]
    assert told[steps[-1] + 1 :][:3] == ["wait", "clock", "clock"]


@pytest.mark.parametrize("field", ["trace_sigma", "grad_sq_norm"])
def test_noise_that_is_no_number_is_a_run_that_diverged(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    real = loop.measure_noise_scale

    def measured(*args: Any) -> NoiseScaleRecord:
        return dataclasses.replace(real(*args), **{field: float("nan")})

    monkeypatch.setattr(loop, "measure_noise_scale", measured)
    with pytest.raises(DivergedError) as told:
        train_all(CONFIG, blobs())
    assert told.value.epoch == CONFIG.window_epochs
