"""Bad input, a table: what is typed, and the files it meets.

`tests/test_bad_inputs.py` holds each line against the exit code and the words it must give.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from predictor.corpus import format_corpus

MINE = """
import numpy as np
import torch
from torch import nn

from stability_probe.schedulers.base import Proposal

def net(num_classes, img_size=8): return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
def no_module(): return 3
def fails(): raise OSError("no such weights")
def none(): return None
def two_outputs(num_classes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(num_classes)
        def forward(self, x): return self.layer(x.flatten(1)), x
    return Net()
def too_few(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(1))
def without_parameters(num_classes): return nn.Flatten()
def frozen(num_classes):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
    net(torch.zeros(1, 3, 8, 8))
    return net.requires_grad_(False)
def never_forward(num_classes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, num_classes)
        def forward(self, x): raise ValueError("not today")
    return Net()
def detached(num_classes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(num_classes)
        def forward(self, x): return self.layer(x.flatten(1)).detach()
    return Net()
def quits(**_): raise SystemExit(0)
not_callable = 3

def arrays(n=40, classes=4, size=8, **changes):
    images = (np.arange(n * 3 * size * size) % 256).astype(np.uint8).reshape(n, 3, size, size)
    labels = np.arange(n) % classes
    return images, labels
def good(): return (*arrays(), *arrays(20))
def no_images(): return "x"
def one_array(): return arrays()[0]
def three(): return (*arrays(), arrays()[0])
def other_length(): return arrays()[0], arrays()[1][:-1], *arrays(20)
def strings(): return arrays()[0], np.array(["a"] * 40), *arrays(20)
def fractions(): return arrays()[0], np.linspace(0, 1, 40), *arrays(20)
def negative(): return arrays()[0], arrays()[1] - 1, *arrays(20)
def above_one(): return arrays()[0] / 16.0, arrays()[1], *arrays(20)
def nan_pixel():
    images = arrays()[0] / 255.0
    images[0, 0, 0, 0] = np.nan
    return images, arrays()[1], *arrays(20)
def five_dims(): return arrays()[0][None], arrays()[1], *arrays(20)
def seven_channels(): return np.zeros((40, 7, 8, 8), np.uint8), arrays()[1], *arrays(20)
def no_test(): return (*arrays(), arrays()[0][:0], arrays()[1][:0])
def empty(): return arrays()[0][:0], arrays()[1][:0], *arrays(20)
def one_class(): return arrays()[0], arrays()[1] * 0, arrays(20)[0], arrays(20)[1] * 0
def strange_test(): return (*arrays(), arrays(20)[0], arrays(20)[1] + 7)
def signed(): return arrays()[0].astype(np.int16) - 300, arrays()[1], *arrays(20)
def objects(): return np.array([object()] * 40), arrays()[1], *arrays(20)
def other_size(): return (*arrays(), *arrays(20, size=12))
def fails_to_load(): raise FileNotFoundError("pictures.npy")
def wants_argument(path): return good()

class Stuck:
    def propose(self, record): return None
class Silent(Stuck):
    def propose(self, record): return Proposal(batch_size=16, reason=None)
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
def no_schedule(): return 3
"""

TOML = {
    "empty_name.toml": '"" = 3\n',
    "unknown.toml": "batchsize = 32\n",
    "twice.toml": "batch-size = 32\nbatch_size = 16\n",
    "text.toml": 'batch-size = "many"\n',
    "real.toml": "batch-size = 1.5\n",
    "negative.toml": "batch-size = -16\n",
    "list.toml": "batch-size = [16, 32]\n",
    "table.toml": "[batch-size]\na = 3\n",
    "date.toml": "epochs = 2026-01-01\n",
    "no_bool.toml": 'compile = "yes"\n',
    "choice.toml": 'optimizer = "adam"\n',
    "lr_text.toml": 'lr = "0.1"\n',
    "lr_nan.toml": "lr = nan\n",
    "lr_inf.toml": "lr = inf\n",
    "seeds.toml": 'seeds = ["a"]\n',
    "args.toml": "scheduler-arg = 3\n",
    "arg_text.toml": 'scheduler-arg = "cooldown"\n',
    "arg_nan.toml": "[scheduler-arg]\nwindow = [nan]\n",
    "cut.toml": "batch-size = \n",
    "no_toml.toml": "<html>\n",
    "deep.toml": "a = " + "[" * 50_000,
    "itself.toml": 'config = "other.toml"\n',
    "model_list.toml": 'model = ["resnet18"]\n',
    "big.toml": "epochs = 99999999999999999999999999\n",
}
SWEEPS = {
    "s_empty.toml": "",
    "s_no_model.toml": "[base]\nepochs = 3\n",
    "s_table.toml": "[grids]\nseed = [0]\n",
    "s_scalar.toml": "grid = 3\n",
    "s_point.toml": '[grid]\nmodel = "resnet18"\n',
    "s_none.toml": '[base]\nmodel = "resnet18"\n[grid]\nseed = []\n',
    "s_unknown.toml": '[base]\nmodel = "resnet18"\nbatchsize = 3\n',
    "s_value.toml": '[base]\nmodel = "resnet18"\nepochs = 0\n',
    "s_arm.toml": '[base]\nmodel = "resnet18"\n[schedules]\nfixed = 3\n',
    "s_schedule.toml": '[base]\nmodel = "resnet18"\n[schedules]\na = {scheduler = "debba"}\n',
    "s_schedules.toml": 'schedules = ["fixed"]\n[base]\nmodel = "resnet18"\n',
    "s_models.toml": '[base]\nmodel = "resnet18"\n[models]\nresnet18 = 3\n',
    "s_huge.toml": "[base]\nmodel = 'a'\n[grid]\n"
    + "".join(f"{n} = {list(range(1, 101))}\n" for n in ("seed", "epochs", "batch_size", "limit")),
    "s_nan.toml": '[base]\nmodel = "resnet18"\nscheduler_args = {a = [inf]}\n',
    "s_date.toml": '[base]\nmodel = "resnet18"\nscheduler_args = {a = 2026-01-01}\n',
    "s_cut.toml": "[base\n",
    "s_deep.toml": "a = " + "[" * 50_000,
    "s_number.toml": "[base]\nmodel = 3\n",
    "s_data.toml": '[base]\nmodel = "test_resnet"\ndata = "digit"\n',
}


def write_files(folder: Path) -> None:
    """Everything that the table's lines name."""
    (folder / "mine.py").write_text(MINE)
    (folder / "broken.py").write_text("def net(:\n")
    (folder / "raises.py").write_text("raise RuntimeError('at import')\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(9)\n")
    for name, text in {**TOML, **SWEEPS}.items():
        (folder / name).write_text(text)
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.toml").mkdir()
    (folder / "taken").write_text("mine")
    os.mkfifo(folder / "pipe")
    stored(folder)
    data(folder)


def stored(folder: Path) -> None:
    texts = {
        "empty.json": "",
        "cut.json": '{"characterization": {"config"',
        "list.json": "[1, 2]",
        "number.json": "3",
        "nan.json": '{"a": NaN}',
        "deep.json": "[" * 100_000,
        "nothing.json": "{}",
        "other.json": '{"a": 1}',
        "probe.json": '{"characterization": {}, "prediction": {}}',
        "probe_list.json": '{"characterization": [], "prediction": []}',
        "study.json": '{"study": {}}',
        "study_null.json": '{"study": null}',
        "validation.json": '{"comparisons": [], "measured": {}}',
        "run.json": '{"run_id": "a", "epochs": []}',
        "crc.json": '{"crc32": "00000000","a": 1}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.json").mkdir()
    for name, text in {
        "c_empty.csv": "",
        "c_text.csv": "hello\nworld\n",
        "c_other.csv": "model,data\na,b\n",
        "c_nul.csv": format_corpus([]) + "a\0b,c\n",
        "c_quote.csv": format_corpus([]) + '"a,b\n',
    }.items():
        (folder / name).write_text(text)
    runs = folder / "runs"
    for name, files in {
        "no-config": {"epochs.jsonl": ""},
        "bad-config": {"config.json": "{"},
        "list-config": {"config.json": "[]"},
        "odd-config": {"config.json": json.dumps({"model": "resnet18", "epochs": "many"})},
        "no-model": {"config.json": json.dumps({"epochs": 3})},
        "new-config": {"config.json": json.dumps({"model": "resnet18", "colour": 3})},
        "renamed": {"config.json": json.dumps({"model": "resnet18"})},
        # Their own names, by which an unfinished run is known.
        "resnet18-fixed-s0-aa9cfcf9e5": {"config.json": json.dumps({"model": "resnet18"})},
        "resnet18-fixed-s1-aab7819f48": {
            "config.json": json.dumps({"model": "resnet18", "seed": 1}),
            "epochs.jsonl": "x\n",
        },
        "resnet18-fixed-s2-cd4adff097": {
            "config.json": json.dumps({"model": "resnet18", "seed": 2}),
            "epochs.jsonl": "null\n",
        },
        "bad-result": {"config.json": json.dumps({"model": "resnet18"}), "result.json": "{"},
        "list-result": {"config.json": json.dumps({"model": "resnet18"}), "result.json": "[]"},
        "odd-result": {
            "config.json": json.dumps({"model": "resnet18"}),
            "result.json": '{"run_id": 3}',
        },
    }.items():
        (runs / name).mkdir(parents=True)
        for file, text in files.items():
            (runs / name / file).write_text(text)


def data(folder: Path) -> None:
    for name, images in {
        "d_empty": b"",
        "d_text": b"hello",
        "d_magic": struct.pack(">4I", 0x801, 2, 4, 4) + bytes(32),
        "d_cut": struct.pack(">4I", 0x803, 2, 4, 4) + bytes(31),
        "d_long": struct.pack(">4I", 0x803, 2, 4, 4) + bytes(33),
        "d_huge": struct.pack(">4I", 0x803, 2**31, 2**31, 2**31),
        "d_none": struct.pack(">4I", 0x803, 0, 4, 4),
    }.items():
        (folder / name).mkdir()
        (folder / name / "train-images-idx3-ubyte").write_bytes(images)
    for name, batch in {"d_cifar": b"x", "d_pickle": b"cos\nsystem\n(S'true'\ntR."}.items():
        (folder / name).mkdir()
        (folder / name / "data_batch_1").write_bytes(batch)
    (folder / "d_nothing").mkdir()
    (folder / "f_one" / "train" / "a").mkdir(parents=True)
    (folder / "f_one" / "train" / "a" / "x.png").write_bytes(b"x")
    for label in "ab":
        (folder / "f_bad" / "train" / label).mkdir(parents=True)
        for i in range(3):
            (folder / "f_bad" / "train" / label / f"{i}.png").write_bytes(b"no picture")
