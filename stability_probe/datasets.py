"""Image data sets as tensors: loaded and resized once, then normalized and augmented by batch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stability_probe.crops import read_crops
from stability_probe.dataset_files import read_cifar, read_fashion_mnist
from stability_probe.device import send
from stability_probe.errors import ProbeError, UsageError
from stability_probe.image_folder import read_image_folder
from stability_probe.labelled_images import (
    LabelledImages,
    balanced_subset,
    check_arrays,
    from_user,
)
from stability_probe.user_code import import_callable, one_line, working_directory_importable

_NAMED_SIZE, _FOLDER_SIZE = 32, 224  # pixels
_CHUNK = 256  # images held as floats at a time while resizing and measuring


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled image data set in memory, three channels, one size."""

    name: str
    train_images: Tensor
    """uint8 [N, 3, H, W]."""
    train_labels: Tensor
    """int64 [N], from 0 to `num_classes` - 1."""
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    augment: bool
    """Flip and shift while training: for photographs, where a mirror image is as likely."""
    mean: tuple[float, ...]
    """Per channel, of the training images, on a scale of 0 to 1."""
    std: tuple[float, ...]

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with its tensors on `device`."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return dataclasses.replace(self, **{n: getattr(self, n).to(device) for n in names})

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a pixel, each [3, 1, 1], beside the images."""
        device = self.train_images.device
        mean, std = (
            (255 * torch.tensor(values).view(-1, 1, 1)).to(device)
            for values in (self.mean, self.std)
        )
        return mean, std


def load_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    limit: int | None = None,
    img_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set by name, ``folder:PATH`` or ``package.module:callable``.

    `data_dir` is where files are looked for, `limit` the most training and the most test samples
    (a class-balanced subset drawn by `seed`), `img_size` the side in pixels: None means 32 for
    named sets, 224 for folders, and the given size for a callable. Grey becomes three channels.
    Raises `UsageError` for a request that cannot work, `MissingError` for absent or damaged data.
    """
    for option, value in (("limit", limit), ("img-size", img_size)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}; use a whole number of at least 1")
    raw = _read(name, data_dir, limit, img_size, seed)
    size = img_size or (_NAMED_SIZE if name in DATASETS else None)
    if limit is not None:
        raw = _limit(raw, limit, seed)
    train_images, test_images = (_resize(x, size) for x in (raw.train_images, raw.test_images))
    mean, std = raw.stats or _channel_stats(train_images)
    return Dataset(
        name=name,
        train_images=_to_rgb(train_images),
        train_labels=raw.train_labels,
        test_images=_to_rgb(test_images),
        test_labels=raw.test_labels,
        num_classes=raw.num_classes,
        augment=raw.augment,
        mean=mean if len(mean) == 3 else mean * 3,
        std=std if len(std) == 3 else std * 3,
    )


def normalize(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 [B, 3, H, W] to float32 (x / 255 - mean) / std, on the data set's device."""
    mean, std = dataset.scale
    return images.float().sub_(mean).div_(std)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image of a uint8 [B, C, H, W] batch by chance and shift it by up to an eighth.

    A shift is a crop of the image padded by reflection with H // 8 and W // 8 pixels. `generator`
    is a CPU generator, so that a seed gives the same images on every device. What it draws, three
    numbers an image, is all that travels.
    """
    batch, channels, height, width = images.shape
    down, across = (
        torch.randint(-(side // 8), side // 8 + 1, (batch, 1), generator=generator)
        for side in (height, width)
    )
    flip = torch.rand(batch, 1, generator=generator) < 0.5
    down, across, flip = send(torch.stack([down, across, flip]), images.device)
    rows, columns = _shifted(height, down), _shifted(width, across)
    columns = torch.where(flip.bool(), columns.flip(1), columns)
    # One gather of pixels by flat index is five times faster than indexing rows and columns.
    source = rows[:, :, None] * width + columns[:, None, :]
    source = source.view(batch, 1, -1).expand(-1, channels, -1)
    return images.reshape(batch, channels, -1).gather(2, source).view(images.shape)


def read_digits(data_dir: str | None = None) -> LabelledImages:
    """scikit-learn's 1,797 grey 8 × 8 digits, split 1437 to 360 with every class in proportion."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=360, stratify=digits.target, random_state=0
    )
    return LabelledImages(images[train], labels[train], images[test], labels[test], 10, False)


DATASETS: dict[str, Callable[[str | None], LabelledImages]] = {
    "digits": read_digits,
    "crops": read_crops,
    "fashion-mnist": read_fashion_mnist,
    "cifar10": partial(read_cifar, 10),
    "cifar100": partial(read_cifar, 100),
}
"""Loader of each named set; it takes the folder to look in, or None for the usual places."""


def _read(
    name: str, data_dir: str | None, limit: int | None, img_size: int | None, seed: int
) -> LabelledImages:
    kind, _, rest = name.partition(":")
    if name in DATASETS:
        return DATASETS[name](data_dir)
    if kind == "folder" and rest:
        return read_image_folder(rest, img_size or _FOLDER_SIZE, limit, seed)
    if kind and rest:
        return _call_user(name)
    raise _unknown_name(name)


def _unknown_name(name: str) -> UsageError:
    near = difflib.get_close_matches(name.lower(), DATASETS, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return UsageError(
        f"unknown data set {name!r}{hint}; use one of {', '.join(DATASETS)}, "
        "folder:PATH or package.module:callable"
    )


def _limit(raw: LabelledImages, limit: int, seed: int) -> LabelledImages:
    train = balanced_subset(raw.train_labels, raw.num_classes, limit, seed)
    test = balanced_subset(raw.test_labels, raw.num_classes, limit, seed)
    return raw._replace(
        train_images=raw.train_images[train],
        train_labels=raw.train_labels[train],
        test_images=raw.test_images[test],
        test_labels=raw.test_labels[test],
    )


def _resize(images: Tensor, size: int | None) -> Tensor:
    """Bilinear with antialiasing to `size` × `size`; None keeps the size."""
    if size is None or images.shape[2:] == (size, size):
        return images
    resized = images.new_empty(*images.shape[:2], size, size)
    for source, target in zip(_chunks(images), _chunks(resized), strict=True):
        values = F.interpolate(source.float(), (size, size), mode="bilinear", antialias=True)
        target.copy_(values.round_().clamp_(0, 255))
    return resized


def _chunks(images: Tensor) -> tuple[Tensor, ...]:
    return torch.split(images, _CHUNK)


def _to_rgb(images: Tensor) -> Tensor:
    return images if images.shape[1] == 3 else images.repeat(1, 3, 1, 1)


def _channel_stats(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in _chunks(images):
        values = chunk.double() / 255
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    mean = total / count
    # A channel of one value has no spread; one grey level keeps the division finite.
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _shifted(size: int, offset: Tensor) -> Tensor:
    """Source index [B, size] of each pixel on an axis shifted by `offset` [B, 1] and reflected."""
    index = (torch.arange(size, device=offset.device) + offset).abs()
    return size - 1 - (size - 1 - index).abs()


def _call_user(name: str) -> LabelledImages:
    """Data from the user's ``package.module:callable``, checked."""
    with working_directory_importable():
        make = import_callable(name)
        try:
            made = make()
        except ProbeError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{name} raised {one_line(error)}") from error
    if not isinstance(made, Dataset):
        return from_user(name, made)
    raw = LabelledImages(
        made.train_images,
        made.train_labels,
        made.test_images,
        made.test_labels,
        made.num_classes,
        made.augment,
        stats=(made.mean, made.std),
    )
    checked = check_arrays(name, raw)
    widths = {len(made.mean), len(made.std)}
    if widths != {checked.train_images.shape[1]} or min(made.std) <= 0:
        raise UsageError(f"{name}: use one mean and one positive std for each channel")
    return checked
