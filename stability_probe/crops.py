"""The `crops` data set: small colour images cut from photographs that dependencies ship."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from stability_probe.errors import MissingError
from stability_probe.labelled_images import LabelledImages

_TILE, _CROP, _STRIDE = 64, 32, 8  # pixels
_STRIPS = 3
_TRAIN_CROPS, _TEST_CROPS = 224, 56  # a class; nine classes make 2016 and 504


def read_crops(data_dir: str | None = None) -> LabelledImages:
    """Colour crops, 32 × 32, of the photographs that scikit-learn and matplotlib ship.

    Two photographs of 640 × 427 (a pagoda, a dahlia) and one of 512 × 600 (a portrait) are cut
    into three upright strips each; the class is the strip, so that telling photographs apart is
    easy and telling strips of one sky apart is not. Crops lie inside 64-pixel tiles, one tile in
    five held out for testing: no pixel is in both a training and a test crop.
    """
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for photo in _read_photos():
        for strip in range(_STRIPS):
            for part, crops in zip(parts, cut_strip(photo, strip), strict=True):
                part.append(crops)
    train, test = parts
    labels = [
        torch.arange(len(part)).repeat_interleave(torch.tensor([len(c) for c in part]))
        for part in parts
    ]
    return LabelledImages(torch.cat(train), labels[0], torch.cat(test), labels[1], len(train), True)


def cut_strip(photo: Tensor, strip: int) -> tuple[Tensor, Tensor]:
    """Training and test crops [N, C, 32, 32] of one upright strip of a photo [C, H, W]."""
    crops: tuple[list[Tensor], list[Tensor]] = ([], [])
    num_rows, num_columns = photo.shape[1] // _TILE, photo.shape[2] // _TILE
    offsets = range(0, _TILE - _CROP + 1, _STRIDE)
    for row in range(num_rows):
        for column in range(num_columns):
            if column * _STRIPS // num_columns != strip:
                continue
            # A knight's move apart: every row and column of tiles gives to both sides.
            part = crops[1 if (row + 2 * column) % 5 == 0 else 0]
            top, left = row * _TILE, column * _TILE
            part += [
                photo[:, top + y : top + y + _CROP, left + x : left + x + _CROP]
                for y in offsets
                for x in offsets
            ]
    counts = (_TRAIN_CROPS, _TEST_CROPS)
    train, test = (_spread(part, n) for part, n in zip(crops, counts, strict=True))
    return train, test


def _spread(crops: list[Tensor], count: int) -> Tensor:
    """`count` of the crops, evenly spaced: no generator, so the same everywhere."""
    return torch.stack([crops[i * len(crops) // count] for i in range(count)])


def _read_photos() -> list[Tensor]:
    """The three photographs, uint8 [3, H, W]."""
    from matplotlib import get_data_path  # where its sample files lie; nothing is drawn
    from PIL import Image
    from sklearn.datasets import load_sample_images

    portrait = os.path.join(get_data_path(), "sample_data", "grace_hopper.jpg")
    try:
        photos = [np.array(photo) for photo in load_sample_images().images]
        with Image.open(portrait) as image:
            photos.append(np.array(image.convert("RGB")))
    except OSError as error:
        raise MissingError(
            f"a photograph of scikit-learn or matplotlib is missing or damaged ({error}); "
            "reinstall them, or use --data digits"
        ) from None
    return [torch.from_numpy(photo).permute(2, 0, 1) for photo in photos]
