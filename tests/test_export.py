"""A stored schedule in the words of other trainers, each checked against a second reading."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.export import EXPORTS, export_schedule, schedule_points
from stability_probe.megatron import Rampup, fit_rampup
from stability_probe.options import EXPORT
from stability_probe.records import RunResult
from stability_probe.store import Store
from tests.factories import make_epoch

ROOT = Path(__file__).resolve().parents[1]
SIZES = [16, 16, 24, 40, 40, 64]


def make_result(sizes: list[int], samples: int = 960, **config: Any) -> RunResult:
    run = RunConfig(model="tests.tiny:plain", epochs=len(sizes), window_epochs=1, **config)
    return RunResult(
        run_id=run.run_id(),
        config=run.to_dict(),
        status="finished",
        device="cpu",
        num_params=10,
        num_train=samples,
        num_test=40,
        memory_format="contiguous",
        environment={},
        epochs=tuple(
            make_epoch(
                epoch=index + 1,
                batch_size=size,
                samples=samples,
                updates=-(-samples // size),
                lr=0.01 * size / sizes[0],
            )
            for index, size in enumerate(sizes)
        ),
    )


def simulated(ramp: Rampup) -> list[int]:
    """The batch of every update, as Megatron's RampupBatchsizeNumMicroBatchesCalculator has it."""
    count = (ramp.global_batch_size - ramp.start) // ramp.increment
    assert (ramp.global_batch_size - ramp.start) % ramp.increment == 0
    consumed, sizes = 0, []
    while consumed < ramp.train_samples:
        size = ramp.global_batch_size
        if consumed <= ramp.samples:
            size = ramp.start + int(consumed / (ramp.samples / count)) * ramp.increment
        assert size <= ramp.global_batch_size
        sizes.append(size)
        consumed += size
    return sizes


def test_every_epoch_with_where_it_begins() -> None:
    points = schedule_points(make_result(SIZES))
    assert [p.batch_size for p in points] == SIZES
    assert [p.first_sample for p in points] == [960 * n for n in range(6)]
    assert [p.first_step for p in points] == [0, 60, 120, 160, 184, 208]
    told = json.loads(export_schedule(make_result(SIZES), "json").text)
    assert told[3] == {
        "epoch": 4, "first_sample": 2880, "first_step": 160, "batch_size": 40, "lr": 0.025,
    }  # fmt: skip


def test_a_linear_schedule_is_fitted_exactly() -> None:
    ramp = fit_rampup([(1000, 16), (1000, 24), (1000, 32), (3000, 40)])
    assert ramp.arguments == (
        "--rampup-batch-size 16 8 3000 --global-batch-size 40 --train-samples 6000"
    )
    assert ramp.error_pct == pytest.approx(0)
    assert abs(len(simulated(ramp)) - (63 + 42 + 32 + 75)) <= 4


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=12).filter(lambda steps: any(steps[1:])),
    st.integers(500, 2000),
)
def test_the_told_error_is_that_of_megatrons_own_steps(steps: list[int], samples: int) -> None:
    sizes = [16 + 8 * n for n in itertools.accumulate(steps)]
    ramp = fit_rampup([(samples, size) for size in sizes])
    taken = simulated(ramp)
    assert taken[-1] <= sizes[-1]
    assert abs(len(taken) - ramp.updates) <= 2 + len(set(taken))
    found = [sizes[min(s // samples, len(sizes) - 1)] for s in range(samples * len(sizes))]
    ramped = [size for size in taken for _ in range(size)][: len(found)]
    error = sum(abs(r - f) / f for r, f in zip(ramped, found, strict=True)) / len(found)
    # Megatron changes between updates only, the fit between samples.
    assert 100 * error == pytest.approx(ramp.error_pct, abs=6)


def test_the_fit_is_no_worse_than_a_search_by_hand() -> None:
    pieces = [(960, size) for size in [16, 16, 24, 24, 40, 64, 64, 96, 96]]
    best = fit_rampup(pieces)
    assert best.error_pct < 20
    for increment, samples in itertools.product((8, 16, 40, 80), range(480, 8640, 480)):
        ramp = dataclasses.replace(best, increment=increment, samples=samples)
        ramped = [size for size in simulated(ramp) for _ in range(size)]
        error = sum(abs(r - pieces[s // 960][1]) / pieces[s // 960][1]
                    for s, r in enumerate(ramped[:8640])) / 8640  # fmt: skip
        assert 100 * error > best.error_pct - 3


@pytest.mark.parametrize(
    ("sizes", "told"),
    [([64, 40, 64], "falls from 64 to 40 in epoch 2"), ([16, 16], "use --global-batch-size 16")],
)
def test_what_no_ramp_can_do_is_refused(sizes: list[int], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        export_schedule(make_result(sizes), "megatron")


def test_the_note_tells_what_is_lost() -> None:
    assert "a linear ramp" in export_schedule(make_result(SIZES), "megatron").note
    scaled = make_result(SIZES, lr_rule="linear")
    assert "--lr does not" in export_schedule(scaled, "megatron").note


def stored(root: Path) -> str:
    result = make_result(SIZES, lr_rule="linear")
    with Store(root).open(RunConfig.from_dict(result.config)) as directory:
        directory.finish(result)
    return result.run_id


def test_the_command(tmp_path: Path) -> None:
    name, runner = stored(tmp_path), CliRunner()
    where = ["--runs", str(tmp_path)]
    told = runner.invoke(cli.probe, ["export", name, *where])
    assert [p["batch_size"] for p in json.loads(told.stdout)] == SIZES
    told = runner.invoke(cli.probe, ["export", name, "--to", "megatron", *where])
    assert told.stdout.startswith("--rampup-batch-size 16 ")
    assert "a linear ramp" in told.stderr
    quiet = runner.invoke(cli.probe, ["export", name, "--to", "megatron", "-q", *where])
    assert (quiet.stdout, quiet.stderr) == (told.stdout, "")
    out = tmp_path / "schedule.py"
    told = runner.invoke(cli.probe, ["export", name, "--to", "lightning", "-o", str(out), *where])
    assert told.stdout.strip() == str(out)
    assert "BATCH_SIZES = [16, 16, 24, 40, 40, 64]" in out.read_text()
    told = runner.invoke(cli.probe, ["export", name, "--to", "huggingface", "--json", *where])
    values = json.loads(told.stdout)
    assert (values["run_id"], values["to"]) == (name, "huggingface")
    assert "follow_batch_schedule" in values["content"]
    told = runner.invoke(cli.probe, ["export", name, "--to", "keras", *where])
    assert told.exit_code == 2
    told = runner.invoke(cli.probe, ["export", "nothing", *where])
    assert told.exit_code == 2
    assert set(EXPORT[0].type.choices) == set(EXPORTS)  # type: ignore[attr-defined]


def test_exporting_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, cli\n"
        f"sys.argv = ['probe', 'export', {stored(tmp_path)!r}, '--runs', {str(tmp_path)!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def load(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(text, "exported.py", "exec"), names)
    return names


def test_the_lightning_file_trains_as_the_run_did(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="the extra lightning is not installed")
    from tests.test_integrations_lightning import Keep, Net, pl

    names = load(export_schedule(make_result(SIZES, lr_rule="linear"), "lightning").text)
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from tests.tiny import blobs

    data = blobs()
    images = TensorDataset(data.train_images, data.train_labels)
    sampler, callback = names["batch_schedule"](images)
    keep = Keep(callback)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        max_epochs=len(names["BATCH_SIZES"]), callbacks=[callback, keep],
        reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(images, batch_sampler=sampler))
    assert [e.batch_size for e in keep.records] == SIZES
    assert [e.lr for e in keep.records] == pytest.approx([0.01 * s / 16 for s in SIZES])
    assert torch.isfinite(torch.tensor(keep.records[-1].loss))


def test_the_huggingface_file_trains_as_the_run_did(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra huggingface is not installed")
    from tests.test_integrations_huggingface import Keep, make_trainer

    names = load(export_schedule(make_result(SIZES, lr_rule="linear"), "huggingface").text)
    trainer = make_trainer(tmp_path, num_train_epochs=len(SIZES))
    keep = Keep(names["follow_batch_schedule"](trainer))
    trainer.add_callback(keep)
    trainer.train()
    assert [e.batch_size for e in keep.records] == SIZES


@pytest.mark.parametrize("to", ["lightning", "huggingface"])
def test_a_name_in_a_stored_file_is_no_code(to: str) -> None:
    hostile = "\"\"\"\nimport os  # \\\n'''<SIZES>"
    plain, named = (
        export_schedule(dataclasses.replace(make_result(SIZES), run_id=name), to).text
        for name in ("run", hostile)
    )
    # But for the docstring, which holds the name, nothing of the script depends on it.
    first, second = (ast.dump(ast.Module(ast.parse(text).body[1:], [])) for text in (plain, named))
    assert first == second


def test_an_unknown_trainer_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown trainer 'megatrn'; use megatron"):
        export_schedule(make_result(SIZES), "megatrn")
