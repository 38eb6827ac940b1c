"""Index batches for a DataLoader, of a size that may change between epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from stability_probe.distributed import World, current_world
from stability_probe.errors import UsageError
from stability_probe.order import batch_lengths, epoch_batches, generator_for


class AdaptiveBatchSampler(Sampler[list[int]]):
    """Batches of one process, for ``DataLoader(dataset, batch_sampler=...)``.

    Every sample comes exactly once an epoch, in an order that follows from `seed` and epoch. A
    size set by `set_epoch` holds from the next ``iter()`` on: an epoch under way keeps its own,
    and workers, persistent or not, only ever receive lists of indices.

    data: the data set, or its number of samples.
    batch_size: samples per update, over all processes and accumulated parts.
    accumulate: parts of a batch, each a batch of the loader: the number of loader batches that
        you accumulate per optimizer step.
    num_replicas, rank: as for `DistributedSampler`; by default those of the process group that
        is joined when an epoch begins. Shares of a batch differ by one sample at most.

    Raises `UsageError` for a batch that the data or the processes cannot have.
    """

    # No attribute is named batch_size: Accelerate would plan with it, and drop data on a change.

    def __init__(
        self,
        data: Sized | int,
        batch_size: int,
        *,
        seed: int = 0,
        accumulate: int = 1,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if (num_replicas is None) != (rank is None):
            raise UsageError("give num_replicas and rank together, or neither")
        self.num_samples = data if isinstance(data, int) else len(data)
        self.global_batch_size = batch_size
        self.seed = seed
        self.accumulate = accumulate
        self.epoch = 0
        self._world = None
        if num_replicas is not None and rank is not None:
            self._world = World(rank=rank, size=num_replicas)
        if type(batch_size) is not int or not 1 <= batch_size <= self.num_samples:
            raise UsageError(
                f"batch_size is {batch_size!r}; use 1 to {self.num_samples}, the samples there are"
            )
        if type(accumulate) is not int or accumulate < 1:
            raise UsageError(f"accumulate is {accumulate!r}; use 1 or more parts of a batch")

    @property
    def world(self) -> World:
        """The processes that share each batch, and which of them this is."""
        return self._world or current_world()

    @property
    def smallest_batch(self) -> int:
        """Fewest samples of a batch: two for each part of it, since BatchNorm needs them."""
        return 2 * self.world.size * self.accumulate

    @property
    def num_updates(self) -> int:
        """Optimizer steps of the present epoch."""
        return len(batch_lengths(self.num_samples, self.global_batch_size, self.smallest_batch))

    def num_samples_of(self, index: int) -> int:
        """Samples of this process in batch `index` of the loader, in the present epoch."""
        update, part = divmod(index, self.accumulate)
        size = self.global_batch_size
        if update == self.num_updates - 1:
            size = self.num_samples - size * update
        for pieces, mine in ((self.world.size, self.world.rank), (self.accumulate, part)):
            # As torch.tensor_split: the first pieces are longer by one.
            size = size // pieces + (mine < size % pieces)
        return size

    def set_epoch(self, epoch: int, global_batch_size: int | None = None) -> None:
        """What the next ``iter()`` yields: the order of `epoch`, from 0, and maybe a new size."""
        self.epoch = epoch
        if global_batch_size is not None:
            self.global_batch_size = global_batch_size

    def __len__(self) -> int:
        """Batches that the loader gives this process in the present epoch."""
        return self.num_updates * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        world, parts = self.world, self.world.size * self.accumulate
        if parts > 1 and min(self.global_batch_size, self.num_samples) < self.smallest_batch:
            raise UsageError(
                f"batch {self.global_batch_size} leaves {world.size} processes x "
                f"{self.accumulate} parts fewer than 2 samples each; use {self.smallest_batch} "
                "or more"
            )
        order = generator_for(self.seed, self.epoch + 1, "order")
        batches = epoch_batches(
            self.num_samples, self.global_batch_size, order, self.smallest_batch
        )
        # Not a generator function: the size is taken now, not when the first batch is asked for.
        return (
            part.tolist()
            for batch in batches
            for part in torch.tensor_split(world.share(batch), self.accumulate)
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint at the end of an epoch."""
        return {"epoch": self.epoch, "global_batch_size": self.global_batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.set_epoch(state["epoch"], state["global_batch_size"])
