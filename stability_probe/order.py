"""The order of an epoch's samples: a pure function of seed, epoch and batch size."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_for(seed: int, epoch: int, purpose: str) -> int:
    """A stable 63-bit seed, so that epochs and purposes share no random stream."""
    digest = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_for(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, epoch, purpose))


def epoch_batches(
    num_samples: int,
    batch_size: int,
    generator: torch.Generator,
    smallest: int = 2,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Index batches of one epoch, on `device`: every sample exactly once, in random order.

    Fewer than `smallest` samples left over join the batch before them, since BatchNorm cannot
    train on one. They go to the device together: one by one, each would be waited for.
    """
    order = torch.randperm(num_samples, generator=generator).to(device=device)
    return list(torch.split(order, batch_lengths(num_samples, batch_size, smallest)))


def batch_lengths(num_samples: int, batch_size: int, smallest: int = 2) -> list[int]:
    """Sizes of the batches of `epoch_batches`, without making them.

    >>> batch_lengths(49, 16), batch_lengths(50, 16), batch_lengths(1, 16)
    ([16, 16, 17], [16, 16, 16, 2], [1])
    """
    whole, left = divmod(num_samples, batch_size)
    lengths = [batch_size] * whole + ([left] if left else [])
    if len(lengths) > 1 and lengths[-1] < smallest:
        lengths[-2:] = [sum(lengths[-2:])]
    return lengths
