"""Whether the user's own model, data and schedule are still what a store's runs were made with.

A run is found again by the names in its config. A named model never changes; behind
``package.module:callable`` and ``folder:PATH`` anything may be edited, and the stored result would
be reported for it, or paired with it. So a store keeps what they were:

ROOT/fingerprints/KIND-DIGEST.json
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, load_dataset
from stability_probe.errors import UsageError
from stability_probe.files import read_json, write_json
from stability_probe.models import check_model, is_own_model, make_model
from stability_probe.randomness import randomness_kept, seed_everything
from stability_probe.user_code import import_callable, is_own, working_directory_importable

_TOLERANCE = 1e-3
"""Relative; processors differ in the last bits of a gradient, an edit changes its first digits."""
_IMAGES, _SEED = 2, 2511
_LATER = ("training_loss",)
"""Not in the fingerprints of earlier versions."""


def require_unchanged(config: RunConfig, dataset: Dataset, root: Path) -> None:
    """Compare what the user's own code makes with what it made for the runs at `root`.

    The first run keeps it. Raises `UsageError` where it is another model, data set or schedule.
    """
    data = (config.data, config.limit, config.img_size)
    if is_own(config.data):

        def again() -> dict[str, Any]:
            dataset = load_dataset(
                config.data,
                data_dir=config.data_dir,
                limit=config.limit,
                img_size=config.img_size,
            )
            return _of_data(dataset)

        _compare(root, "data", data, _of_data(dataset), again)
    if is_own_model(config.model):
        measure = partial(_of_model, config.model, dataset)
        _compare(root, "model", (config.model, *data), measure(), measure)
    if is_own(config.scheduler):
        measure = partial(_of_scheduler, config.scheduler)
        _compare(root, "scheduler", (config.scheduler,), measure(), measure)


def has_fingerprint(config: RunConfig) -> bool:
    """Whether a run has a fingerprint, for which its data must be loaded."""
    return is_own(config.data) or is_own_model(config.model) or is_own(config.scheduler)


def _compare(
    root: Path,
    kind: str,
    names: tuple[object, ...],
    here: dict[str, Any],
    again: Callable[[], dict[str, Any]],
) -> None:
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:10]
    path = root / "fingerprints" / f"{kind}-{digest}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"name": names[0], **here})
        return
    before = read_json(path)
    if not (changed := _changed(before, here)):
        return
    told = f"other {', '.join(w.replace('_', ' ') for w in changed)}"
    if _changed(here, again()):
        raise UsageError(
            f"{names[0]} gives another {kind} each time it is called ({told}); let it seed what it "
            "draws, and make a new model each time"
        )
    raise UsageError(
        f"{names[0]} is no longer the {kind} that the runs in {root} were made with "
        f"({told}); use another -o"
    )


def _changed(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs; an earlier version did not look at all of it."""
    return [
        what
        for what, value in here.items()
        if what not in _LATER or what in before
        if not _same(before.get(what), value)
    ]


def _same(before: object, here: object) -> bool:
    if isinstance(before, float) and isinstance(here, float):
        return math.isclose(before, here, rel_tol=_TOLERANCE)
    return before == here


def _of_data(dataset: Dataset) -> dict[str, Any]:
    """Hashes of every pixel and label, and how they are used."""
    return {
        "training_images": _digest(_bytes(dataset.train_images)),
        "training_labels": _digest(_bytes(dataset.train_labels)),
        "test_images": _digest(_bytes(dataset.test_images)),
        "test_labels": _digest(_bytes(dataset.test_labels)),
        "augmentation": dataset.augment,
    }


def _of_model(name: str, dataset: Dataset) -> dict[str, Any]:
    """Its layers, and loss and gradient of its first weights for images that never change.

    The gradient is that of evaluation mode, since in training BatchNorm blows up what processors
    round differently; what training alone does, such as dropout, its loss tells.
    """
    _, channels, height, width = dataset.train_images.shape
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_IMAGES, channels, height, width, generator=generator)
    shape = {"num_classes": dataset.num_classes, "img_size": width, "in_chans": channels}
    labels = torch.arange(_IMAGES) % dataset.num_classes
    with randomness_kept():
        seed_everything(_SEED)
        model = make_model(name, **shape)
        check_model(model, name, **shape, height=height)
        model.eval()
        loss = F.cross_entropy(model(images), labels)
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        layers = [str(model), *(f"{k} {_shape(v)}" for k, v in model.state_dict().items())]
        model.train()
        seed_everything(_SEED)
        with torch.no_grad():
            training_loss = F.cross_entropy(model(images), labels)
    # Where a function is told by its address, that differs from process to process.
    text = re.sub(r" at 0x[0-9a-f]+", "", "\n".join(layers))
    norms = torch.stack([g.double().norm() for g in gradients if g is not None])
    return {
        "layers": _digest(text.encode()),
        "loss": _plain(loss.detach()),
        "gradient": _plain(norms.norm()),
        "training_loss": _plain(training_loss),
    }


def _shape(value: object) -> str:
    """Of a tensor of a state; of other state, which a module may have, no more than its type."""
    return str(list(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def _of_scheduler(name: str) -> dict[str, Any]:
    """The source of the file that defines it, comments and layout apart; none, where it has none.

    A rule shows in no single number: all of its file may have a part in what it decides.
    """
    with working_directory_importable():
        made = import_callable(name)
    try:
        source = inspect.getsource(inspect.getmodule(made) or made)
        return {"source": _digest(ast.unparse(ast.parse(source)).encode())}
    except (OSError, TypeError, SyntaxError):
        return {"source": None}


def _plain(number: torch.Tensor) -> float | str:
    """For JSON, which knows no NaN and no infinity."""
    value = float(number)
    return value if math.isfinite(value) else str(value)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
