"""One run on several devices: a process each, started by torchrun.

Every process holds the whole model and takes its share of each batch; DistributedDataParallel
averages the gradients. The leader (rank 0) decides, stores and speaks; the others follow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stability_probe.errors import UsageError
from stability_probe.launch import mark_as_leaders, note_joined, processes

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def leader(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch along its first axis; parts differ by one at most."""
        return batch if self.size == 1 else torch.tensor_split(batch, self.size)[self.rank]

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` gives on the leader, on every process; its error is raised on every one."""
        if self.size == 1:
            return work()
        answer: list[tuple[T | None, Exception | None]] = [(None, None)]
        if self.leader:
            try:
                answer = [(work(), None)]
            except Exception as error:
                answer = [(None, error)]
        dist.broadcast_object_list(answer, src=0)
        value, problem = answer[0]
        if problem is not None:
            mark_as_leaders(problem)
            raise problem
        return value  # type: ignore[return-value]

    def add_up(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in some process."""
        told = torch.tensor(float(flag), device=_device())
        self.add_up(told)
        return bool(told.item() > 0)

    def wrap(self, model: nn.Module, *, may_skip: bool) -> nn.Module:
        """`model` as it is called in training; `may_skip` where a step may not use all of it."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=may_skip)

    def agree_on_buffers(self, model: nn.Module) -> None:
        """The leader's buffers in every process: BatchNorm's statistics of the last step differ."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world that torchrun started, joined for a while: NCCL on CUDA devices, else Gloo.

    Raises `UsageError` for a card by its number, which every process would take.
    """
    if processes() == 1:
        yield World()
        return
    if device.startswith("cuda:"):
        raise UsageError(
            f"torchrun gives each process a card of its own, and all would share {device}; use "
            "--device cuda"
        )
    on_cuda = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    if on_cuda:
        mine, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if mine >= cards:
            raise UsageError(
                f"torchrun starts more processes here than there are CUDA devices; "
                f"use --nproc-per-node {cards}, or --device cpu"
            )
        torch.cuda.set_device(mine)
    dist.init_process_group("nccl" if on_cuda else "gloo")
    note_joined()
    try:
        yield current_world()
    finally:
        leave()


def leave() -> None:
    """Leave the process group; afterwards the process may end at once.

    DistributedDataParallel keeps the group, and with it Gloo's threads, alive beyond the group's
    end (torch 2.14). A thread still letting go of its last tensor when Python ends aborts the
    process ("terminate called without an active exception"), so it is given the time to do so.
    """
    dist.destroy_process_group()
    time.sleep(0.2)


def current_world() -> World:
    """The processes of the group that someone else has joined already; one without a group."""
    if not dist.is_available() or not dist.is_initialized():
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def _device() -> str:
    on_cuda = dist.is_initialized() and dist.get_backend() == "nccl"
    return "cuda" if on_cuda else "cpu"
