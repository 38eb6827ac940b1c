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
    num_samples: int, batch_size: int, generator: torch.Generator, smallest: int = 2
) -> list[Tensor]:
    """Index batches of one epoch: every sample exactly once, in random order.

    Fewer than `smallest` samples left over join the batch before them, since BatchNorm cannot
    train on one.
    """
    batches = list(torch.split(torch.randperm(num_samples, generator=generator), batch_size))
    if len(batches) > 1 and len(batches[-1]) < smallest:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def num_batches(num_samples: int, batch_size: int, smallest: int = 2) -> int:
    """How many batches `epoch_batches` makes, without making them.

    >>> num_batches(97, 16), num_batches(98, 16)
    (6, 7)
    """
    whole, left = divmod(num_samples, batch_size)
    return max(1, whole + (left >= smallest))
