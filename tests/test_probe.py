"""The characterization: the same loop as a full run, and nothing it should not touch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from predictor.validate import validate
from stability_probe import probe, throughput
from stability_probe.ablate import ablate
from stability_probe.compare import compare
from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.loop import train
from stability_probe.metrics import profile, stability_metrics
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import Characterization
from stability_probe.state import make_state
from stability_probe.store import Store
from tests.test_loop import CONFIG, timeless, with_fields
from tests.tiny import blobs


@pytest.fixture(scope="module")
def characterization() -> Characterization:
    return probe.characterize(CONFIG, seeds=(0, 3))


def test_windows_are_the_first_records_of_the_full_fixed_run(
    characterization: Characterization,
) -> None:
    dataset = blobs()
    for seed, window in zip((0, 3), characterization.windows, strict=True):
        config = with_fields(seed=seed)
        full = list(train(make_state(config, dataset), dataset, config))
        assert [timeless(r) for r in window] == [timeless(r) for r in full[:2]]


def test_it_reports_what_was_measured(characterization: Characterization) -> None:
    c = characterization
    assert c.seeds == (0, 3)
    assert c.metrics == tuple(stability_metrics(profile(w)) for w in c.windows)
    assert (c.num_train, c.num_test, c.normalization) == (97, 40, "batch")
    # Convolution 3·8·9 + 8, BatchNorm 16, linear 32·3 + 3.
    assert c.num_params == 224 + 16 + 99
    assert c.size is not None
    assert (c.size.num_params, c.size.num_tensors, c.size.num_norm_layers) == (c.num_params, 6, 1)
    assert c.max_batch_size == 16
    assert [p.batch_size for p in c.curve.points] == [16]
    assert c.probe_s > 0
    assert c.environment["torch"] == torch.__version__


def test_it_survives_json(characterization: Characterization) -> None:
    text = json.dumps(to_plain(characterization), allow_nan=False)
    assert from_plain(Characterization, json.loads(text)) == characterization


def test_a_schedule_in_the_config_does_not_change_the_window() -> None:
    config = with_fields(scheduler="deba", scheduler_args={"window": 5}, max_batch_size=64)
    c = probe.characterize(config, seeds=(0,))
    assert c.config["scheduler"] == "fixed"
    assert c.max_batch_size == 64
    assert [p.batch_size for p in c.curve.points] == [16, 32, 64]


def test_neither_the_bound_nor_the_curve_goes_beyond_the_samples_there_are() -> None:
    c = probe.characterize(with_fields(max_batch_size=512), seeds=(0,))
    assert c.max_batch_size == c.num_train == 97
    assert [p.batch_size for p in c.curve.points] == [16, 32, 64, 97]


def test_the_same_question_finds_its_windows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where another timing would have chosen the other memory format."""
    names = iter(["channels_last", "contiguous"])
    monkeypatch.setattr(
        throughput,
        "_faster_format",
        lambda *_: throughput.MemoryFormatChoice(memory_format=next(names), reason="timed"),
    )
    config, store = with_fields(channels_last="auto"), Store(tmp_path)
    first, second = (probe.characterize(config, seeds=(0,), store=store) for _ in range(2))
    assert second.config == first.config
    assert len(store.list()) == 1


def test_a_window_of_another_machine_is_not_told_as_of_this(tmp_path: Path) -> None:
    """Its seconds would be this machine's, beside a throughput curve measured here."""
    config, store = with_fields(), Store(tmp_path)
    probe.characterize(config, seeds=(0,), store=store)
    (path,) = tmp_path.glob("*/result.json")
    made = store.load(path.parent.name)
    there = dataclasses.replace(made, environment={**made.environment, "device_name": "another"})
    with store.open(RunConfig.from_dict(made.config)) as directory:
        directory.finish(there)
    with pytest.raises(UsageError, match=r"run of another machine \(another.* use another -o"):
        probe.characterize(config, seeds=(0,), store=store)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    c = probe.characterize(with_fields(threads=before + 1), seeds=(0,))
    assert c.environment["threads"] == str(before + 1)
    assert torch.get_num_threads() == before


def test_what_shows_no_variation_is_refused() -> None:
    with pytest.raises(UsageError, match="--window 2 or more"):
        probe.characterize(with_fields(window_epochs=1), seeds=(0,))
    with pytest.raises(UsageError, match="--seeds"):
        probe.characterize(CONFIG, seeds=())


def test_without_seeds_it_is_the_seed_of_the_config() -> None:
    c = probe.characterize(with_fields(seed=7, window_epochs=2))
    assert (c.seeds, c.config["seed"]) == ((7,), 7)


@pytest.mark.parametrize(
    ("seeds", "told"),
    [((), "no seed is given"), ((4, 5, 4), "seed 4 is given twice; name each once")],
)
def test_two_windows_of_one_seed_would_agree_beyond_all_noise(
    seeds: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    asked = (
        lambda: probe.characterize(CONFIG, seeds=seeds),
        lambda: compare(CONFIG, seeds=seeds, root=tmp_path),
        lambda: ablate(CONFIG, seeds=seeds, root=tmp_path),
        lambda: validate(CONFIG, seeds=seeds, store=Store(tmp_path)),
    )
    for ask in asked:
        with pytest.raises(UsageError, match=told):
            ask()
    assert not list(tmp_path.iterdir())


def test_the_cost_of_a_probe_counts_all_that_its_windows_took(
    characterization: Characterization,
) -> None:
    windows = to_plain(characterization)["windows"]
    epochs = [epoch for window in windows for epoch in window]
    noise = [epoch["noise"]["time_s"] for epoch in epochs if epoch["noise"]]
    assert len(noise) == 2
    assert min(noise) > 0
    took = sum(e["time_s"] + e["eval_s"] + e["compile_s"] for e in epochs) + sum(noise)
    assert characterization.probe_s == pytest.approx(took, rel=1e-9)
