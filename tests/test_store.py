"""Runs on disk: what is written comes back, and nothing else is ever written over."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stability_probe import store as store_module
from stability_probe.config import RunConfig
from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.files import check_output, write_bytes
from stability_probe.plain import _ABOVE_ZERO, _AT_LEAST_ZERO, from_plain, to_plain
from stability_probe.records import (
    Characterization,
    Comparison,
    EpochRecord,
    Evidence,
    MeanStd,
    NoiseScaleRecord,
    Prediction,
    RunResult,
    StabilityMetrics,
    ThroughputCurve,
    Validation,
)
from stability_probe.store import RunSummary, Store, read_measured, read_records
from tests.factories import make_curve, make_epoch

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = RunConfig(model="resnet10t", epochs=3, window_epochs=2)
NOISE = NoiseScaleRecord(
    trace_sigma=2.0, grad_sq_norm=-0.1, noise_scale=None, num_samples=64, time_s=0.3
)


def make_result(config: RunConfig = CONFIG, **fields: Any) -> RunResult:
    values: dict[str, Any] = {
        "run_id": config.run_id(),
        "config": config.to_dict(),
        "status": "finished",
        "device": "cpu",
        "num_params": 10,
        "num_train": 160,
        "num_test": 40,
        "memory_format": "contiguous_format",
        "environment": {"torch": "2"},
        "epochs": (make_epoch(), make_epoch(epoch=2, noise=NOISE)),
    }
    return RunResult(**{**values, **fields})


def through_json(record: Any) -> Any:
    return from_plain(type(record), json.loads(json.dumps(to_plain(record), allow_nan=False)))


# --- records -----------------------------------------------------------------------------------

_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: _FLOATS,
    str: st.text(),
    float | None: st.none() | _FLOATS,
    int | None: st.none() | st.integers(0, 2**60),
}
_POSITIVE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(1),
    float: st.floats(0, allow_infinity=False),
    float | None: st.none() | st.floats(0, allow_infinity=False),
}
NOT_NEGATIVE = _ABOVE_ZERO | _AT_LEAST_ZERO


def any_record(kind: type) -> st.SearchStrategy[Any]:
    """Such as a measurement gives: counts and sizes are not negative."""
    hints = get_type_hints(kind)
    positive = {n: _POSITIVE.get(t, _BY_TYPE[t]) for n, t in hints.items() if n in NOT_NEGATIVE}
    return st.builds(kind, **({n: _BY_TYPE[t] for n, t in hints.items()} | positive))


_BY_TYPE[NoiseScaleRecord | None] = st.none() | any_record(NoiseScaleRecord)
_BY_TYPE[tuple[Evidence, ...]] = st.lists(any_record(Evidence), max_size=2).map(tuple)


@settings(max_examples=20)
@given(st.lists(any_record(EpochRecord), max_size=3))
def test_any_epoch_records_come_back_from_disk(records: list[EpochRecord]) -> None:
    with tempfile.TemporaryDirectory() as root, Store(Path(root)).open(CONFIG) as directory:
        directory.keep(records[:1])
        for record in records[1:]:
            directory.append(record)
        assert directory.records() == records


def test_a_result_comes_back_from_disk(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, scheduler="deba", scheduler_args={"window": 3})
    result = make_result(config)
    with Store(tmp_path).open(config) as directory:
        assert directory.result() is None
        directory.finish(result)
        assert directory.result() == result
    assert Store(tmp_path).load(result.run_id) == result


def test_records_that_hold_records_come_back_from_json() -> None:
    metrics = StabilityMetrics(
        stability_score=0.5,
        grad_norm_variation=0.1,
        grad_component_variance=1e-4,
        loss_variation=0.2,
        noise_scale=None,
    )
    characterization = Characterization(
        config=CONFIG.to_dict(),
        seeds=(0, 1),
        device="cpu",
        num_params=10,
        num_train=160,
        num_test=40,
        max_batch_size=64,
        normalization="batch",
        metrics=(metrics, dataclasses.replace(metrics, noise_scale=7.0)),
        windows=(
            (make_epoch(), make_epoch(epoch=2, noise=NOISE)),
            (make_epoch(loss=3.0), make_epoch(epoch=2)),
        ),
        curve=make_curve([16, 32], [100.0, 180.0]),
        probe_s=4.0,
        environment={"torch": "2"},
    )
    assert through_json(characterization) == characterization
    comparison = Comparison(
        seed=0,
        time_saved_pct=12.0,
        accuracy_delta_pp=-0.1,
        updates_saved_pct=40.0,
        time_to_target_saved_pct=10.0,
        benefit_class="benefits",
    )
    prediction = Prediction(
        verdict="adapt",
        probability_of_benefit=0.7,
        time_saved_pct=11.0,
        time_saved_interval_pct=(1.0, 20.0),
        accuracy_delta_pp=0.0,
        accuracy_delta_interval_pp=(-1.0, 1.0),
        interval_level=0.8,
        reason="r",
        basis="b",
    )
    validation = Validation(
        config=CONFIG.to_dict(),
        seeds=(0,),
        prediction=prediction,
        comparisons=(comparison,),
        time_saved_pct=MeanStd(mean=12.0, std=None),
        accuracy_delta_pp=MeanStd(mean=-0.1, std=0.2),
        updates_saved_pct=40.0,
        time_to_target_saved_pct=None,
        benefit_class="benefits",
        inside_interval=True,
        class_correct=None,
    )
    assert through_json(validation) == validation


# --- the journal -------------------------------------------------------------------------------


def journal(tmp_path: Path, count: int = 3) -> Path:
    with Store(tmp_path).open(CONFIG) as directory:
        for epoch in range(1, count + 1):
            directory.append(make_epoch(epoch=epoch))
    return tmp_path / CONFIG.run_id() / "epochs.jsonl"


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_cut_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    """Cut after its first characters, and before its newline only."""
    file = journal(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    assert read_records(file) == [make_epoch(epoch=1), make_epoch(epoch=2)]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"epoch": 2',
        b"{}",
        b'{"epoch": 2, "colour": "red"}',
        b"\0\0\0\0",
        b"",
        b"7",
        b"null",
        b"[]",
        b'{"epoch": \xff\xfe}',
    ],
)
def test_damage_in_the_middle_names_file_and_line(tmp_path: Path, damage: bytes) -> None:
    file = journal(tmp_path)
    lines = file.read_bytes().split(b"\n")
    lines[1] = damage
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(MissingError) as caught:
        read_records(file)
    assert str(file) in str(caught.value)
    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_records(tmp_path / "epochs.jsonl") == []


def test_an_epoch_is_synced_whole_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Store(tmp_path).open(CONFIG) as directory:
        for epoch in (1, 2):
            directory.append(make_epoch(epoch=epoch))
            size = (directory.path / "epochs.jsonl").stat().st_size
            assert synced[-1] == size > 0


def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    with Store(tmp_path).open(CONFIG) as directory:
        with pytest.raises(ValueError, match="JSON"):
            directory.append(make_epoch(loss=float("nan")))
        with pytest.raises(ValueError, match="JSON"):
            directory.finish(make_result(epochs=(make_epoch(loss=float("inf")),)))
        assert directory.records() == []
        assert directory.result() is None


# --- all of a file or nothing ------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, b"old content"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    file = tmp_path / "result.json"
    if old is not None:
        write_bytes(file, old)
        assert file.read_bytes() == old

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as told:
        write_bytes(file, b"new")
    assert told.value.filename == str(file)
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else [file.name])
    assert old is None or file.read_bytes() == old


def test_the_old_file_is_there_until_the_new_one_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "result.json"
    write_bytes(file, b"old")
    seen: list[tuple[bytes, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: seen.append((file.read_bytes(), os.fstat(fd).st_size))
    )
    write_bytes(file, b"longer than the old")
    assert seen[0] == (b"old", len(b"longer than the old"))
    assert file.read_bytes() == b"longer than the old"


# --- opening a run -----------------------------------------------------------------------------

HOLD = """
import json, sys
from pathlib import Path
from stability_probe.config import RunConfig
from stability_probe.store import Store
with Store(Path(sys.argv[1])).open(RunConfig.from_dict(json.loads(sys.argv[2]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(root: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), json.dumps(CONFIG.to_dict())],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_belongs_to_one_process(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path) as process:
        with pytest.raises(RunError) as caught, Store(tmp_path).open(CONFIG):
            pass
        assert "\n" not in str(caught.value)
        assert str(tmp_path / CONFIG.run_id()) in str(caught.value)
        assert caught.value.exit_code == 3
        with Store(tmp_path).open(dataclasses.replace(CONFIG, seed=1)):
            pass  # another run is free
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Store(tmp_path).open(CONFIG) as directory:  # a killed process leaves no lock
            assert directory.records() == []


def test_a_root_that_is_a_run_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path).open(CONFIG) as directory:
        pass
    before = sorted(p.name for p in directory.path.iterdir())
    with pytest.raises(UsageError, match="itself a run"), Store(directory.path).open(CONFIG):
        pass
    assert sorted(p.name for p in directory.path.iterdir()) == before


def test_a_directory_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(CONFIG, lr=0.5)
    with Store(tmp_path).open(other) as directory:
        directory.append(make_epoch())
    moved = tmp_path / CONFIG.run_id()
    directory.path.rename(moved)
    with pytest.raises(UsageError, match="another run"), Store(tmp_path).open(CONFIG):
        pass
    assert json.loads((moved / "config.json").read_text())["lr"] == 0.5
    assert read_records(moved / "epochs.jsonl") == [make_epoch()]


def test_data_that_moved_and_other_threads_are_the_same_run(tmp_path: Path) -> None:
    with Store(tmp_path).open(CONFIG) as directory:
        directory.append(make_epoch())
    moved = dataclasses.replace(CONFIG, data_dir="/elsewhere", threads=3)
    with Store(tmp_path).open(moved) as again:
        assert again.records() == [make_epoch()]


def test_making_a_store_touches_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert Store(root).list() == []
    assert not root.exists()


def test_a_read_only_store_can_be_read_but_not_written(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Store(root).open(CONFIG) as directory:
        directory.finish(make_result())
    root.chmod(0o555)
    try:
        if os.access(root, os.W_OK):
            pytest.skip("this user may write anywhere")
        assert Store(root).load(CONFIG.run_id()) == make_result()
        assert [s.status for s in Store(root).list()] == ["finished"]
        other = dataclasses.replace(CONFIG, seed=1)
        with pytest.raises(PermissionError), Store(root).open(other):
            pass
        assert [p.name for p in root.iterdir()] == [CONFIG.run_id()]
    finally:
        root.chmod(0o755)


# --- looking at a store ------------------------------------------------------------------------


def test_the_list_has_every_run_by_name(tmp_path: Path) -> None:
    finished = dataclasses.replace(CONFIG, model="b-net", scheduler="deba", seed=2, max_epochs=2)
    diverged = dataclasses.replace(CONFIG, model="c-net", batch_size=32)
    unfinished = dataclasses.replace(CONFIG, model="a-net", data="crops")
    store = Store(tmp_path)
    with store.open(diverged) as directory:
        directory.finish(make_result(diverged, status="diverged", epochs=()))
    with store.open(finished) as directory:
        epochs = (make_epoch(test_accuracy=0.9), make_epoch(epoch=2, test_accuracy=0.7))
        directory.finish(make_result(finished, epochs=epochs))
    with store.open(unfinished) as directory:
        directory.append(make_epoch(test_accuracy=0.25, time_s=1.5))
    (tmp_path / "curves").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    common = {"data": "digits", "scheduler": "fixed", "seed": 0, "batch_size": 16, "epochs": 3}

    def summary(config: RunConfig, **fields: Any) -> RunSummary:
        return RunSummary(**{**common, "run_id": config.run_id(), "model": config.model, **fields})

    assert store.list() == [
        summary(
            unfinished,
            data="crops",
            epochs_done=1,
            status="unfinished",
            final_accuracy=0.25,
            time_s=1.5,
            last_batch_size=16,
        ),
        summary(
            finished,
            scheduler="deba",
            seed=2,
            epochs=2,
            epochs_done=2,
            status="finished",
            final_accuracy=0.7,
            time_s=4.0,
            last_batch_size=16,
            is_window=True,
        ),
        summary(
            diverged,
            batch_size=32,
            epochs_done=0,
            status="diverged",
            final_accuracy=None,
            time_s=0,
        ),
    ]


def test_an_unfinished_run_loads_as_far_as_it_went(tmp_path: Path) -> None:
    journal(tmp_path, count=2)
    result = Store(tmp_path).load(CONFIG.run_id())
    assert result.status == "unfinished"
    assert result.run_id == CONFIG.run_id()
    assert RunConfig.from_dict(result.config) == CONFIG
    assert result.epochs == (make_epoch(epoch=1), make_epoch(epoch=2))


def test_a_name_that_is_not_stored_gives_the_nearest(tmp_path: Path) -> None:
    journal(tmp_path)
    name = CONFIG.run_id()
    with pytest.raises(UsageError, match=f"did you mean {name}"):
        Store(tmp_path).load(name[:-2])
    with pytest.raises(UsageError) as caught:
        Store(tmp_path).load("zzzz")
    assert name not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": 1}'])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    journal(tmp_path)
    file = tmp_path / CONFIG.run_id() / "result.json"
    file.write_text(content)
    with pytest.raises(MissingError) as caught:
        Store(tmp_path).load(CONFIG.run_id())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the identity of a run ---------------------------------------------------------------------

OTHER_VALUES: dict[str, Any] = {
    "model": "resnet18",
    "data": "crops",
    "limit": 100,
    "img_size": 16,
    "batch_size": 32,
    "max_batch_size": 64,
    "epochs": 50,
    "window_epochs": 5,
    "max_epochs": 4,
    "seed": 1,
    "order_seed": 7,
    "device": "cpu",
    "precision": "bfloat16",
    "optimizer": "adamw",
    "lr": 0.02,
    "momentum": 0.8,
    "weight_decay": 0.0,
    "lr_schedule": "cosine",
    "lr_rule": "linear",
    "scheduler": "deba",
    "scheduler_args": {"window": 3},
    "channels_last": "on",
    "reset_moments": True,
    "compile": True,
}
NO_IDENTITY: dict[str, Any] = {"data_dir": "/data", "threads": 2}


def test_every_setting_that_changes_the_numbers_changes_the_name() -> None:
    base = RunConfig(model="resnet10t")
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    assert fields == OTHER_VALUES.keys() | NO_IDENTITY.keys()
    others = [dataclasses.replace(base, **{k: v}).run_id() for k, v in OTHER_VALUES.items()]
    assert len({base.run_id(), *others}) == 1 + len(others)


def test_a_whole_number_is_the_same_rate() -> None:
    whole = RunConfig(model="a", lr=1, momentum=0, weight_decay=0)
    assert whole.run_id() == RunConfig(model="a", lr=1.0, momentum=0.0, weight_decay=0.0).run_id()


def test_where_data_lies_and_threads_do_not_change_the_name() -> None:
    base = RunConfig(model="resnet10t")
    assert dataclasses.replace(base, **NO_IDENTITY).run_id() == base.run_id()


def test_the_name_of_a_run_survives_json_and_the_order_of_arguments() -> None:
    config = RunConfig(model="a", scheduler="deba", scheduler_args={"window": 3, "cooldown": 5})
    turned = dataclasses.replace(config, scheduler_args={"cooldown": 5, "window": 3})
    stored = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert stored == config
    assert stored.run_id() == turned.run_id() == config.run_id()


def test_runs_stored_by_earlier_versions_are_found() -> None:
    """The name must never change: it would orphan stored runs."""
    assert RunConfig(model="resnet50").run_id() == "resnet50-fixed-s0-79b131ee67"
    config = RunConfig(model="torchvision:vgg11", scheduler="deba", seed=3, lr=0.1)
    named = dataclasses.replace(config, scheduler_args={"reading": "eager"})
    assert config.run_id() == named.run_id() == "torchvision-vgg11-deba-s3-253c05c928"


def is_one_safe_folder(name: str) -> bool:
    return (
        Path("root", name).parent == Path("root")
        and os.path.normpath(f"root/{name}") == f"root/{name}"
        and not name.startswith(".")
        and not set(name) & set('/\\:\0\n*?"<>|')
        and len(os.fsencode(name)) <= 255
    )


@pytest.mark.parametrize(
    "model", ["../../x:y", "/etc/passwd", "..", ".", "a/../../b", "C:\\x", "a\nb\0c", "é" * 500]
)
def test_hostile_model_names_stay_inside_the_store(model: str) -> None:
    assert is_one_safe_folder(RunConfig(model=model).run_id())


@given(st.text(min_size=1))
def test_any_model_name_stays_inside_the_store(model: str) -> None:
    assert is_one_safe_folder(RunConfig(model=model).run_id())


def scheduler_config(name: str) -> RunConfig:
    return RunConfig(model="a", scheduler=name)


def seed_config(name: str) -> RunConfig:
    return RunConfig.from_dict({"model": "a", "seed": name})


@pytest.mark.parametrize("make", [scheduler_config, seed_config])
def test_other_hostile_settings_stay_inside_the_store(make: Callable[[str], RunConfig]) -> None:
    """Refused, or stored under one safe folder."""
    try:
        name = make("x/../../../../evil").run_id()
    except UsageError:
        return
    assert is_one_safe_folder(name)


def test_a_list_reads_summaries_and_believes_only_those_of_the_result_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with store.open(CONFIG) as directory:
        directory.finish(make_result())
    path = tmp_path / CONFIG.run_id()
    (path / "summary.json").rename(tmp_path / "kept")
    (told,) = store.list()
    (tmp_path / "kept").rename(path / "summary.json")
    with monkeypatch.context() as patch:
        patch.setattr("stability_probe.store.read_result", None)
        assert store.list() == [told]
    stale = json.loads((path / "summary.json").read_text()) | {"status": "unfinished"}
    stale["result_bytes"] += 1
    for damage in ("", "[]", "{}", '{"result_bytes": 3}', json.dumps(stale)):
        (path / "summary.json").write_text(damage)
        assert store.list() == [told]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loss": "high"}, r"Expected `float`, got `str` - at `\$.loss`"),
        ({"epoch": 1.5}, r"Expected `int`, got `float` - at `\$.epoch`"),
        ({"updates": True}, r"Expected `int`, got `bool`"),
        ({"noise": {"time_s": 1.0}}, r"missing required field .* - at `\$.noise`"),
        ({"colour": 3}, "unknown field 'colour'"),
        ({"batch_size": 0}, "batch_size is 0; it must be above 0"),
        ({"time_s": -1.0}, "time_s is -1.0; it must be at least 0"),
    ],
)
def test_a_record_holds_what_a_measurement_gives(change: dict[str, Any], told: str) -> None:
    values = to_plain(make_epoch())
    assert from_plain(EpochRecord, values) == make_epoch()
    with pytest.raises(TypeError, match=told):
        from_plain(EpochRecord, {**values, **change})
    with pytest.raises(TypeError, match="missing required field `loss`"):
        from_plain(EpochRecord, {k: v for k, v in values.items() if k != "loss"})


def test_a_stored_config_has_every_setting(tmp_path: Path) -> None:
    """Also those that the version which stored it did not know."""
    values = to_plain(make_result(CONFIG))
    values["config"] = {"model": CONFIG.model, "epochs": 90}
    assert from_plain(RunResult, values).config.keys() == CONFIG.to_dict().keys()
    values["config"] = {"model": CONFIG.model, "epochs": "many"}
    with pytest.raises(TypeError, match="epochs is 'many'"):
        from_plain(RunResult, values)


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "kept" / "page.html", tmp_path / "link.html"
    target.parent.mkdir()
    link.symlink_to(Path("kept", "page.html"))
    for content in (b"first", b"second"):
        write_bytes(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.timeout(10)
def test_only_a_file_is_written_over(tmp_path: Path) -> None:
    """A device would be replaced, a pipe waited for."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/null"), Path("/dev/stdout")):
        with pytest.raises(UsageError, match="is no file to keep; use another -o"):
            check_output(path, "report", "mark")


def test_answers_that_are_stored_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process had found the name free before any had written."""
    meeting = threading.Barrier(2, timeout=10)
    writes = store_module.write_json

    def write_together(path: Path, values: dict[str, Any]) -> None:
        meeting.wait()
        writes(path, values)

    monkeypatch.setattr(store_module, "write_json", write_together)
    save = Store(tmp_path)._save
    threads = [threading.Thread(target=save, args=("kept", "x", {"i": i})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted((tmp_path / "kept").iterdir())
    assert [f.name for f in files] == ["x-1.json", "x-2.json"]
    assert {store_module.read_json(f)["i"] for f in files} == {0, 1}


def test_an_answer_that_cannot_be_stored_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(store_module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        Store(tmp_path)._save("kept", "x", {})
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("text", ["{}", '{"points": []}', "[]", '{"points": 3}'])
def test_a_curve_of_another_version_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(MissingError, match=r"curve\.json"):
        read_measured(ThroughputCurve, path)


def test_a_curve_without_a_point_is_none(tmp_path: Path) -> None:
    values = {**to_plain(make_curve([16], [100.0])), "points": []}
    with pytest.raises(TypeError, match="must have a point"):
        from_plain(ThroughputCurve, values)
