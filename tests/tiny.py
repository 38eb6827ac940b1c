"""Small models and data sets for tests, named as users name theirs: ``tests.tiny:net``."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from stability_probe.datasets import Dataset


def net(num_classes: int, in_chans: int) -> nn.Module:
    """Convolution, BatchNorm and dropout: every kind of state and randomness."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, num_classes),
    )


def net_without_dropout(num_classes: int, in_chans: int) -> nn.Module:
    """`net` for where random numbers are drawn in another order."""
    layers = net(num_classes, in_chans)
    assert isinstance(layers, nn.Sequential)
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Dropout)))


def plain(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    """Neither normalization nor dropout: the loss is a plain mean over samples."""
    size = in_chans * img_size * img_size
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, num_classes))


class Skips(nn.Module):
    """Stochastic depth by Python's own generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training and random.random() < 0.5 else torch.tanh(x)


def drawn_elsewhere(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    """`plain` with weights of NumPy's global generator, and `Skips`."""
    layers = plain(num_classes, in_chans, img_size)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.from_numpy(np.random.normal(0, 0.1, parameter.shape)))
    return nn.Sequential(layers, Skips())


class Remembers(nn.Module):
    """Scales by what it has seen: a buffer that the model's state does not have, and one that
    grows."""

    seen: torch.Tensor
    history: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(()), persistent=False)
        self.register_buffer("history", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.detach().abs().mean()
            self.history = torch.cat([self.history[-20:], self.seen[None]])
        return x / (0.1 + self.seen)


def remembering(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    return nn.Sequential(plain(num_classes, in_chans, img_size), Remembers())


def blobs(num_train: int = 97, num_test: int = 40, classes: int = 3) -> Dataset:
    """Noisy images whose brightness tells the class; 97 leaves one sample over at batch 16."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_train + num_test) % classes
    noise = torch.randint(0, 120, (len(labels), 3, 8, 8), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Dataset(
        name="blobs",
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        test_images=images[num_train:],
        test_labels=labels[num_train:],
        num_classes=classes,
        augment=False,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


class Hungry(nn.Module):
    """Runs out of memory in training on more than `LIMIT` samples at a time."""

    LIMIT = 12
    failures = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > Hungry.LIMIT:
            Hungry.failures += 1
            raise torch.OutOfMemoryError("no memory for so many samples")
        return x


def hungry(num_classes: int, in_chans: int, img_size: int) -> nn.Module:
    """`plain` with the same weights, but hungry."""
    return nn.Sequential(plain(num_classes, in_chans, img_size), Hungry())


def hungry_conv(num_classes: int, in_chans: int) -> nn.Module:
    """A convolution before what is hungry, so that there is a memory format to choose."""
    return nn.Sequential(Hungry(), nn.Conv2d(in_chans, num_classes, 8), nn.Flatten())


def hungry_net(num_classes: int, in_chans: int) -> nn.Module:
    """`net`, which has BatchNorm, but hungry."""
    return nn.Sequential(net(num_classes, in_chans), Hungry())
