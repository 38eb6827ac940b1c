"""Models by name, for small images and any number of classes; never with pretrained weights."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from timm.layers.norm import RmsNorm
from torch import nn

from stability_probe.errors import ProbeError, UsageError
from stability_probe.user_code import import_callable, one_line, working_directory_importable

_TORCHVISION = "torchvision:"
_NORMALIZATIONS = (
    ("batch", nn.modules.batchnorm._BatchNorm),
    ("layer", nn.LayerNorm),
    ("group", nn.GroupNorm),
    ("rms", (nn.RMSNorm, RmsNorm)),
)
_TORCHVISION_EXTRAS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""Nets that otherwise return more than logits while training, and warn about their weights."""


def make_model(name: str, *, num_classes: int, img_size: int, in_chans: int = 3) -> nn.Module:
    """A model with fresh weights for images of shape [in_chans, img_size, img_size].

    `name` is a timm name, ``torchvision:NAME`` or ``package.module:callable``; a callable gets
    those of num_classes, img_size and in_chans that it accepts. Weights are drawn from torch's
    global random state, which the caller seeds. Raises `UsageError` for an unknown name, a size
    the model cannot have, or a callable that returns no module.
    """
    wanted: dict[str, Any] = {
        "num_classes": num_classes,
        "img_size": img_size,
        "in_chans": in_chans,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name.startswith(_TORCHVISION):
                return _make_torchvision(name, num_classes, img_size)
            if ":" in name:
                return _make_user(name, wanted)
            return _make_timm(name, wanted)
    except ProbeError:
        raise
    except Exception as error:  # constructors of others fail in their own ways
        raise UsageError(
            f"{name} cannot be made for {img_size}x{img_size} images ({one_line(error)}); "
            "use another --img-size, such as 224"
        ) from error


def check_model(
    model: nn.Module, name: str, *, num_classes: int, img_size: int, in_chans: int = 3
) -> None:
    """One forward pass of two images. Raises `UsageError` unless it gives [2, num_classes]."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(torch.zeros(2, in_chans, img_size, img_size))
    except Exception as error:
        raise UsageError(
            f"{name} does not take {img_size}x{img_size} images ({one_line(error)}); "
            "use another --img-size, such as 224"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UsageError(
            f"{name} returns {shape} for two images; it must return logits [2, {num_classes}]"
        )


def num_params(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def normalization(model: nn.Module) -> str:
    """Which normalization the model has: batch, layer, group, rms, none or mixed."""
    found = {
        kind
        for kind, module_type in _NORMALIZATIONS
        if any(isinstance(m, module_type) for m in model.modules())
    }
    return "mixed" if len(found) > 1 else (found.pop() if found else "none")


@cache
def model_names() -> tuple[str, ...]:
    """Every timm name and every ``torchvision:NAME`` that classifies images."""
    classifiers = torchvision.models.list_models(module=torchvision.models)
    return (*timm.list_models(), *(_TORCHVISION + n for n in classifiers))


def unknown_model(name: str) -> UsageError:
    """An error that names the nearest models, of both libraries."""
    bare = name.removeprefix(_TORCHVISION)
    same = [n for n in model_names() if n.removeprefix(_TORCHVISION) == bare]
    near = same or difflib.get_close_matches(name, model_names(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
    return UsageError(
        f"unknown model {name!r}; {hint} (a timm name, torchvision:NAME or package.module:callable)"
    )


def _make_timm(name: str, wanted: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        raise unknown_model(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **wanted)
    except TypeError as error:
        # Nets that take any size have no such argument.
        if "img_size" not in str(error):
            raise
        others = {k: v for k, v in wanted.items() if k != "img_size"}
        model = timm.create_model(name, pretrained=False, **others)
    return model


def _make_torchvision(name: str, num_classes: int, img_size: int) -> nn.Module:
    bare = name.removeprefix(_TORCHVISION)
    if name not in model_names():
        raise unknown_model(name)
    builder = torchvision.models.get_model_builder(bare)
    extras = dict(_TORCHVISION_EXTRAS.get(bare, {}))
    if bare.startswith("vit_"):
        extras["image_size"] = img_size
    model: nn.Module = builder(weights=None, num_classes=num_classes, **extras)
    return model


def _make_user(name: str, wanted: Mapping[str, Any]) -> nn.Module:
    with working_directory_importable():
        make = import_callable(name)
        accepted = inspect.signature(make).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        given = {k: v for k, v in wanted.items() if takes_all or k in accepted}
        try:
            model = make(**given)
        except Exception as error:
            raise UsageError(f"{name} raised {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned {type(model).__name__}, not a torch module")
    return model
