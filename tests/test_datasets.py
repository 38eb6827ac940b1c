"""Data sets read from small files in their true formats, and what happens to broken ones."""

from __future__ import annotations

import dataclasses
import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets.utils as torchvision_utils
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from stability_probe import dataset_files
from stability_probe.crops import cut_strip
from stability_probe.datasets import (
    DATASETS,
    Dataset,
    augment,
    load_dataset,
    normalize,
)
from stability_probe.errors import MissingError, ProbeError, UsageError
from stability_probe.labelled_images import balanced_subset


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches the network, the user's cache or the system's data."""

    def refuse(url: str, *_: Any, **__: Any) -> None:
        raise OSError(f"no network for {url}")

    monkeypatch.setattr(torchvision_utils, "download_and_extract_archive", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = dataclasses.replace(dataset_files.FILES["fashion-mnist"], usual=(tmp_path / "debian",))
    monkeypatch.setitem(dataset_files.FILES, "fashion-mnist", files)


def one_line(error: pytest.ExceptionInfo[ProbeError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- files in their true formats ---------------------------------------------------------


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_fashion(folder: Path, suffix: str = ".gz") -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 28, 28))
    labels = np.arange(30) % 10
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images[:count])
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels[:count])
    return images, labels


def python2_batch(images: np.ndarray, labels: list[int], label_key: bytes) -> bytes:
    """A CIFAR batch byte by byte as Python 2 and NumPy 1 wrote the published ones."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = images.astype(np.uint8).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
        b"(K\x01" + integer(images.shape[0]) + integer(images.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    items = short(label_key) + b"](" + b"".join(map(integer, labels)) + b"e"
    return (
        b"\x80\x02}(" + short(b"batch_label") + short(b"training batch 1 of 5")
        + items + short(b"data") + array + b"u."
    )  # fmt: skip


def write_cifar10(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(1).integers(0, 256, (60, 3072)).astype(np.uint8)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        part = images[10 * i : 10 * i + 10]
        (folder / name).write_bytes(python2_batch(part, list(range(10)), b"labels"))
    return images


def write_picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


# --- embedded sets -----------------------------------------------------------------------


def test_digits_are_the_whole_set_split_once() -> None:
    first, second = load_dataset("digits"), load_dataset("digits", seed=7)
    assert first.train_images.shape == (1437, 3, 32, 32)
    assert first.test_images.shape == (360, 3, 32, 32)
    assert torch.equal(first.test_images, second.test_images)
    assert first.test_labels.bincount().min() >= 35
    assert not first.augment
    small = load_dataset("digits", img_size=8)
    assert sorted(small.train_images.unique().tolist()) == [round(v * 255 / 16) for v in range(17)]


def test_crops_have_even_classes_and_repeat_exactly() -> None:
    crops = load_dataset("crops")
    assert crops.train_images.shape == (2016, 3, 32, 32)
    assert crops.num_classes == 9
    assert crops.augment
    assert crops.train_labels.bincount().tolist() == [224] * 9
    assert crops.test_labels.bincount().tolist() == [56] * 9
    assert torch.equal(crops.train_images, load_dataset("crops").train_images)


@pytest.mark.parametrize(("height", "width"), [(427, 640), (600, 512)])
def test_no_pixel_is_in_a_training_and_a_test_crop(height: int, width: int) -> None:
    photo = torch.arange(height * width).view(1, height, width)  # each pixel names itself
    sides = [cut_strip(photo, strip) for strip in range(3)]
    train = torch.cat([side[0] for side in sides]).unique()
    test = torch.cat([side[1] for side in sides]).unique()
    assert not set(train.tolist()) & set(test.tolist())
    # Strips share no pixel either, and a crop is a contiguous square.
    assert len(train) == sum(len(side[0].unique()) for side in sides)
    for crops in (c for side in sides for c in side):
        assert len({tuple(c.flatten().tolist()) for c in crops}) == len(crops)
        assert (crops[:, 0].diff(dim=2) == 1).all()
        assert (crops[:, 0].diff(dim=1) == width).all()


# --- Fashion-MNIST -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx(tmp_path: Path, suffix: str, inside: str) -> None:
    images, labels = write_fashion(tmp_path / inside, suffix)
    data = load_dataset("fashion-mnist", data_dir=str(tmp_path), img_size=28)
    assert (data.train_images.numpy() == images[:, None]).all()
    assert data.train_images.shape == (30, 3, 28, 28)
    assert data.train_labels.tolist() == labels.tolist()
    assert len(data.test_labels) == 20
    assert (data.num_classes, data.augment) == (10, False)


def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path) -> None:
    write_fashion(tmp_path / "debian")
    assert load_dataset("fashion-mnist").train_images.shape == (30, 3, 32, 32)


def test_fashion_mnist_absent_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as error:
        load_dataset("fashion-mnist")
    assert "apt-get install dataset-fashion-mnist" in one_line(error)
    assert "--data-dir" in one_line(error)
    assert list((tmp_path / "cache").rglob("*.gz")) == []
    with pytest.raises(MissingError, match="no train-images-idx3-ubyte"):
        load_dataset("fashion-mnist", data_dir=str(tmp_path))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def shorten_payload(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def lengthen_payload(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"x"))


def spoil_magic(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x03" + gzip.decompress(path.read_bytes())[4:]))


def claim_too_much(path: Path) -> None:
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)))


def fill_with_text(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def corrupt_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000:1400] = bytes(400)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        shorten_payload,
        lengthen_payload,
        spoil_magic,
        claim_too_much,
        fill_with_text,
        empty,
        corrupt_middle,
        Path.unlink,
    ],
)
def test_damaged_idx_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_fashion(tmp_path)
    damage(tmp_path / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(MissingError) as error:
        load_dataset("fashion-mnist", data_dir=str(tmp_path))
    assert "t10k-images-idx3-ubyte" in one_line(error)


@pytest.mark.parametrize("labels", [np.arange(5), np.full(20, 10)])
def test_idx_labels_must_fit_their_images(tmp_path: Path, labels: np.ndarray) -> None:
    write_fashion(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    with pytest.raises(MissingError, match="t10k"):
        load_dataset("fashion-mnist", data_dir=str(tmp_path))


# --- CIFAR -------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_reads_python2_batches(tmp_path: Path, inside: str) -> None:
    images = write_cifar10(tmp_path / inside)
    data = load_dataset("cifar10", data_dir=str(tmp_path))
    assert (data.train_images.flatten(1).numpy() == images[:50]).all()
    assert (data.test_images.flatten(1).numpy() == images[50:]).all()
    assert data.train_labels.tolist() == list(range(10)) * 5
    assert (data.num_classes, data.augment) == (10, True)


def test_cifar_batch_is_what_numpy_itself_would_read(tmp_path: Path) -> None:
    images = np.arange(2 * 3072).reshape(2, 3072) % 256
    batch = pickle.loads(python2_batch(images, [3, 4], b"labels"), encoding="bytes")
    assert (batch[b"data"] == images).all()
    assert batch[b"labels"] == [3, 4]


def test_cifar100_reads_batches_written_by_python3(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    images = np.random.default_rng(2).integers(0, 256, (6, 3072)).astype(np.uint8)
    fine = [0, 99, 5, 0, 1, 2]
    for name, order in (("train", "C"), ("test", "F")):
        batch = {b"data": np.asarray(images, order=order), b"fine_labels": fine}  # type: ignore[call-overload]
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    data = load_dataset("cifar100", data_dir=str(tmp_path))
    assert (data.train_images.flatten(1).numpy() == images).all()
    assert torch.equal(data.train_images, data.test_images)
    assert data.test_labels.tolist() == fine
    assert data.num_classes == 100


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    bait = tmp_path / "executed"
    for payload in (
        pickle.dumps({b"data": _Malicious(bait)}, protocol=2),
        b"cos\nsystem\n(S'touch " + str(bait).encode() + b"'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dot\x93.",
    ):
        (tmp_path / "data_batch_3").write_bytes(payload)
        with pytest.raises(MissingError, match="data_batch_3"):
            load_dataset("cifar10", data_dir=str(tmp_path))
    assert not bait.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        # A memo of 2**31 places, 8 bytes each.
        (b"\x80\x02Nr" + (2**31).to_bytes(4, "little") + b".", "places"),
        (b"p2147483648\n.", "operation|places|pickle"),
        (b"\x80\x02B" + (2**31 - 1).to_bytes(4, "little") + b"x.", "expected 2147483647 bytes"),
    ],
    ids=["memo", "text memo", "length"],
)
def test_a_pickle_takes_no_more_memory_than_its_file(
    tmp_path: Path, content: bytes, told: str
) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(MissingError, match=told) as error:
        load_dataset("cifar10", data_dir=str(tmp_path))
    assert "test_batch" in one_line(error)


def test_labels_of_lists_of_lists_are_no_array(tmp_path: Path) -> None:
    """They are refused before an array of them is made, which would be a terabyte."""
    write_cifar10(tmp_path)
    labels: list[Any] = [1, 1]
    for _ in range(12):
        labels = [labels] * 10
    images = np.zeros((10, 3072), np.uint8)
    content = pickle.dumps({b"data": images, b"labels": labels}, protocol=2)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(MissingError, match="labels are no whole numbers"):
        load_dataset("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02]q\x00.",
        b"\x80\x02N.",
        b"<html>",
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 10), np.uint8), b"labels": [0, 1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), np.int16), b"labels": [0, 1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, protocol=2),
        pickle.dumps({b"data": [1, 2], b"labels": [0, 1]}, protocol=2),
    ],
)
def test_damaged_cifar_batch_is_named(tmp_path: Path, content: bytes) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(MissingError) as error:
        load_dataset("cifar10", data_dir=str(tmp_path))
    assert "test_batch" in one_line(error)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_incomplete_cifar_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_cifar10(tmp_path)
    damage(tmp_path / "data_batch_5")
    with pytest.raises(MissingError, match="data_batch_5"):
        load_dataset("cifar10", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_absent_says_what_to_type(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match="--data-dir") as error:
        load_dataset(name)
    assert "no network" in one_line(error)
    with pytest.raises(MissingError, match="--data-dir"):
        load_dataset(name, data_dir=str(tmp_path / "nowhere"))


def test_download_lands_whole_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        fetched.append((filename, md5))
        write_cifar10(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision_utils, "download_and_extract_archive", fetch)
    for _ in range(2):
        assert len(load_dataset("cifar10").train_labels) == 50
    assert fetched == [("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")]
    assert [p.name for p in (tmp_path / "cache/stability-probe/data").iterdir()] == [
        "cifar-10-batches-py"
    ]


def test_fashion_download_takes_four_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        fetched.append(filename)
        write_fashion(Path(root))

    monkeypatch.setattr(torchvision_utils, "download_and_extract_archive", fetch)
    assert len(load_dataset("fashion-mnist").train_labels) == 30
    assert len(fetched) == 4
    assert (
        tmp_path / "cache/stability-probe/data/FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"
    ).is_file()


# --- folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_reads_train_and_test(tmp_path: Path, test_name: str) -> None:
    for part, count in (("train", 3), (test_name, 1)):
        for i in range(count):
            write_picture(tmp_path / part / "blue" / f"{i}.png", (0, 0, 200), (50, 40))
            write_picture(tmp_path / part / "red" / f"{i}.TIFF", (200, 0, 0), (40, 60))
    data = load_dataset(f"folder:{tmp_path}", img_size=24)
    assert data.train_images.shape == (6, 3, 24, 24)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 1]
    assert data.train_images[0].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 200]
    assert (data.num_classes, data.augment) == (2, True)
    assert load_dataset(f"folder:{tmp_path}", limit=2).train_images.shape == (2, 3, 224, 224)


def test_folder_without_test_is_split_by_class(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 15), ("c", 2)):
        for i in range(count):
            write_picture(tmp_path / name / f"{i}.png", (i, 0, 0), (8, 8))
    data = load_dataset(f"folder:{tmp_path}", img_size=8)
    assert data.train_labels.bincount().tolist() == [8, 12, 1]
    assert data.test_labels.bincount().tolist() == [2, 3, 1]
    for label, count in ((0, 10), (1, 15), (2, 2)):
        shades = torch.cat(
            [
                data.train_images[data.train_labels == label][:, 0, 0, 0],
                data.test_images[data.test_labels == label][:, 0, 0, 0],
            ]
        )
        assert sorted(shades.tolist()) == list(range(count))
    again = load_dataset(f"folder:{tmp_path}", img_size=8, seed=0)
    other = load_dataset(f"folder:{tmp_path}", img_size=8, seed=1)
    assert torch.equal(data.test_images, again.test_images)
    assert not torch.equal(data.test_images, other.test_images)


def test_folder_pictures_are_scaled_and_cropped_about_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # only the middle third survives the crop
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(wide).convert("L").save(tmp_path / name / f"{i}.jpg", quality=100)
    data = load_dataset(f"folder:{tmp_path}", img_size=10)
    assert data.train_images[:, :, :, 1:-1].min() > 240
    assert data.train_images.shape[1:] == (3, 10, 10)


def cut_png(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("damage", [cut_png, fill_with_text, empty])
def test_damaged_picture_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for name in ("a", "b"):
        for i in range(3):
            write_picture(tmp_path / name / f"{i}.png", (9, 9, 9), (8, 8))
    damage(tmp_path / "b" / "1.png")
    with pytest.raises(MissingError) as error:
        load_dataset(f"folder:{tmp_path}")
    assert str(tmp_path / "b" / "1.png") in one_line(error)


def test_folder_problems_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no folder"):
        load_dataset(f"folder:{tmp_path}/nowhere")
    with pytest.raises(MissingError, match="0 folders with images"):
        load_dataset(f"folder:{tmp_path}")
    for i in range(2):
        write_picture(tmp_path / "train" / "a" / f"{i}.png", (1, 1, 1), (8, 8))
    write_picture(tmp_path / "train" / "b" / "0.png", (1, 1, 1), (8, 8))
    (tmp_path / "train" / "b" / "._0.png").write_bytes(b"left by another system")
    other = tmp_path / "train" / "c" / "0.gif"
    other.parent.mkdir()
    other.touch()
    with pytest.raises(MissingError, match=r"train/c has files but no image; use bmp, jpeg"):
        load_dataset(f"folder:{tmp_path}")
    other.unlink()
    with pytest.raises(UsageError, match="one image"):
        load_dataset(f"folder:{tmp_path}")
    write_picture(tmp_path / "test" / "zebra" / "0.png", (1, 1, 1), (8, 8))
    with pytest.raises(MissingError, match="zebra"):
        load_dataset(f"folder:{tmp_path}")


# --- the user's own callable -------------------------------------------------------------


@pytest.fixture
def user_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], str]:
    """Writes a module with ``make`` around the given body; returns what to pass as data."""
    monkeypatch.chdir(tmp_path)
    module = f"user_{abs(hash(request.node.nodeid))}"

    def write(body: str) -> str:
        (tmp_path / f"{module}.py").write_text(f"import numpy as np, torch\ndef make():\n {body}\n")
        return f"{module}:make"

    return write


LABELS = "np.array([0, 1, 1, 0])"


@pytest.mark.parametrize(
    ("images", "channels"),
    [
        ("np.full((4, 6, 6), 51, np.uint8)", 1),
        ("torch.full((4, 6, 6), 0.2)", 1),
        ("torch.full((4, 1, 6, 6), 0.2, dtype=torch.float64)", 1),
        ("torch.full((4, 3, 6, 6), 51, dtype=torch.uint8)", 3),
        ("np.full((4, 6, 6, 3), 51, np.uint8)[:, ::-1]", 3),
        ("np.full((4, 6, 6, 3), 0.2, np.float32)", 3),
    ],
)
def test_user_arrays_in_every_layout(
    user_data: Callable[[str], str], images: str, channels: int
) -> None:
    data = load_dataset(user_data(f"x = {images}; return x, {LABELS}, x[:2], torch.tensor([1, 0])"))
    assert data.train_images.shape == (4, 3, 6, 6)
    assert data.train_images.unique().tolist() == [51]
    assert data.train_labels.tolist() == [0, 1, 1, 0]
    assert (data.num_classes, data.augment) == (2, False)
    assert data.mean == pytest.approx((0.2,) * 3)
    assert normalize(data.train_images, data).abs().max() < 1e-5


def test_user_channels_last_keeps_its_colours(user_data: Callable[[str], str]) -> None:
    body = "x = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3); "
    data = load_dataset(user_data(body + "return x, [0, 1], x, [0, 1]"))
    expected = np.arange(120).reshape(2, 5, 4, 3).transpose(0, 3, 1, 2)
    assert (data.train_images.numpy() == expected).all()


def test_user_dataset_keeps_its_choices(user_data: Callable[[str], str]) -> None:
    body = (
        "from stability_probe.datasets import Dataset; "
        "x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8); y = torch.tensor([0, 1, 2, 0]); "
        "return Dataset(name='mine', train_images=x, train_labels=y, test_images=x, "
        "test_labels=y, num_classes=5, augment=True, mean=(0.5,), std=(0.25,))"
    )
    name = user_data(body)
    data = load_dataset(name, img_size=16)
    assert data.train_images.shape == (4, 3, 16, 16)
    assert (data.name, data.num_classes, data.augment) == (name, 5, True)
    assert (data.mean, data.std) == ((0.5,) * 3, (0.25,) * 3)


OK_IMAGES = "np.zeros((4, 6, 6), np.uint8)"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3", "returned int"),
        ("x = torch.utils.data.TensorDataset(torch.ones(2)); return x", "returned TensorDataset"),
        ("return 1, 2, 3", "returned a tuple of 3; return four arrays (train_images, train_labels"),
        ("raise ValueError('two\\nlines')", "raised ValueError: two lines"),
        (
            f"return {OK_IMAGES}, [0, 1, -1, 0], {OK_IMAGES}, {LABELS}",
            "training labels lie outside",
        ),
        (f"return {OK_IMAGES}, [0, 1, 3, 0], {OK_IMAGES}, {LABELS}", "skip some class"),
        (f"return {OK_IMAGES}, [0, 1, 2**30, 0], {OK_IMAGES}, {LABELS}", "skip some class"),
        (f"return {OK_IMAGES}, {LABELS}, {OK_IMAGES}, [0, 1, 2, 0]", "test label is above"),
        (f"return {OK_IMAGES}, [0, 1], {OK_IMAGES}, {LABELS}", "for 4 images"),
        (f"return {OK_IMAGES}, [0., 1., 1., 0.], {OK_IMAGES}, {LABELS}", "whole numbers"),
        (f"return {OK_IMAGES}[:0], [], {OK_IMAGES}, {LABELS}", "there are no training images"),
        (f"return {OK_IMAGES}, {LABELS}, np.zeros((4, 7, 7), np.uint8), {LABELS}", "must agree"),
        (f"x = np.zeros((4, 6)); return x, {LABELS}, x, {LABELS}", "have shape"),
        (f"x = np.zeros((4, 5, 6, 7)); return x, {LABELS}, x, {LABELS}", "have shape [4, 5, 6, 7]"),
        (f"x = np.full((4, 6, 6), np.nan); return x, {LABELS}, x, {LABELS}", "outside 0 to 1"),
        (f"x = np.full((4, 6, 6), 255.); return x, {LABELS}, x, {LABELS}", "outside 0 to 1"),
        (f"x = np.zeros((4, 6, 6), int); return x, {LABELS}, x, {LABELS}", "use uint8"),
        (f"x = ['a', None]; return x, {LABELS}, x, {LABELS}", "no tensor or array"),
    ],
)
def test_user_mistakes_are_told(user_data: Callable[[str], str], body: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load_dataset(user_data(body))
    assert told in one_line(error)


@pytest.mark.parametrize(
    ("num_classes", "mean", "std", "told"),
    [
        (2, (0, 0, 0), (1, 1, 1), "outside 0 to 1"),
        (3, (0,), (1, 1, 1), "one mean"),
        (3, (0, 0, 0), (1, 1, 0), "one mean"),
    ],
)
def test_user_dataset_is_checked_too(
    user_data: Callable[[str], str],
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    told: str,
) -> None:
    body = (
        "from stability_probe.datasets import Dataset; "
        "x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8); y = torch.tensor([0, 1, 2, 0]); "
        "return Dataset(name='mine', train_images=x, train_labels=y, test_images=x, "
        f"test_labels=y, num_classes={num_classes}, augment=True, mean={mean}, std={std})"
    )
    with pytest.raises(UsageError, match=told):
        load_dataset(user_data(body))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module_here:make", "ModuleNotFoundError"),
        ("stability_probe.datasets:nothing", "AttributeError"),
        ("stability_probe.datasets:__doc__", "no callable"),
        ("..:make", "cannot import"),
    ],
)
def test_unimportable_callable_is_told(name: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        load_dataset(name)
    assert told in one_line(error)


# --- choice, limit, size -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [("cifar", "cifar10"), ("Fashion_MNIST", "fashion-mnist"), ("DIGITS", "digits")],
)
def test_unknown_name_suggests(name: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        load_dataset(name)
    assert f"did you mean {near}" in one_line(error)
    assert "folder:PATH or package.module:callable" in one_line(error)


@pytest.mark.parametrize("name", ["", "folder", "folder:", ":make", "zzz"])
def test_nonsense_names_list_what_exists(name: str) -> None:
    with pytest.raises(UsageError, match="use one of digits, crops"):
        load_dataset(name)


def test_named_data_sets() -> None:
    assert list(DATASETS) == ["digits", "crops", "fashion-mnist", "cifar10", "cifar100"]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 250),
    st.integers(0, 2**31),
    st.randoms(),
)
def test_subset_is_balanced(counts: list[int], limit: int, seed: int, random: Any) -> None:
    values = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(values)
    labels = torch.tensor(values)
    if limit < len(counts):
        with pytest.raises(UsageError, match="--limit"):
            balanced_subset(labels, len(counts), limit, seed)
        return
    chosen = balanced_subset(labels, len(counts), limit, seed)
    assert len(chosen) == min(limit, len(labels))
    assert (chosen.diff() > 0).all()
    taken = labels[chosen].bincount(minlength=len(counts)).tolist()
    # A class below the fullest by more than one has nothing left to give.
    assert all(t == c for t, c in zip(taken, counts, strict=True) if t < max(taken) - 1)
    assert torch.equal(chosen, balanced_subset(labels, len(counts), limit, seed))


def test_limit_applies_to_both_sides_and_follows_the_seed() -> None:
    data = load_dataset("digits", limit=35)
    assert len(data.train_labels) == len(data.test_labels) == 35
    assert set(data.train_labels.bincount().tolist()) == {3, 4}
    assert torch.equal(data.train_images, load_dataset("digits", limit=35).train_images)
    assert not torch.equal(data.train_images, load_dataset("digits", limit=35, seed=1).train_images)
    assert len(load_dataset("digits", limit=10**6).train_labels) == 1437


@pytest.mark.parametrize("options", [{"limit": 9}, {"limit": 0}, {"img_size": 0}, {"img_size": -4}])
def test_impossible_options_are_told(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"use --limit 10|at least 1"):
        load_dataset("digits", **options)  # type: ignore[arg-type]


def test_resize_agrees_with_pillow() -> None:
    small, large = load_dataset("crops", img_size=20, limit=9), load_dataset("crops", limit=9)
    for image, source in zip(small.train_images, large.train_images, strict=True):
        picture = Image.fromarray(source.permute(1, 2, 0).numpy())
        expected = np.array(picture.resize((20, 20), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 1


# --- batches -----------------------------------------------------------------------------


def test_statistics_and_normalize_agree_with_numpy() -> None:
    data = load_dataset("crops", limit=500)
    scaled = data.train_images.numpy() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)))
    assert data.std == pytest.approx(scaled.std((0, 2, 3)))
    batch = normalize(data.train_images[:64], data)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (data.mean, data.std))
    assert batch.dtype == torch.float32
    assert np.abs(batch.numpy() - (scaled[:64] - mean) / std).max() < 1e-5


@pytest.mark.parametrize("shape", [(40, 3, 16, 16), (20, 1, 9, 24)])
def test_augmented_images_are_shifted_crops_of_the_padded_image(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    out = augment(images, torch.Generator().manual_seed(3))
    height, width = shape[2:]
    v, h = height // 8, width // 8
    padded = F.pad(images.float(), (h, h, v, v), mode="reflect").byte()
    seen = set()
    for before, after in zip(padded, out, strict=True):
        crops = {
            (top, left): before[:, top : top + height, left : left + width]
            for top in range(2 * v + 1)
            for left in range(2 * h + 1)
        }
        matches = [(False, *at) for at, crop in crops.items() if torch.equal(crop, after)]
        matches += [(True, *at) for at, crop in crops.items() if torch.equal(crop.flip(2), after)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 6
    assert {flip for flip, _, _ in seen} == {False, True}


def test_augment_follows_its_generator() -> None:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    kept = images.clone()
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    first, second = augment(images, generator), augment(images, generator)
    assert torch.equal(first, augment(images, generator.set_state(state)))
    assert not torch.equal(first, second)
    assert torch.equal(images, kept)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, augment(strided, generator.set_state(state)))


def test_tiny_images_are_only_flipped() -> None:
    images = torch.arange(4 * 3 * 4 * 4, dtype=torch.uint8).view(4, 3, 4, 4)
    for before, after in zip(images, augment(images, torch.Generator()), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_to_moves_every_tensor() -> None:
    data = load_dataset("digits", limit=10)
    moved = data.to("meta")
    for field in dataclasses.fields(Dataset):
        value = getattr(moved, field.name)
        if isinstance(value, torch.Tensor):
            assert value.device.type == "meta"
        else:
            assert value == getattr(data, field.name)


@pytest.mark.gpu
def test_augment_is_the_same_on_a_gpu() -> None:
    data = load_dataset("crops", limit=90)
    on_cpu = augment(data.train_images, torch.Generator().manual_seed(1))
    moved = data.to("cuda")
    on_gpu = augment(moved.train_images, torch.Generator().manual_seed(1))
    assert torch.equal(on_cpu, on_gpu.cpu())
    assert torch.allclose(normalize(on_gpu, moved).cpu(), normalize(on_cpu, data), atol=1e-6)
