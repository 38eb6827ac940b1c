"""A model's buffers, whichever tensors hold them: a forward pass may put another in the place of
one, of another shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Leave the buffers as they are, whatever is done to the model meanwhile."""
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, (buffer, values) in before.items():
                _put(model, name, buffer.copy_(values))


def restore_buffers(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """The buffers that a checkpoint has, by name; a tensor of the same shape stays in its place."""
    for name, buffer in model.named_buffers():
        before = saved.get(name)
        if not isinstance(before, Tensor):
            continue
        if (before.shape, before.dtype) == (buffer.shape, buffer.dtype):
            buffer.copy_(before)
        else:
            _put(model, name, before.to(buffer.device))


def _put(model: nn.Module, name: str, buffer: Tensor) -> None:
    path, _, own = name.rpartition(".")
    model.get_submodule(path)._buffers[own] = buffer
