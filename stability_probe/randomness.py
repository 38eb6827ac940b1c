"""The generators that a whole process shares: torch's, Python's `random` and NumPy's.

Our own code draws from torch alone; a user's model may draw from any of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed all of them; `seed` is at least 0 and may have 64 bits."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # it takes words of 32 bits


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Leave the generators of the CPU as they are, whatever is drawn meanwhile."""
    states = states_beside_torch()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        set_states_beside_torch(states)


def states_beside_torch() -> dict[str, Any]:
    """The states of Python's and NumPy's generators, plain values for a checkpoint."""
    numpy: Any = np.random.get_state()
    kind, keys, *rest = numpy
    return {"python": random.getstate(), "numpy": (kind, keys.tolist(), *rest)}


def set_states_beside_torch(states: Mapping[str, Any]) -> None:
    """Inverse of `states_beside_torch`."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
