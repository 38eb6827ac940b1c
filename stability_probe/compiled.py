"""A model compiled by `torch.compile`: whole, for every batch size, and never silently eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stability_probe.errors import RunError
from stability_probe.user_code import one_line

_MOST_COMPILATIONS = 64
"""Of one model. A batch as large as one of the model's own dimensions is compiled apart, so torch's
own limit of 8 may be too few for a schedule that visits a dozen sizes."""


def compile_model(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """`model` as it is called in training; its first call at a new kind of shape compiles.

    The batch is a free dimension where the model's code allows. One graph or none: a break, or
    more compilations than are allowed, is an error and no way back to eager code.
    """
    # Imported here, since it takes nearly as long as all of torch.
    from torch._dynamo import maybe_mark_dynamic

    whole = torch.compile(model, fullgraph=True)

    def forward(images: Tensor) -> Tensor:
        maybe_mark_dynamic(images, 0)
        logits: Tensor = whole(images)
        return logits

    return forward


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Where compilations may happen; their failures become a `RunError` about the model `name`."""
    from torch import _dynamo as dynamo

    try:
        with dynamo.config.patch(recompile_limit=_MOST_COMPILATIONS):
            yield
    except (dynamo.exc.TorchDynamoException, dynamo.exc.FailOnRecompileLimitHit) as error:
        cause = one_line(error).split(" Set TORCHDYNAMO_VERBOSE")[0]
        raise RunError(f"{name} cannot be compiled: {cause[:160]}; leave --compile out") from error
