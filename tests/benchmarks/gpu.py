"""What a card gains from bigger batches, and what the project costs there. One command, one card.

    python -m tests.benchmarks.gpu [--device cuda] [--models a,b] [--batch-sizes 16,32,...]
        [--budget-s 500] [--json]

Random images of CIFAR's shape in bfloat16: fine for time, never for accuracy. For each model, with
CUDA events, warm-up, and no sync in a step:

- images/s of whole training steps (`step.train_step`, batches loaded as in training) at each batch
  size, and the headroom;
- the same with the step captured as a CUDA graph, which takes the kernel launches away: where most
  of the headroom goes too, a graph is the cheaper cure;
- a plain step on a batch made before, the loading alone, and the signals, as ratios;
- whether any step waits for the device (`torch.cuda.set_sync_debug_mode`).

Models that the budget does not reach are listed, not guessed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stability_probe.config import RunConfig
from stability_probe.datasets import Dataset, normalize
from stability_probe.device import describe_environment, is_out_of_memory, resolve_device
from stability_probe.state import TrainState, make_state
from stability_probe.step import autocast, load_batch, train_step
from tests.benchmarks.signals import CIFAR_STEPS, PAPER, stride_of
from tests.benchmarks.training_loop import CIFAR, random_images

BATCH_SIZES = "16,32,64,128,256,512,1024,2048"
SIGNALS_BATCH = 64
WINDOW, FULL_RUN = 4, 100  # epochs
MIN_TIMING_S = 0.1
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One model on one device; every method gives seconds a step."""

    state: TrainState
    data: Dataset
    precision: str

    def seconds(self, step: Callable[[], object]) -> float:
        """Median of rounds, after a warm-up; CUDA events, so that launching runs ahead."""
        for _ in range(3):
            step()
        steps = max(1, round(MIN_TIMING_S / self._elapsed(step, 2)))
        return float(np.median([self._elapsed(step, steps) for _ in range(ROUNDS)]))

    def _elapsed(self, step: Callable[[], object], steps: int) -> float:
        if self.state.device.type != "cuda":
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            return (time.perf_counter() - begin) / steps
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / steps

    def ours(self, size: int, sums: torch.Tensor | None = None) -> float:
        """The project's step, its batch loaded."""
        return self.seconds(lambda: self.step(size, sums))

    def step(self, size: int, sums: torch.Tensor | None = None) -> None:
        """One step of the project's loop."""
        images, labels = self.load(size)
        train_step(self.state, self.data, images, labels, self.precision, sums, accumulate=False)

    def load(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An augmented batch, by index."""
        generator = torch.Generator().manual_seed(0)
        return load_batch(
            self.data, torch.arange(size, device=self.state.device), self.state, generator
        )

    def loading(self, size: int) -> float:
        """The loading alone."""
        return self.seconds(lambda: normalize(self.load(size)[0], self.data))

    def plain(self, size: int) -> float:
        """The tightest step, on a batch that is ready."""
        return self.seconds(self._bare_step(size))

    def graph(self, size: int) -> float:
        """The tightest step, captured once and replayed."""
        step = self._bare_step(size)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # capture needs a warm-up on a stream of its own
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return self.seconds(graph.replay)

    def _bare_step(self, size: int) -> Callable[[], None]:
        images, labels = self.load(size)
        inputs = normalize(images, self.data).contiguous(memory_format=self.state.memory_format)

        def step() -> None:
            # A graph writes to the same gradients every time, so they stay.
            self.state.optimizer.zero_grad(set_to_none=False)
            with autocast(self.state.device, self.precision):
                loss = F.cross_entropy(self.state.model(inputs), labels)
            loss.backward()
            self.state.optimizer.step()

        return step

    def waits(self) -> bool:
        """Whether a measured step makes the host wait for the device."""
        if self.state.device.type != "cuda":
            return False
        sums = torch.zeros(2, device=self.state.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step(SIGNALS_BATCH, sums)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return False


def curve(time_of: Callable[[int], float], sizes: list[int]) -> dict[int, float]:
    """Images/s at each size, up to the first that does not fit."""
    rates = {}
    for size in sizes:
        try:
            rates[size] = size / time_of(size)
        except RuntimeError as error:
            if not rates or not is_out_of_memory(error, torch.device("cuda")):
                raise
            break
    return rates


def headroom(rates: dict[int, float]) -> float:
    """Rate at the best size over that at the first."""
    return max(rates.values()) / next(iter(rates.values()))


def measure(model: str, sizes: list[int], device: str) -> dict[str, Any]:
    """Everything that is told of one model."""
    begin = time.perf_counter()
    precision = "bfloat16" if resolve_device(device).type == "cuda" else "float32"
    config = RunConfig(
        model=model,
        device=device,
        precision=precision,
        batch_size=sizes[0],
        channels_last="on",
    )
    data = random_images(max(sizes))
    state = make_state(config, data)
    state.model.train()
    bench = Bench(state=state, data=data.to(state.device), precision=precision)
    rates = curve(bench.ours, sizes)
    first, middle = sizes[0], min(SIGNALS_BATCH, max(rates))
    sums = torch.zeros(2, device=state.device)
    plain, ours = {s: bench.plain(s) for s in (first, middle)}, bench.ours(middle)
    share = -(-CIFAR_STEPS // stride_of(128)) / CIFAR_STEPS
    told: dict[str, Any] = {
        "images_per_s": rates,
        "headroom": headroom(rates),
        "loop_over_plain": {s: plain[s] * rates[s] / s for s in plain},
        "loading_share": bench.loading(middle) / ours,
        "signals_pct_of_epoch": 100 * share * (bench.ours(middle, sums) / ours - 1),
        "waits_for_device": bench.waits(),
    }
    if state.device.type == "cuda":
        graphed = curve(bench.graph, sizes)
        told |= {"graph_images_per_s": graphed, "graph_headroom": headroom(graphed)}
    told["curve_s"] = time.perf_counter() - begin
    run_s = FULL_RUN * CIFAR / rates[first]
    told["probe_pct_of_run"] = 100 * (WINDOW / FULL_RUN + told["curve_s"] / run_s)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default=",".join(PAPER))
    parser.add_argument("--batch-sizes", default=BATCH_SIZES)
    parser.add_argument("--budget-s", type=float, default=500)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    begin = time.perf_counter()
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    rows: dict[str, Any] = {}
    missed = []
    for model in args.models.split(","):
        if rows and time.perf_counter() - begin > args.budget_s:
            missed.append(model)
            continue
        rows[model] = measure(model, sizes, args.device)
        if not args.json:
            print(f"{model}: {json.dumps(rows[model])}", flush=True)
    environment = describe_environment(resolve_device(args.device))
    if args.json:
        print(json.dumps({"environment": environment, "models": rows, "not_reached": missed}))
        return
    print(environment, f"not reached: {', '.join(missed) or 'none'}", sep="\n")


if __name__ == "__main__":
    main()
