"""What a notebook user touches: a light import, results that show and draw themselves."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.resources
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability_probe
from predictor import predict
from stability_probe.config import RunConfig
from stability_probe.errors import MissingError, UsageError
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import Characterization, RunResult
from tests.factories import make_epoch
from tests.predictor_factories import make_characterization

ROOT = Path(__file__).resolve().parents[1]


def make_result(model: str = "resnet18") -> RunResult:
    return RunResult(
        run_id="r",
        config=RunConfig(model=model).to_dict(),
        status="finished",
        device="cpu",
        num_params=10,
        num_train=160,
        num_test=40,
        memory_format="contiguous",
        environment={"device_name": "CPU"},
        epochs=tuple(make_epoch(epoch=e) for e in (1, 2, 3)),
    )


def test_the_import_is_light_and_names_come_when_used() -> None:
    code = (
        "import sys, stability_probe\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'rich', 'timm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert {'characterize', 'RunConfig', 'Store'} <= set(dir(stability_probe))\n"
        "from stability_probe import RunConfig\n"
        "assert 'torch' not in sys.modules\n"
        "from stability_probe import characterize\n"
        "from stability_probe.probe import characterize as same\n"
        "assert characterize is same and 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'caracterize'"):
        stability_probe.caracterize  # noqa: B018


def test_a_model_name_and_settings_are_enough() -> None:
    found = stability_probe.characterize(
        "tests.tiny:net",
        data="tests.tiny:blobs",
        device="cpu",
        epochs=4,
        window_epochs=2,
        channels_last="off",
        max_batch_size=32,
    )
    assert found.config["epochs"] == 4
    assert [e.epoch for e in found.windows[0]] == [1, 2]
    assert from_plain(Characterization, json.loads(json.dumps(found.to_dict()))) == found
    assert "headroom" in found._repr_html_()
    with pytest.raises(UsageError, match="unknown setting 'epoch'"):
        stability_probe.characterize("tests.tiny:net", epoch=4)


def test_a_notebooks_paths_and_numpy_numbers_are_taken(tmp_path: Path) -> None:
    def ask(**settings: Any) -> Characterization:
        return stability_probe.characterize(
            "tests.tiny:net",
            data="tests.tiny:blobs",
            device="cpu",
            channels_last="off",
            max_batch_size=32,
            store=str(tmp_path),
            **settings,
        )

    plain = ask(epochs=4, window_epochs=2, lr=0.25, seeds=[0, 1], data_dir=str(tmp_path))
    numpys = ask(
        epochs=np.int64(4),
        window_epochs=np.int32(2),
        lr=np.float32(0.25),
        seeds=np.arange(2),
        data_dir=tmp_path,
    )
    assert numpys.config == plain.config
    assert json.dumps(numpys.seeds) == "[0, 1]"
    # Of the same store, the windows were the same runs.
    assert numpys.windows == plain.windows
    with pytest.raises(MissingError, match=r"cannot read .*none.csv: No such file"):
        predict(numpys, str(tmp_path / "none.csv"))


def test_one_number_is_no_list_of_seeds() -> None:
    with pytest.raises(UsageError, match=r"seeds is 3; use a list, such as \[0, 1, 2\]"):
        stability_probe.characterize("tests.tiny:net", seeds=3)  # type: ignore[arg-type]


def test_a_run_keeps_its_arguments_whatever_becomes_of_the_callers() -> None:
    arguments = {"growth": np.float64(2.0), "sizes": (16, np.int64(24))}
    config = RunConfig(model="m", scheduler="timed", scheduler_args=arguments)
    arguments["growth"] = np.float64(3.0)
    config.to_dict()["scheduler_args"]["growth"] = 4.0
    assert config.scheduler_args == {"growth": 2.0, "sizes": [16, 24]}
    assert {
        type(n) for n in (config.scheduler_args["growth"], *config.scheduler_args["sizes"])
    } == {
        float,
        int,
    }


def test_every_name_of_the_package_is_there() -> None:
    for name in [*stability_probe.__all__, "__version__"]:
        assert name in dir(stability_probe)
        assert getattr(stability_probe, name)
    assert importlib.metadata.version("stability-probe") == stability_probe.__version__
    for package in ("stability_probe", "predictor"):
        assert importlib.resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("shown", [make_result(), make_characterization()], ids=["run", "probe"])
def test_results_show_themselves(shown: RunResult | Characterization) -> None:
    assert shown.to_dict() == to_plain(shown)
    html = shown._repr_html_()
    assert html.startswith("<pre")
    assert ("finished" if isinstance(shown, RunResult) else "stability") in html
    axes = shown.plot()
    assert all(isinstance(ax, Axes) for ax in axes)
    assert "Gradient norm" in [ax.get_title() for ax in axes]
    assert axes[0].lines
    mine = Figure()
    assert {ax.figure for ax in shown.plot(mine)} == {mine}


def test_a_name_is_shown_and_not_run() -> None:
    html = make_characterization(config={"model": "<script>[bold]:smile:"})._repr_html_()
    assert "&lt;script&gt;[bold]:smile:" in html
    assert "<script>" not in html


def test_a_reason_in_brackets_is_no_markup() -> None:
    result = make_result()
    told = dataclasses.replace(result.epochs[0], action="increase", reason="[bold]calm[/nonsense]")
    html = dataclasses.replace(result, epochs=(told,))._repr_html_()
    assert "[bold]calm[/nonsense]" in html
