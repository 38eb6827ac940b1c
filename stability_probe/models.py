"""Models by name, for small images and any number of classes; never with pretrained weights."""

from __future__ import annotations

import difflib
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import timm
import torch
import torchvision
from timm.layers.norm import RmsNorm, RmsNorm2d
from timm.layers.patch_embed import PatchEmbed
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stability_probe.buffers import buffers_kept
from stability_probe.device import is_out_of_memory
from stability_probe.errors import ProbeError, RunError, UsageError
from stability_probe.randomness import randomness_kept
from stability_probe.records import ModelSize
from stability_probe.user_code import (
    as_callable,
    cause,
    import_callable,
    working_directory_importable,
)

_TORCHVISION = "torchvision:"
_NORMALIZATIONS = (
    ("batch", nn.modules.batchnorm._BatchNorm),
    ("layer", nn.LayerNorm),
    ("group", nn.GroupNorm),
    ("rms", (nn.RMSNorm, RmsNorm, RmsNorm2d)),
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
    global random state, which the caller seeds. Raises `UsageError` for an unknown name, a shape
    the model cannot have, or a callable that fails or returns no module.
    """
    wanted = {"num_classes": num_classes, "img_size": img_size, "in_chans": in_chans}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name.startswith(_TORCHVISION):
                return _make_torchvision(name, wanted)
            if is_own_model(name):
                return _make_user(name, wanted)
            return _make_timm(name, wanted)
    except ProbeError:
        raise
    except Exception as error:  # constructors of others fail in their own ways
        raise UsageError(
            f"{name} cannot be made for {img_size}x{img_size} images: {cause(error)}; "
            f"{_other_size(224, img_size)}"
        ) from error


def is_own_model(name: str) -> bool:
    """Whether a name is of the user's own code."""
    # timm's models have no prefix, but people who know the other one will type it.
    return ":" in name and not name.startswith((_TORCHVISION, "timm:"))


def check_model(
    model: nn.Module,
    name: str,
    *,
    num_classes: int,
    img_size: int,
    in_chans: int = 3,
    height: int | None = None,
) -> None:
    """One forward pass of two images; of the user's own model, one step's gradient too.

    Images are [in_chans, height, img_size], square without `height`. Raises `UsageError` unless
    it gives [2, num_classes], and for a model with nothing to train or without a gradient;
    `RunError` where the memory does not hold two images.
    """
    shape = (in_chans, height or img_size, img_size)
    with _left_alone(model, training=False):
        logits = _try_forward(model, name, shape)
        _require_logits(name, logits, num_classes, "for two images")
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"{name} has no parameter to train; unfreeze it with requires_grad_()")
    if is_own_model(name):
        with _left_alone(model, training=True):
            logits = _try_forward(model, name, shape, when=" in training")
            _require_logits(name, logits, num_classes, "in training")
            _require_gradient(model, name, logits)
        _require_plain_state(model, name)


@contextmanager
def _left_alone(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Evaluation, or training that leaves the model and the random state as they were."""
    was_training = model.training
    model.train(training)
    try:
        # Not inference_mode: what a model keeps from this pass could not be trained with. The first
        # pass, in evaluation, is the one that makes what is lazy.
        with (
            randomness_kept() if training else nullcontext(),
            buffers_kept(model) if training else nullcontext(),
            torch.set_grad_enabled(training),
        ):
            yield
    finally:
        model.train(was_training)


def _try_forward(model: nn.Module, name: str, shape: tuple[int, int, int], when: str = "") -> Any:
    """What a model gives for two images."""
    try:
        return model(torch.zeros(2, *shape))
    except (Exception, SystemExit) as error:
        _require_memory(error)
        channels, height, width = shape
        if is_own_model(name):
            advice = _advice(error, channels)
        else:
            native = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (224,))
            advice = f"; {_other_size(native[-1], width)}"
        raise UsageError(
            f"{name} does not take {height}x{width} images{when}: {cause(error)}{advice}"
        ) from error


def _require_logits(name: str, logits: Any, num_classes: int, when: str) -> None:
    is_tensor = isinstance(logits, torch.Tensor)
    if not is_tensor or logits.shape != (2, num_classes):
        got = list(logits.shape) if is_tensor else type(logits).__name__
        raise UsageError(f"{name} returns {got} {when}; it must return logits [2, {num_classes}]")


def _require_gradient(model: nn.Module, name: str, logits: torch.Tensor) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        found = torch.autograd.grad(loss, trained, allow_unused=True)
    except (Exception, SystemExit) as error:
        _require_memory(error)
        raise UsageError(
            f"{name} cannot be trained by its logits: {cause(error)}; they must be floats, and "
            "nothing on the way to them detached or changed in place"
        ) from error
    if any(gradient is not None and gradient.is_sparse for gradient in found):
        raise UsageError(f"{name} has a sparse gradient, which is not measured; use sparse=False")
    if all(gradient is None for gradient in found):
        raise UsageError(f"{name} gives no parameter a gradient; use them in forward, undetached")


def _require_plain_state(model: nn.Module, name: str) -> None:
    """What a module keeps beside its tensors must be such as is read back without running code."""
    extra = {k: v for k, v in model.state_dict().items() if not isinstance(v, torch.Tensor)}
    if not extra:
        return
    try:
        buffer = io.BytesIO()
        torch.save(extra, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception as error:  # pickling fails in as many ways as there are objects
        raise UsageError(
            f"the state of {name} cannot be stored ({cause(error)}); let get_extra_state() give "
            "tensors and plain values"
        ) from error


def _require_memory(error: BaseException) -> None:
    if is_out_of_memory(error, torch.device("cpu")):
        raise RunError(
            "out of memory even with 2 samples at a time; use a smaller model or --img-size"
        ) from error


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


def model_size(
    model: nn.Module, *, img_size: int, in_chans: int = 3, height: int | None = None
) -> ModelSize:
    """Parameters, multiply-adds and layers of a model, for images [in_chans, height, img_size].

    Multiply-adds are those of convolutions and matrix products (torch's counter, halved), in one
    forward pass; a model that cannot be counted raises what its forward pass raises. Images are
    square without `height`.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    norm_types = tuple(
        t for _, kind in _NORMALIZATIONS for t in (kind if isinstance(kind, tuple) else (kind,))
    )
    return ModelSize(
        num_params=num_params(model),
        num_macs=_num_macs(model, (in_chans, height or img_size, img_size)),
        num_tensors=len(trainable),
        num_norm_layers=sum(isinstance(m, norm_types) for m in model.modules()),
        normalization=normalization(model),
    )


def _num_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    device = next(model.parameters()).device
    was_training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    # The counter hooks what requires a gradient, and fails at a view of a parameter under no_grad.
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        # Fused attention is not counted on every device; its plain form is.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as count:
            model(torch.zeros(2, *shape, device=device))
    finally:
        model.train(was_training)
        for parameter in trainable:
            parameter.requires_grad_(True)
    # Of two images, as in `check_model`; a multiply-add is two operations.
    return int(count.get_total_flops()) // 4


def model_names() -> list[str]:
    """Every timm name, then every ``torchvision:NAME`` that classifies images."""
    classifiers = torchvision.models.list_models(module=torchvision.models)
    return [*timm.list_models(), *(_TORCHVISION + n for n in classifiers)]


def suggest(name: str) -> list[str]:
    """At most three known names near an unknown one: the same name in the other library, else
    those spelled alike, else the shortest that begin so."""
    library, _, bare = name.rpartition(":")
    bare = bare.lower().replace("-", "_")
    names = model_names()
    same = [n for n in names if n.removeprefix(_TORCHVISION) == bare]
    if same or not bare:
        return same
    if library == "torchvision":
        names = [n for n in names if n.startswith(_TORCHVISION)]
    # Compared without the prefix, which would make all names of one library look alike;
    # reversed, so that timm's spelling wins where both libraries have the name.
    known = {n.removeprefix(_TORCHVISION): n for n in reversed(names)}
    near = difflib.get_close_matches(bare, known, n=3, cutoff=0.7)
    near = near or sorted((n for n in known if n.startswith(bare)), key=lambda n: (len(n), n))[:3]
    return [known[n] for n in near]


def unknown_model(name: str) -> UsageError:
    """An error that names the nearest models, of both libraries."""
    own, near = as_callable(name), suggest(name)
    hint = f"did you mean {' or '.join(near)}?" if near else "see probe models '*vit*'"
    if own:
        hint = f"for your own function write {own}"
    return UsageError(
        f"unknown model {name!r}; {hint} (a timm name, torchvision:NAME or package.module:callable)"
    )


def _make_timm(name: str, wanted: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        raise unknown_model(name)
    architecture, _, tag = name.partition(".")
    if tag:
        raise UsageError(
            f"{name} names pretrained weights, which are never loaded; use {architecture}"
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **wanted)
    except TypeError as error:
        # Nets that take any size have no such argument.
        if "img_size" not in str(error):
            raise
        others = {k: v for k, v in wanted.items() if k != "img_size"}
        model = timm.create_model(name, pretrained=False, **others)
    _require_whole_patches(model, name, wanted["img_size"])
    return model


def _require_whole_patches(model: nn.Module, name: str, img_size: int) -> None:
    """timm leaves out the pixels beyond the last whole patch without a word."""
    for module in model.modules():
        if not isinstance(module, PatchEmbed) or module.img_size is None:
            continue
        side, patch = module.img_size[0], module.patch_size[0]
        # A later stage embeds a feature map, whose side is not the image's to choose.
        if side == img_size and side % patch and not module.dynamic_img_pad:
            below = side - side % patch
            fitting = f"{below} or {below + patch}" if below else str(patch)
            raise UsageError(
                f"{name} cuts images into {patch}x{patch} patches, which do not divide "
                f"{img_size}x{img_size}; use --img-size {fitting}"
            )


def _make_torchvision(name: str, wanted: Mapping[str, Any]) -> nn.Module:
    bare = name.removeprefix(_TORCHVISION)
    if name not in model_names():
        raise unknown_model(name)
    if wanted["in_chans"] != 3:
        raise UsageError(
            f"{name} takes images of 3 channels, not {wanted['in_chans']}; use a timm model"
        )
    builder = torchvision.models.get_model_builder(bare)
    extras = dict(_TORCHVISION_EXTRAS.get(bare, {}))
    if bare.startswith("vit_"):
        extras["image_size"] = wanted["img_size"]
    model: nn.Module = builder(weights=None, num_classes=wanted["num_classes"], **extras)
    return model


def _make_user(name: str, wanted: Mapping[str, Any]) -> nn.Module:
    with working_directory_importable():
        make = import_callable(name)
        accepted = inspect.signature(make).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        given = {k: v for k, v in wanted.items() if takes_all or k in accepted}
        try:
            with torch.enable_grad():  # and as it was, whatever that leaves behind
                model = make(**given)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{name} raised {cause(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned {type(model).__name__}, not a torch module")
    return model


def _advice(error: BaseException, channels: int) -> str:
    """What to do about a failure of the user's own model, where images of another shape help."""
    told = str(error).lower()
    if not isinstance(error, (RuntimeError, ValueError, AssertionError)):
        return ""
    if "channels" in told:
        return f"; images have {channels} channels: let it accept in_chans"
    if "shape" in told or "size" in told:
        return "; use --img-size with the size your model is made for, or let it accept img_size"
    return ""


def _other_size(native: int, img_size: int) -> str:
    return f"use --img-size {native}" if native != img_size else "use another --img-size"
