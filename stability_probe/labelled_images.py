"""Labelled images before they become a `Dataset`: balanced subsets, and checks of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stability_probe.errors import UsageError


class LabelledImages(NamedTuple):
    """A data set as read: uint8 images [N, C, H, W] with C 1 or 3, int64 labels [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    augment: bool
    stats: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation per channel; None means measure them."""


def rank_in_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Seeded random order, and each sample's rank among its own class in that order.

    Both are int64 [N]: the sample's place in the order, and its rank from 0. Samples of rank
    below k are k of each class, as far as a class has them.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(labels))
    grouped = order[torch.argsort(labels[order], stable=True)]
    counts = torch.bincount(labels)
    starts = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(order)
    rank[grouped] = torch.arange(len(labels)) - starts[labels[grouped]]
    return place, rank


def balanced_subset(labels: Tensor, num_classes: int, limit: int, seed: int) -> Tensor:
    """Rising indices, int64, of at most `limit` samples, drawn one a class in turn.

    Raises `UsageError` where `limit` is below the number of classes.
    """
    if limit < num_classes:
        raise UsageError(
            f"a limit of {limit} samples leaves out some of the {num_classes} classes; "
            f"use --limit {num_classes} or more"
        )
    place, rank = rank_in_class(labels, seed)
    # By rank first: every class gives its k-th sample before any gives its (k+1)-th.
    return torch.argsort(rank * len(labels) + place)[:limit].sort().values


def from_user(name: str, made: object) -> LabelledImages:
    """Check the tuple that the callable `name` returned.

    Images are uint8, or floats in 0 to 1, of shape [N, H, W], [N, C, H, W] or [N, H, W, C] with
    C 1 or 3; labels are whole numbers [N] from 0, each class present in training. Raises
    `UsageError` otherwise.
    """
    if not isinstance(made, (tuple, list)) or len(made) != 4:
        kind = type(made).__name__
        told = f"a {kind} of {len(made)}" if isinstance(made, (tuple, list)) else kind
        raise UsageError(
            f"{name} returned {told}; return four arrays "
            "(train_images, train_labels, test_images, test_labels)"
        )
    train_images, train_labels, test_images, test_labels = made
    raw = check_arrays(
        name,
        # The number of classes is not known yet: any label passes here.
        LabelledImages(train_images, train_labels, test_images, test_labels, 2**31, False),
    )
    num_classes = int(raw.train_labels.max()) + 1
    if num_classes > len(raw.train_labels) or int(raw.train_labels.bincount().min()) == 0:
        raise UsageError(
            f"{name}: training labels up to {num_classes - 1} skip some class; number the classes "
            "from 0 without gaps, or return a Dataset with num_classes"
        )
    if num_classes < 2:
        raise UsageError(f"{name}: all training labels are 0; there is nothing to tell apart")
    if int(raw.test_labels.max()) >= num_classes:
        raise UsageError(f"{name}: a test label is above the largest training label")
    return raw._replace(num_classes=num_classes)


def check_arrays(name: str, raw: LabelledImages) -> LabelledImages:
    """The same with uint8 images [N, C, H, W] and int64 labels [N], on the CPU.

    Raises `UsageError` for anything that cannot be trained on.
    """
    train_images, test_images = (
        _check_images(name, part, values)
        for part, values in (("training", raw.train_images), ("test", raw.test_images))
    )
    train_labels, test_labels = (
        _check_labels(f"{name}: {part} labels", values, len(images), raw.num_classes)
        for part, values, images in (
            ("training", raw.train_labels, train_images),
            ("test", raw.test_labels, test_images),
        )
    )
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UsageError(
            f"{name}: training images are {list(train_images.shape[1:])}, "
            f"test images {list(test_images.shape[1:])}; they must agree"
        )
    return raw._replace(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _as_tensor(what: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        return torch.from_numpy(np.array(values))  # a copy: read-only arrays are common
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} are no tensor or array ({error})") from None


def _check_images(name: str, part: str, values: Any) -> Tensor:
    what = f"{name}: {part} images"
    images = _as_tensor(what, values)
    given = list(images.shape)
    if given[:1] == [0]:
        raise UsageError(f"{name}: there are no {part} images")
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise UsageError(
            f"{what} have shape {given}; use [N, H, W], [N, C, H, W] or [N, H, W, C] "
            "with 1 or 3 channels"
        )
    if images.is_floating_point():
        if not (images.isfinite().all() and images.min() >= 0 and images.max() <= 1):
            raise UsageError(f"{what} have values outside 0 to 1; scale them, or use uint8")
        images = (images * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise UsageError(f"{what} are {images.dtype}; use uint8, or floats in 0 to 1")
    return images.contiguous()


def _check_labels(what: str, values: Any, count: int, num_classes: int) -> Tensor:
    labels = _as_tensor(what, values)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"{what} are {labels.dtype}; use whole numbers")
    if labels.shape != (count,):
        raise UsageError(f"{what} have shape {list(labels.shape)} for {count} images")
    labels = labels.long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise UsageError(f"{what} lie outside 0 to {num_classes - 1}")
    return labels
