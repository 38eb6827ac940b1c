"""Readers of the published files of Fashion-MNIST and CIFAR.

Every reader answers a file that is absent, cut short or not what its name says with a
`MissingError` naming the file.
"""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import socket
import struct
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from stability_probe.errors import MissingError
from stability_probe.folders import cache_home
from stability_probe.labelled_images import LabelledImages

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""


@dataclass(frozen=True, kw_only=True)
class DataFiles:
    """Where a published data set's files lie, and how they are told."""

    folder: str
    """Of the published archive, inside a folder of data sets."""
    markers: tuple[str, ...]
    """Files, one of which must be there."""
    usual: tuple[Path, ...] = ()
    """Folders to look in first."""


# The training file tells: a folder that merely holds something called "test" is not it.
FILES = {
    "fashion-mnist": DataFiles(
        folder="FashionMNIST/raw",
        markers=("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
        usual=(DEBIAN_FASHION_MNIST,),
    ),
    "cifar10": DataFiles(folder="cifar-10-batches-py", markers=("data_batch_1",)),
    "cifar100": DataFiles(folder="cifar-100-python", markers=("train",)),
}

_MAX_IDX_BYTES = 2**28  # Fashion-MNIST needs 47 million; more is a damaged header
_DOWNLOAD_TIMEOUT_S = 20.0


def read_fashion_mnist(data_dir: str | None) -> LabelledImages:
    """Fashion-MNIST from IDX files, plain or gzipped: grey, 28 × 28, ten classes."""
    folder = find_files("fashion-mnist", data_dir)
    if folder is None:
        from torchvision.datasets import FashionMNIST

        url = FashionMNIST.mirrors[0]
        folder = _download(
            "fashion-mnist",
            FILES["fashion-mnist"].folder,
            [(url + name, name, md5) for name, md5 in FashionMNIST.resources],
            "apt-get install dataset-fashion-mnist, or give --data-dir DIR",
        )
    train_images, train_labels = _read_idx_pair(folder, "train")
    test_images, test_labels = _read_idx_pair(folder, "t10k")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise MissingError(f"{folder}: training and test images differ in size")
    return LabelledImages(train_images, train_labels, test_images, test_labels, 10, False)


def read_cifar(num_classes: int, data_dir: str | None) -> LabelledImages:
    """CIFAR-10 or CIFAR-100 (`num_classes`) in its Python version: colour, 32 × 32."""
    name = f"cifar{num_classes}"
    train = ("train",) if num_classes == 100 else tuple(f"data_batch_{i}" for i in range(1, 6))
    test = "test" if num_classes == 100 else "test_batch"
    folder = find_files(name, data_dir)
    if folder is None:
        from torchvision.datasets import CIFAR10, CIFAR100

        source = CIFAR100 if num_classes == 100 else CIFAR10
        folder = _download(
            name,
            FILES[name].folder,
            [(source.url, source.filename, source.tgz_md5)],
            f"give --data-dir DIR with {source.filename} unpacked in it",
        )
    parts = [_read_cifar_batch(folder / name, num_classes) for name in train]
    test_images, test_labels = _read_cifar_batch(folder / test, num_classes)
    return LabelledImages(
        torch.cat([images for images, _ in parts]),
        torch.cat([labels for _, labels in parts]),
        test_images,
        test_labels,
        num_classes,
        True,
    )


def find_files(name: str, data_dir: str | None) -> Path | None:
    """The folder that holds the files of a set in `FILES`; None means they may be downloaded.

    Raises `MissingError` when they are not in the folder that was given.
    """
    files = FILES[name]
    if data_dir is None:
        candidates = [*files.usual, _cache_dir() / files.folder]
    else:
        given = Path(data_dir).expanduser()
        candidates = [given / files.folder, given]
    for folder in candidates:
        if any((folder / marker).is_file() for marker in files.markers):
            return folder
    if data_dir is None:
        return None
    raise MissingError(
        f"{name}: no {files.markers[0]} in {' or '.join(map(str, candidates))}; "
        "use --data-dir with the folder that holds it"
    )


def _cache_dir() -> Path:
    return cache_home() / "data"


def _download(title: str, base: str, archives: Sequence[tuple[str, str, str]], advice: str) -> Path:
    """Fetch and unpack (URL, file name, MD5) archives; `base` appears whole or not at all."""
    from torchvision.datasets.utils import download_and_extract_archive

    target = _cache_dir() / base
    timeout_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision would wait forever
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            unpacked = Path(work) / "files"
            for url, name, md5 in archives:
                download_and_extract_archive(url, str(unpacked), filename=name, md5=md5)
            inner = unpacked / target.name
            (inner if inner.is_dir() else unpacked).rename(target)
    except (OSError, RuntimeError, HTTPException) as error:
        # A process beside this one may have finished first: its copy is as good.
        if not target.is_dir():
            reason = " ".join(str(error).split())
            raise MissingError(
                f"{title} was not found and did not download ({reason}); {advice}"
            ) from None
    finally:
        socket.setdefaulttimeout(timeout_s)
    return target


def _read_idx_pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read_idx(folder / f"{part}-images-idx3-ubyte", num_dims=3)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", num_dims=1).long()
    if len(images) != len(labels):
        raise MissingError(f"{folder}: {len(images)} {part} images but {len(labels)} labels")
    if int(labels.max()) > 9:
        raise MissingError(f"{folder / part}-labels-idx1-ubyte is damaged: a label above 9")
    return images.unsqueeze(1), labels


def _read_idx(path: Path, num_dims: int) -> Tensor:
    """One IDX file of unsigned bytes: 0 0 8 num_dims, big-endian sizes, then the values."""
    zipped = path.with_name(path.name + ".gz")
    if not path.is_file() and not zipped.is_file():
        raise MissingError(f"{path} is missing, and so is {zipped.name}")
    path = path if path.is_file() else zipped
    try:
        with path.open("rb") if path != zipped else gzip.open(path, "rb") as file:
            magic, *shape = struct.unpack(f">{1 + num_dims}I", file.read(4 + 4 * num_dims))
            size = int(np.prod(shape, dtype=np.float64))
            if magic != 0x800 + num_dims or not 0 < size <= _MAX_IDX_BYTES:
                raise MissingError(f"{path} is no IDX file of {num_dims}-dimensional bytes")
            values = file.read(size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise MissingError(f"{path} is damaged ({error}); fetch it again") from None
    if len(values) != size:
        raise MissingError(f"{path} is damaged: not the {size} bytes its header says")
    return torch.from_numpy(np.frombuffer(values, np.uint8).reshape(shape).copy())


class _PickledDtype:
    """Stands for ``numpy.dtype`` while a CIFAR batch is read."""

    def __init__(self, code: object = b"", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and flags: nothing to keep for bytes."""


class _PickledArray:
    """Stands for ``numpy.ndarray`` while a CIFAR batch is read."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        _, shape, dtype, is_fortran, raw = self.state
        if not isinstance(dtype, _PickledDtype) or dtype.code not in ("u1", b"u1"):
            raise ValueError("data is not of unsigned bytes")
        order = "F" if is_fortran else "C"
        return np.frombuffer(raw, np.uint8).reshape(tuple(shape), order=order)  # type: ignore[call-overload,no-any-return]


class _CifarUnpickler(pickle.Unpickler):
    """Admits what a CIFAR batch needs and nothing else.

    A pickle may name any function and have it called. The few names in a genuine batch map to
    inert stand-ins, so reading one runs no code but this file's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return lambda *_: _PickledArray()
            case "numpy", "ndarray":
                return _PickledArray
            case "numpy", "dtype":
                return _PickledDtype
            case "_codecs", "encode":  # how Python 3 writes bytes in the old protocol
                return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _require_bounded(content: bytes) -> None:
    """Raises `ValueError` for a pickle that would take far more memory than it has bytes.

    The unpickler allocates its memo up to the largest index named, before anything is read.
    Going through the operations checks every length against what is there.
    """
    for operation, argument, _ in pickletools.genops(content):
        is_place = operation.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if is_place and not (isinstance(argument, int) and argument < len(content)):
            raise ValueError(f"it asks for {argument} places")


def _read_cifar_batch(path: Path, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one batch file."""
    label_key = "fine_labels" if num_classes == 100 else "labels"
    try:
        content = path.read_bytes()
        _require_bounded(content)
        batch = _CifarUnpickler(io.BytesIO(content)).load()
        entries = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        images = entries["data"].to_array()
        if not all(isinstance(label, int) for label in entries[label_key]):
            raise ValueError("labels are no whole numbers")  # lists of lists could grow without end
        labels = np.array(entries[label_key], dtype=np.int64)
        if images.ndim != 2 or images.shape[1] != 3072 or labels.shape != images.shape[:1]:
            raise ValueError("not 3072 bytes and one label an image")
        if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"no labels of 0 to {num_classes - 1}")
    except FileNotFoundError:
        raise MissingError(f"{path} is missing; unpack the archive again") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise MissingError(f"{path} is no CIFAR batch ({error}); fetch it again") from None
    return torch.from_numpy(images.copy()).reshape(-1, 3, 32, 32), torch.from_numpy(labels)
