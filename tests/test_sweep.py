"""Grids of runs: what a file expands to, and processes that fail alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import cli
from stability_probe import device, executors, sweep, throughput
from stability_probe.config import RunConfig, with_memory_format
from stability_probe.errors import MissingError, UsageError
from stability_probe.executors import LocalProcesses, make_executor
from stability_probe.plain import to_plain
from stability_probe.progress import Quiet
from stability_probe.ray_cluster import RayCluster
from stability_probe.records import ThroughputCurve
from stability_probe.run import run
from stability_probe.store import Store
from stability_probe.sweep import (
    SweepRun,
    curve_path,
    diverged,
    estimated_s,
    load_sweep,
    measure_curves,
    num_done,
    num_runs,
    run_all,
    run_sweep,
)
from tests.factories import make_curve
from tests.test_run import all_timeless

REPOSITORY = Path(__file__).resolve().parents[1]

GRID = """
[base]
epochs = 60
lr = 0.5
momentum = 0.8
seed = 9

[grid]
model = ["resnet10t", "torchvision:vgg11"]
data = ["digits", "crops"]
optimizer = ["sgd"]
seed = [0, 1]

[schedules]
fixed = {scheduler = "fixed"}
deba = {scheduler = "deba", scheduler_args = {window = 3}, momentum = 0.7}

[models.resnet10t]
channels_last = "on"
optimizer = "adamw"
lr = 0.25
momentum = 0.6

[models.unused]
lr = 7.0
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- sweep files -------------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    """A model's fields override base and grid, a schedule's fields override all."""
    expected = []
    for model, fields, fixed_momentum in (
        ("resnet10t", {"channels_last": "on", "optimizer": "adamw", "lr": 0.25}, 0.6),
        ("torchvision:vgg11", {"lr": 0.5}, 0.8),
    ):
        for data in ("digits", "crops"):
            for seed in (0, 1):
                common: dict[str, Any] = {"model": model, "data": data, "seed": seed, "epochs": 60}
                expected += [
                    RunConfig(**common, **fields, momentum=fixed_momentum, scheduler="fixed"),
                    RunConfig(
                        **common,
                        **fields,
                        momentum=0.7,
                        scheduler="deba",
                        scheduler_args={"window": 3},
                    ),
                ]
    configs = [r.config for r in load_sweep(write(tmp_path, GRID))]
    assert configs == expected
    assert len({c.run_id() for c in configs}) == 16


def test_a_grid_without_schedules_is_fixed_runs(tmp_path: Path) -> None:
    path = write(tmp_path, '[base]\nmodel = "resnet10t"\nlr = 0.5\n[grid]\nseed = [3, 1]\n')
    assert [r.config for r in load_sweep(path)] == [
        RunConfig(model="resnet10t", lr=0.5, seed=s) for s in (3, 1)
    ]


def test_base_alone_is_one_run(tmp_path: Path) -> None:
    path = write(tmp_path, '[base]\nmodel = "resnet10t"\n')
    assert [r.config for r in load_sweep(path)] == [RunConfig(model="resnet10t")]


def test_fields_of_a_model_named_in_base_count_too(tmp_path: Path) -> None:
    path = write(tmp_path, '[base]\nmodel = "resnet10t"\n[models.resnet10t]\nlr = 0.25\n')
    assert [r.config for r in load_sweep(path)] == [RunConfig(model="resnet10t", lr=0.25)]


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "data" / "sweeps").glob("*.toml")), ids=lambda p: p.name
)
def test_shipped_sweeps_load(path: Path) -> None:
    configs = [r.config for r in load_sweep(path)]
    assert len({c.run_id() for c in configs}) == len(configs) > 0


def test_a_missing_sweep_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        load_sweep(tmp_path / "none.toml")
    assert str(caught.value) == f"cannot read {tmp_path / 'none.toml'}: No such file or directory"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[grid", "not TOML"),
        ('[base]\nmodel = "a"\n[gird]\nseed = [0]\n', "unknown table 'gird'"),
        ('[base]\nmodel = "a"\nepoch = 3\n', "unknown setting 'epoch'"),
        ('[base]\nmodel = "a"\nepochs = 0\n', "epochs is 0"),
        ('[base]\nmodel = "a"\n[grid]\noptimizer = ["sgd", "adam"]\n', "optimizer is 'adam'"),
        ("[grid]\nseed = [0]\n", "model"),
        ('[base]\nmodel = "a"\n[grid]\nseed = 0\n', "seed"),
        ('[base]\nmodel = "a"\nlr = "fast"\n', "lr"),
        (b'[base]\nmodel = "\xff"\n', "TOML"),
        ('[base]\nmodel = ["a", "b"]\n', "model"),
    ],
)
def test_a_bad_sweep_file_is_explained_in_a_line(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_sweep(write(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_run_knows_the_baseline_of_its_point(tmp_path: Path) -> None:
    runs = load_sweep(write(tmp_path, GRID))
    assert [r.arm for r in runs[:4]] == ["fixed", "deba", "fixed", "deba"]
    for fixed, deba in zip(runs[::2], runs[1::2], strict=True):
        assert fixed.baseline == deba.baseline == fixed.config
        assert deba.config.seed == fixed.config.seed
    text = '[base]\nmodel = "m"\n[schedules]\na = {lr = 0.1}\nb = {lr = 0.2}\n'
    assert [r.baseline.lr for r in load_sweep(write(tmp_path, text))] == [0.1, 0.1]


# --- running a sweep ---------------------------------------------------------------------------

SWEEPNET = """
import os
import time
from pathlib import Path

import torch
from torch import nn


def make(num_classes, in_chans):
    seed = torch.initial_seed()
    if "SWEEP_MEETS" in os.environ and seed in (0, 1):
        meet(Path(os.environ["SWEEP_MEETS"]), seed)
    if str(seed) == os.environ.get("SWEEP_FAILS"):
        os._exit(9)
    if str(seed) == os.environ.get("SWEEP_RAISES"):
        return nn.Sequential(Raises(), nn.Linear(64 * in_chans, num_classes))
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, num_classes)
    )


class Raises(nn.Flatten):
    def forward(self, images):
        if self.training and len(images) > 2:
            raise ArithmeticError("in the middle of a step")
        return super().forward(images)


def meet(folder, seed):
    '''Seeds 0 and 1 wait for each other.'''
    (folder / str(seed)).touch()
    deadline = time.monotonic() + 150
    while not (folder / str(1 - seed)).exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the other run never came")
        time.sleep(0.01)
"""


def make_config(seed: int, **fields: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": "sweepnet:make",
        "limit": 60,
        "img_size": 8,
        "epochs": 2,
        "window_epochs": 1,
        "device": "cpu",
        "seed": seed,
    }
    return RunConfig(**{**values, **fields})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sweep is stored; the working directory holds the user's module of models."""
    user = tmp_path / "user"
    user.mkdir()
    (user / "sweepnet.py").write_text(SWEEPNET)
    monkeypatch.chdir(user)
    monkeypatch.syspath_prepend(str(user))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    yield tmp_path / "runs"
    sys.modules.pop("sweepnet", None)


def alone(configs: Sequence[RunConfig]) -> list[SweepRun]:
    """Runs that are compared with nothing but themselves."""
    return [SweepRun(arm="fixed", config=c, baseline=c) for c in configs]


class Steps(Quiet):
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


def test_processes_fail_alone_and_finished_runs_are_not_repeated(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1 dies while seed 0, begun beside it, and seed 2, begun after, finish."""
    path = curve_path(root, make_config(0))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(to_plain(make_curve([16], [100.0]))))
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    configs = [make_config(seed) for seed in range(3)]
    # The memory format, measured with the curve, becomes part of each run.
    names = [make_config(seed, channels_last="off").run_id() for seed in range(3)]
    with monkeypatch.context() as patch:
        patch.setenv("SWEEP_MEETS", str(meeting))
        patch.setenv("SWEEP_FAILS", "1")
        progress = Steps()
        failed = run_sweep(alone(configs), root, LocalProcesses(2), progress)
    log = root / "logs" / f"{names[1]}.txt"
    assert failed == {names[1]: f"exit code 9, and not a word in {log}; is the disk full?"}
    assert sorted(progress.steps) == sorted(
        [f"{names[0]} done", f"{names[1]} failed: {failed[names[1]]}", f"{names[2]} done"]
    )
    store = Store(root)
    assert {s.run_id: (s.status, s.epochs_done) for s in store.list()} == {
        names[0]: ("finished", 2),
        names[1]: ("unfinished", 0),
        names[2]: ("finished", 2),
    }
    assert store.load(names[0]).environment["threads"] == "1"

    def times() -> list[int]:
        return [(root / names[seed] / "result.json").stat().st_mtime_ns for seed in (0, 2)]

    before, started = times(), []

    class Process:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(RunConfig.from_dict(json.loads(command[-2])).run_id())

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run_sweep(alone(configs), root, LocalProcesses(2)) == {}
    assert started == [names[1]]
    assert times() == before


def test_a_curve_is_measured_once_a_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [make_config(seed, channels_last="on", max_batch_size=16) for seed in (0, 1)]
    curves = measure_curves(configs, root)
    ((path, curve),) = curves.items()
    assert [p.batch_size for p in curve.points] == [16]
    assert curve.points[0].samples_per_s > 0
    assert curve.memory_format == "channels_last"

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(throughput, "measure_throughput", fail)
    # Whether this machine was busy just now is not what is tested.
    quiet = dataclasses.replace(curve, busy=False)
    path.write_text(json.dumps(to_plain(quiet)))
    assert measure_curves(configs, root) == {path: quiet}


def test_of_two_processes_one_measures_a_curve_while_the_other_waits(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be the other's busy machine."""
    measuring: list[str] = []

    def measure(config: RunConfig, *_: Any) -> ThroughputCurve:
        measuring.append(config.model)
        time.sleep(0.2)
        assert len(measuring) == 1
        return make_curve([16], [120.0])

    monkeypatch.setattr(throughput, "measure_throughput", measure)
    with ThreadPoolExecutor(2) as two:
        started = [two.submit(measure_curves, [make_config(0)], root) for _ in range(2)]
        one, other = (future.result() for future in started)
    assert one == other
    assert len(measuring) == 1


def test_what_a_curve_took_is_given_back_before_the_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card this process would keep it reserved for as long as they train."""
    happened: list[str] = []

    def told(name: str, answer: Any = None) -> Callable[..., Any]:
        return lambda *_, **__: (happened.append(name), answer)[1]

    monkeypatch.setattr(throughput, "measure_throughput", told("curve", make_curve([16], [1.0])))
    monkeypatch.setattr(device, "free_memory", told("given back"))
    monkeypatch.setattr(sweep, "run_all", told("runs", {}))
    models = [make_config(0, channels_last=flag) for flag in ("on", "off")]
    run_sweep(alone(models), root, LocalProcesses(1))
    assert happened == ["curve", "given back", "curve", "given back", "runs"]


@pytest.mark.gpu
def test_a_curve_leaves_nothing_reserved_on_the_card(root: Path) -> None:
    measure_curves([make_config(0, device="cuda", channels_last="off")], root)
    assert torch.cuda.memory_allocated() == 0
    assert torch.cuda.memory_reserved() < 2**26  # libraries keep some workspace


def test_points_that_coincide_are_run_once(root: Path) -> None:
    """A section of a sweep file may override what its grid varies."""
    assert run_all([make_config(0), make_config(0)], root, LocalProcesses(2)) == {}


def test_runs_share_a_curve_where_their_steps_are_alike(root: Path) -> None:
    base = make_config(0, max_batch_size=16, data="digits", img_size=None)

    def shared(base: RunConfig, **fields: Any) -> bool:
        other = dataclasses.replace(base, **fields)
        return curve_path(root, base) == curve_path(root, other)

    assert shared(base, seed=1, lr=0.5, scheduler="deba", limit=30, data="fashion-mnist")
    for fields in ({"compile": True}, {"precision": "bfloat16"}, {"img_size": 8}):
        assert not shared(base, **fields)
    # Where the data decides the size of the images, or the largest batch.
    assert not shared(base, data="mydata:make")
    assert not shared(dataclasses.replace(base, max_batch_size=None), limit=30)
    assert not shared(dataclasses.replace(base, max_batch_size=64), limit=30)
    large = dataclasses.replace(base, max_batch_size=2048)
    assert not shared(large, data="fashion-mnist")
    assert shared(large, seed=1)


def test_the_curve_of_a_model_with_a_slash_in_its_name_is_one_file(tmp_path: Path) -> None:
    """Such as ``hf-hub:owner/name``."""
    assert curve_path(tmp_path, RunConfig(model="hf-hub:owner/name")).parent == tmp_path / "curves"


def test_a_run_that_diverged_is_counted_and_named_apart(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "[base]\n"
        'model = "tests.tiny:plain"\ndata = "tests.tiny:blobs"\ndevice = "cpu"\n'
        'epochs = 2\nwindow_epochs = 2\nchannels_last = "off"\n'
        "[schedules]\nfixed = {}\nlost = {lr = 1e20}\n",
    )
    root, runs = tmp_path / "runs", load_sweep(file)
    path = curve_path(root, runs[0].baseline)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(to_plain(make_curve([16], [100.0]))))
    fixed, lost = (run(r.config, Store(root)) for r in runs)
    assert (fixed.status, lost.status) == ("finished", "diverged")
    assert diverged(runs, root) == [lost.run_id]
    told = CliRunner().invoke(cli.probe, ["sweep", str(file), "-o", str(root)])
    assert (told.exit_code, told.stdout.splitlines()) == (
        0,
        ["1 of 2 runs are finished", f"diverged: {lost.run_id}"],
    )
    told = CliRunner().invoke(cli.probe, ["sweep", str(file), "-o", str(root), "--json"])
    answer = json.loads(told.stdout)
    assert (answer["runs"], answer["failed"], answer["diverged"]) == (2, [], [lost.run_id])
    # Two combinations that are one run are one.
    file.write_text(file.read_text() + "again = {lr = 1e20}\n")
    told = CliRunner().invoke(cli.probe, ["sweep", str(file), "-o", str(root)])
    assert told.stdout.splitlines()[0] == "1 of 2 runs are finished"


def test_a_failure_is_told_by_its_last_line_or_its_signal(root: Path) -> None:
    bad = make_config(0, model="sweepnet:absent", channels_last="off")
    failed = run_all([bad], root, LocalProcesses(1))
    assert "cannot import sweepnet:absent" in failed[bad.run_id()]
    assert (root / "logs" / f"{bad.run_id()}.txt").read_text().startswith("probe: ")
    log = root / "logs" / "x.txt"
    log.write_text("")
    assert executors._reason(-9, log) == "ended by SIGKILL"
    assert executors._reason(3, log) == f"exit code 3, and not a word in {log}; is the disk full?"


def test_what_the_system_refuses_is_told_as_by_any_command(root: Path) -> None:
    config = make_config(0, channels_last="off")
    root.mkdir()
    (root / config.run_id()).write_text("a file where the folder of the run belongs")
    failed = run_all([config], root, LocalProcesses(1))
    told = f"cannot read or write {root / config.run_id()}: File exists"
    assert failed == {config.run_id(): told}
    log = root / "logs" / f"{config.run_id()}.txt"
    assert log.read_text().startswith("probe: cannot read or write")


def test_an_error_that_nobody_foresaw_leaves_its_traceback_in_the_log(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(1, channels_last="off")
    monkeypatch.setenv("SWEEP_RAISES", "1")
    failed = run_all([config], root, LocalProcesses(1))
    told = failed[config.run_id()]
    assert told.startswith("your own code raised ArithmeticError: in the middle of a step (")
    assert told.endswith("sweepnet.py, line 26)")
    log = root / "logs" / f"{config.run_id()}.txt"
    assert log.read_text().startswith("Traceback")


def test_a_bug_of_probe_leaves_its_traceback_in_the_log(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ArithmeticError("in the middle of a step")

    monkeypatch.setattr(executors, "run_one", fail)
    monkeypatch.setattr("stability_probe.exits._own_frame", lambda _: None)
    with pytest.raises(ArithmeticError):  # Python prints it
        executors._main(json.dumps(make_config(1).to_dict()), str(root))


def test_own_code_that_ends_its_process_is_no_finished_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(executors, "run_one", leave)
    with pytest.raises(SystemExit) as caught:
        executors._main(json.dumps(make_config(1).to_dict()), str(root))
    assert caught.value.code == 2
    assert "probe: your own code raised SystemExit: 0" in capsys.readouterr().err


def test_a_dry_run_counts_and_estimates_and_trains_nothing(root: Path) -> None:
    configs = [make_config(seed, channels_last="auto") for seed in range(3)]
    path = curve_path(root, configs[0])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(to_plain(make_curve([16], [120.0]))))
    # 60 samples, 2 epochs, 120 samples/s: a second each.
    assert estimated_s(alone(configs), root) == (pytest.approx(3.0), [])
    done = root / with_memory_format(configs[1], "contiguous").run_id()
    done.mkdir()
    (done / "result.json").touch()
    assert estimated_s(alone(configs), root) == (pytest.approx(2.0), [])
    assert num_done(alone(configs), root) == 1
    other = make_config(0, model="torchvision:vgg11")
    assert estimated_s(alone([*configs, other]), root) == (
        pytest.approx(2.0),
        ["torchvision:vgg11"],
    )
    assert len(list(root.iterdir())) == 2
    # Combinations of a grid that come to the same are one run.
    twice = alone([*configs, *configs])
    assert estimated_s(twice, root) == (pytest.approx(2.0), [])
    assert (num_runs(twice), num_done(twice, root)) == (3, 1)


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_curve_of_another_version_is_named(root: Path, tmp_path: Path, more: list[str]) -> None:
    path = write(tmp_path, '[base]\nmodel = "test_vit"\n')
    curve = curve_path(root, load_sweep(path)[0].baseline)
    curve.parent.mkdir(parents=True)
    curve.write_text('{"batch_sizes": [16]}')
    told = CliRunner().invoke(cli.probe, ["sweep", str(path), "-o", str(root), *more])
    assert told.exit_code == 4, told.output
    assert f"{curve} is damaged: unknown field 'batch_sizes'; delete it" in told.stderr


def test_the_command_tells_what_it_would_do(root: Path, tmp_path: Path) -> None:
    path = write(tmp_path, '[base]\nmodel = "test_vit"\n[grid]\nseed = [0, 1]\n')
    told = CliRunner().invoke(cli.probe, ["sweep", str(path), "--dry-run", "-o", str(root)])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("2 runs: 0 done, 2 to do")
    assert "not counted" in told.stdout
    assert not root.exists()


def test_how_far_the_runs_are_is_told_while_they_run(root: Path) -> None:
    class Far(Steps):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, int, int]] = []

        def within(self, name: str, done: int, total: int) -> None:
            self.seen.append((name, done, total))

    config = make_config(0, channels_last="off", epochs=400)
    progress = Far()
    assert run_all([config], root, LocalProcesses(1), progress) == {}
    assert progress.seen[-1] == (config.run_id(), 400, 400)
    counts = [done for _, done, _ in progress.seen]
    assert counts == sorted(counts)
    assert any(0 < done < 400 for done in counts)


@pytest.mark.parametrize(
    ("device", "cards", "wanted"),
    [("auto", 2, True), ("auto", 0, False), ("cuda", 0, True), ("cpu", 2, False)],
)
def test_ray_gives_a_card_to_a_run_that_would_take_one(
    device: str, cards: int, wanted: bool
) -> None:
    cluster = RayCluster.__new__(RayCluster)  # without a cluster
    cluster._ray = SimpleNamespace(cluster_resources=lambda: {"GPU": cards} if cards else {})
    assert cluster._wants_card(make_config(0, device=device)) is wanted


@pytest.mark.ray
def test_two_ray_nodes_give_the_same_runs_as_processes(root: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    configs = [make_config(seed, channels_last="off") for seed in range(4)]
    bad = make_config(0, model="sweepnet:absent", channels_last="off")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        failed = run_all([*configs, bad], root, make_executor("ray", 1))
        assert len({n["NodeID"] for n in ray.nodes() if n["Alive"]}) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert list(failed) == [bad.run_id()]
    assert "cannot import sweepnet:absent" in failed[bad.run_id()]
    local = tmp_path / "local"
    assert run_all(configs, local, LocalProcesses(1)) == {}
    for config in configs:
        by_ray, here = (Store(r).load(config.run_id()) for r in (root, local))
        assert all_timeless(by_ray) == all_timeless(here)


@pytest.mark.ray
def test_a_ray_node_that_dies_takes_no_run_along(root: Path, tmp_path: Path) -> None:
    """Its run goes on at the other node, to the end of one that nobody touched."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    configs = [make_config(seed, channels_last="off", epochs=400) for seed in range(3)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill() -> None:
        """Once both nodes are at work."""
        deadline = time.monotonic() + 120
        while len(list(root.glob("*/epochs.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run_all(configs, root, make_executor("ray", 1)) == {}
        killer.join()
        assert len([n for n in ray.nodes() if n["Alive"]]) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    local = tmp_path / "local"
    assert run_all(configs, local, LocalProcesses(1)) == {}
    for config in configs:
        by_ray, here = (Store(r).load(config.run_id()) for r in (root, local))
        assert all_timeless(by_ray) == all_timeless(here)


def test_without_ray_it_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"pip install 'stability-probe\[ray\]'"):
        make_executor("ray", 1)


def test_a_busy_curve_is_measured_again_and_each_number_of_threads_has_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured beside other work, it would decide for as long as the store is kept."""
    measured: list[int] = []

    def measure(*_: Any) -> Any:
        measured.append(torch.get_num_threads())
        return dataclasses.replace(make_curve([16], [1.0]), busy=len(measured) < 3)

    monkeypatch.setattr(throughput, "measure_throughput", measure)
    one = make_config(0, channels_last="off")
    for busy in (True, True, False, False):
        (curve,) = measure_curves([one], root).values()
        assert curve.busy is busy
    assert measured == [1, 1, 1]
    two = dataclasses.replace(one, threads=2)
    assert curve_path(root, one) == curve_path(root, dataclasses.replace(one, threads=1))
    measure_curves([two], root)
    assert measured == [1, 1, 1, 2]
    measure_curves([one, two], root)
    assert len(measured) == 4


@pytest.mark.parametrize("num_busy", [0, 1, 2])
def test_a_sweep_tells_of_curves_that_a_busy_machine_measured(
    root: Path, monkeypatch: pytest.MonkeyPatch, num_busy: int
) -> None:
    """Days of runs would else make rows that no prediction learns from, unsaid."""
    configs = [make_config(0, channels_last="off", threads=threads) for threads in (1, 2, 3)]
    curves = {
        curve_path(root, c): dataclasses.replace(make_curve([16], [1.0]), busy=i < num_busy)
        for i, c in enumerate(configs)
    }
    monkeypatch.setattr(sweep, "measure_curves", lambda *_: curves)
    monkeypatch.setattr(sweep, "run_all", lambda *_: {})
    notes: list[str] = []

    class Notes(Quiet):
        def note(self, text: str) -> None:
            notes.append(text)

    run_sweep(alone(configs), root, LocalProcesses(1), Notes())
    assert len(notes) == (num_busy > 0)
    for text in notes:
        assert text.startswith(f"a busy machine measured {num_busy} of 3 throughput curves")


def test_a_run_whose_turn_comes_while_a_sweep_ends_is_not_begun(tmp_path: Path) -> None:
    executor = LocalProcesses(1)
    executor.terminate()
    assert executor._run(RunConfig(model="tests.tiny:net"), tmp_path) == "not begun"
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]
    assert (tmp_path / "logs").is_dir()
