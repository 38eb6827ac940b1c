"""Damage for every file that is read: of its bytes, and of the values in it.

Used by `tests/test_fuzz.py` for some cases and by `tests/benchmarks/fuzz.py` for many.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner, Result

import cli
from predictor.corpus import format_corpus, load_corpus
from predictor.scores import load_held_out
from stability_probe.datasets import load_dataset
from stability_probe.errors import ProbeError
from stability_probe.plain import to_plain
from stability_probe.settings import read_settings
from stability_probe.store import (
    RunDirectory,
    read_characterization,
    read_records,
    read_result,
    read_study,
)
from stability_probe.sweep import load_sweep
from tests.predictor_factories import make_corpus
from tests.report_factories import keep_probe, keep_run, make_pair, probed
from tests.test_datasets import python2_batch

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "data" / "studies" / "compare-test_vit.json"


def damaged(content: bytes, chance: random.Random) -> bytes:
    """`content` with one to three kinds of damage."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        size = len(found)
        at = chance.randrange(size + 1)
        some = chance.choice([1, 2, 8, 64, size // 2 or 1])
        match chance.randrange(7):
            case 0 if at < size:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + some]
            case 3:
                found[at : at + some] = bytes(len(found[at : at + some]))
            case 4:
                found[at:at] = found[at : at + some]
            case 5:
                found[at:at] = chance.randbytes(some)
            case _:
                words = [b"-1", b"1e400", b"NaN", b"null", b'"', b"\n", b"[", b"{", b"\x00", b","]
                found[at : at + some] = chance.choice(words)
    return bytes(found)


def idx(num_dims: int) -> bytes:
    shape = (20, 28, 28)[:num_dims]
    values = (np.arange(np.prod(shape)) % 10).astype(np.uint8)
    return struct.pack(f">{1 + num_dims}I", 0x800 + num_dims, *shape) + values.tobytes()


def fashion(folder: Path, content: bytes, name: str = "train-images-idx3-ubyte") -> None:
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(3))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(1))
    (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(content)
    load_dataset("fashion-mnist", data_dir=str(folder))


def cifar(folder: Path, content: bytes) -> None:
    for name in ("data_batch_1", *(f"data_batch_{i}" for i in range(2, 6)), "test_batch"):
        (folder / name).write_bytes(BATCH)
    (folder / "data_batch_1").write_bytes(content)
    load_dataset("cifar10", data_dir=str(folder))


BATCH = python2_batch(np.zeros((4, 3072), np.uint8), [0, 1, 2, 9], b"labels")
FIXED, DEBA = make_pair()
SWEEP = b"""[base]
epochs = 3
lr = 0.1
[grid]
model = ["a", "b"]
seed = [0, 1]
[schedules]
fixed = {scheduler = "fixed"}
deba = {scheduler = "deba", scheduler_args = {cooldown = 3}}
[models.a]
batch_size = 8
"""
CONFIG = b"""model = "resnet18"
batch-size = 32
lr = 0.1
seeds = [0, 1, 2]
channels-last = "on"
scheduler-arg = ["cooldown=3"]
"""


def stored(folder: Path, name: str) -> bytes:
    """What the store writes under that name."""
    directory = RunDirectory(folder)
    directory.finish(DEBA)
    for record in DEBA.epochs:
        directory.append(record)
    return (folder / name).read_bytes()


def under(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def write_and_read(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return write_and_read


def config_options() -> dict[str, click.Option]:
    params = cli.probe.commands["run"].params
    return {str(p.name): p for p in params if isinstance(p, click.Option)}


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path, bytes], object]]] = {
    "records": (lambda f: stored(f, "epochs.jsonl"), under("epochs.jsonl", read_records)),
    "result": (
        lambda f: stored(f, "result.json"),
        under("result.json", lambda p: read_result(p.parent)),
    ),
    "characterization": (
        lambda f: keep_probe(f, probed()).read_bytes(),
        under("c.json", read_characterization),
    ),
    "study": (lambda _: STUDY.read_bytes(), under("s.json", read_study)),
    "scores": (
        lambda _: (ROOT / "data" / "scores.json").read_bytes(),
        under("scores.json", load_held_out),
    ),
    "corpus": (
        lambda _: format_corpus(make_corpus(np.random.default_rng(0))).encode(),
        under("corpus.csv", load_corpus),
    ),
    "sweep": (lambda _: SWEEP, under("sweep.toml", load_sweep)),
    "config": (lambda _: CONFIG, under("c.toml", lambda p: read_settings(p, config_options(), ()))),
    "idx images": (lambda _: idx(3), fashion),
    "idx labels": (
        lambda _: idx(1),
        lambda f, c: fashion(f, c, "t10k-labels-idx1-ubyte"),
    ),
    "idx gzip": (
        lambda _: gzip.compress(idx(3), mtime=0),
        lambda f, c: fashion(f, c, "train-images-idx3-ubyte.gz"),
    ),
    "cifar": (lambda _: BATCH, cifar),
}


ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**70, -(2**70), 0.5, -0.5, 1e308, 1e-320, 5, 10**7),
    *(float("nan"), float("inf"), "", "x", "<script>", "../../x", "é" * 300, "a\nb"),
    *([], [1], [[]], ["x"], {}, {"a": 1}),
]


def exchanged(values: Any, chance: random.Random) -> Any:
    """`values` with one of them, anywhere, gone, doubled or another."""
    whole = copy.deepcopy(values)
    at = whole
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = chance.choice(list(keys))
        if isinstance(at[key], (dict, list)) and at[key] and chance.random() < 0.85:
            at = at[key]
            continue
        match chance.randrange(5):
            case 0:
                del at[key]
            case 1 if isinstance(at, list):
                at.append(at[key])
            case _:
                at[key] = chance.choice(ODD)
        return whole


@cache
def whole_values() -> dict[str, Any]:
    """The stored objects, without their checksums."""
    with tempfile.TemporaryDirectory() as folder:
        probe = json.loads(keep_probe(Path(folder), probed()).read_bytes())
    return {
        "probe": {k: v for k, v in probe.items() if k != "crc32"},
        "run": to_plain(DEBA),
        "study": json.loads(STUDY.read_bytes()),
    }


COMMANDS: dict[str, tuple[str, list[str]]] = {
    "predict": ("probe", ["predict", "c.json"]),
    "explain": ("run", ["explain", "RUN"]),
    "replay": ("run", ["replay-policy", "RUN", "--scheduler", "deba"]),
    "export": ("run", ["export", "RUN", "--to", "lightning"]),
    "runs": ("run", ["runs"]),
    "plot a run": ("run", ["plot", "RUN"]),
    "plot a probe": ("probe", ["plot", "c.json"]),
    "plot a study": ("study", ["plot", "c.json"]),
    "report a run": ("run", ["report", "RUN"]),
    "report a probe": ("probe", ["report", "c.json"]),
    "report a study": ("study", ["report", "c.json"]),
}


def read_damaged(kind: str, seed: int, folder: Path) -> str:
    """What the reader says of damaged bytes; empty when it reads them."""
    write, read = READERS[kind]
    (folder / "whole").mkdir()
    (folder / "damaged").mkdir()
    content = damaged(write(folder / "whole"), random.Random(seed))
    try:
        read(folder / "damaged", content)
    except click.UsageError as error:
        return error.format_message()
    except ProbeError as error:
        return str(error)
    return ""


def run_with_odd(command: str, seed: int) -> Result:
    """The command on a stored file with an odd value in it, in the working directory."""
    kind, words = COMMANDS[command]
    values = exchanged(whole_values()[kind], random.Random(seed))
    if kind == "run":
        keep_run(Path("probe-runs"), FIXED)
        folder = Path("probe-runs", keep_run(Path("probe-runs"), DEBA))
        (folder / "summary.json").unlink()
        (folder / "result.json").write_text(json.dumps(values))
        words = [DEBA.run_id if w == "RUN" else w for w in words]
    else:
        Path("c.json").write_text(json.dumps(values))
    return CliRunner().invoke(cli.probe, words)


def fault_of(done: Result, *, shows_the_rest: bool = False) -> str | None:
    """Why a command did not end as it should; None when it did. What it can read it may show."""
    if done.exit_code == 0:
        return None
    if done.exit_code not in (2, 3, 4):
        return f"exit code {done.exit_code}: {done.output}"
    if (
        (done.stdout and not shows_the_rest)
        or not done.stderr.startswith("probe: ")
        or done.stderr.count("\n") != 1
    ):
        return f"more than a line, or on stdout: {done.output}"
    return None
