"""Pictures in one folder a class, the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stability_probe.errors import MissingError, UsageError
from stability_probe.labelled_images import LabelledImages, balanced_subset, rank_in_class

_IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
)
"""Those of torchvision's ``ImageFolder``."""


class _Files(NamedTuple):
    """Pictures not yet read, and their labels, int64 [N]."""

    paths: list[Path]
    labels: Tensor

    def select(self, indices: Tensor) -> _Files:
        return _Files([self.paths[i] for i in indices.tolist()], self.labels[indices])


def read_image_folder(path: str, size: int, limit: int | None, seed: int) -> LabelledImages:
    """Pictures in ``PATH/train/CLASS`` and ``PATH/test/CLASS`` (or ``val``), or ``PATH/CLASS``.

    Without a test folder a fifth of each class, chosen by `seed`, becomes the test set. Each
    picture is scaled to `size` pixels on its shorter side and cropped about its centre. The
    limit applies before anything is decoded. Raises `MissingError` for an absent folder or a
    picture that cannot be read, `UsageError` for too few pictures.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MissingError(f"no folder {root}; use folder:PATH with PATH/train/CLASS/*.jpg")
    train_root = root / "train" if _class_names(root / "train") else root
    classes = _class_names(train_root)
    if len(classes) < 2:
        raise MissingError(
            f"{train_root} has {len(classes)} folders with images; it needs one for each class"
        )
    test_root = next((root / n for n in ("test", "val") if _class_names(root / n)), None)
    _require_images(train_root, classes)
    train = _list_images(train_root, classes)
    if train_root == root or test_root is None:
        train, test = _split(train, train_root, seed)
    else:
        unknown = sorted(set(_class_names(test_root)) - set(classes))
        if unknown:
            raise MissingError(f"{test_root / unknown[0]}: no such class in {train_root}")
        test = _list_images(test_root, classes)
    if limit is not None:
        train, test = (
            files.select(balanced_subset(files.labels, len(classes), limit, seed))
            for files in (train, test)
        )
    images = [_read_images(files.paths, size) for files in (train, test)]
    return LabelledImages(images[0], train.labels, images[1], test.labels, len(classes), True)


def _split(files: _Files, root: Path, seed: int) -> tuple[_Files, _Files]:
    """Four fifths and one fifth of each class, at least one picture on either side."""
    counts = torch.bincount(files.labels)
    if int(counts.min()) < 2:
        raise UsageError(f"a class in {root} has one image; it needs two, or a test folder")
    _, rank = rank_in_class(files.labels, seed)
    held_out = ((counts + 2) // 5).clamp(min=1)
    is_test = rank < held_out[files.labels]
    return files.select((~is_test).nonzero().flatten()), files.select(is_test.nonzero().flatten())


def _require_images(root: Path, classes: Sequence[str]) -> None:
    """A class none of whose files are pictures would be left out without a word."""
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in classes):
        if not folder.name.startswith(".") and any(p.is_file() for p in folder.iterdir()):
            kinds = ", ".join(sorted(s.removeprefix(".") for s in _IMAGE_SUFFIXES))
            raise MissingError(f"{folder} has files but no image; use {kinds}")


def _class_names(root: Path) -> list[str]:
    """Sorted names of the folders in `root` that hold images."""
    if not root.is_dir():
        return []
    folders = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(p.name for p in folders if _images_in(p))


def _images_in(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in found if p.suffix.lower() in _IMAGE_SUFFIXES)


def _list_images(root: Path, classes: Sequence[str]) -> _Files:
    found = [_images_in(root / name) if (root / name).is_dir() else [] for name in classes]
    labels = [label for label, paths in enumerate(found) for _ in paths]
    return _Files([path for paths in found for path in paths], torch.tensor(labels))


def _read_images(paths: Sequence[Path], size: int) -> Tensor:
    """Decoded pictures, uint8 [N, 3, size, size]."""
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for image, path in zip(images, paths, strict=True):
        image.copy_(_read_image(path, size))
    return images


def _read_image(path: Path, size: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            # fit() scales and crops about the centre in one step, without a large intermediate.
            fitted = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    # PIL raises SyntaxError for a broken PNG and its own class for a decompression bomb.
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise MissingError(f"{path} is no readable image ({error})") from None
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
