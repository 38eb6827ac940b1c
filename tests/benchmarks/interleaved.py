"""Paired timing: arms take turns, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One arm's time over another's, from pairs that ran next to each other."""

    median: float
    low: float
    high: float
    """Quartiles of the pairs."""
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def take_turns(
    arms: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """What each arm says it took in each round; every other round in reverse order."""
    for _ in range(warm_up):
        for arm in arms.values():
            arm()
    taken: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    gc.collect()
    gc.disable()
    try:
        for index in range(rounds):
            for name in names if index % 2 == 0 else names[::-1]:
                taken[name].append(arms[name]())
    finally:
        gc.enable()
    return taken


def cpu_seconds(
    arms: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Process CPU seconds of each arm in each round; every other round in reverse order."""

    def timed(arm: Callable[[], object]) -> float:
        begin = time.process_time()
        arm()
        return time.process_time() - begin

    return take_turns({n: partial(timed, arm) for n, arm in arms.items()}, rounds, warm_up)


def ratio(one: list[float], other: list[float]) -> Ratio:
    """Of pairs of the same round."""
    values = np.array(one) / np.array(other)
    low, median, high = np.percentile(values, [25, 50, 75])
    return Ratio(median=float(median), low=float(low), high=float(high), pairs=len(values))
