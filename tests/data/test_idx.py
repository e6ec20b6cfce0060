from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skreg.data import DatasetFormatError, DatasetNotFoundError, load
from skreg.data.idx import read_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def example_arrays(count: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, (np.arange(count) % 10).astype(np.uint8)


def write_pair(
    folder: Path, images: np.ndarray, labels: np.ndarray, *, stem: str = "train", zipped: bool = False
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        (folder / f"{stem}-{kind}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)


@pytest.fixture(autouse=True)
def _no_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKREG_DATA", raising=False)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_loads_what_was_written(tmp_path: Path, name: str, split: str, stem: str, flat: bool, zipped: bool) -> None:
    images, labels = example_arrays()
    write_pair(tmp_path if flat else tmp_path / FOLDERS[name], images, labels, stem=stem, zipped=zipped)
    loaded_images, loaded_labels = load(name, split, root=tmp_path)
    assert loaded_images.dtype == torch.uint8
    assert loaded_labels.dtype == torch.int64
    assert loaded_images.shape == (20, 1, 28, 28)
    assert torch.equal(loaded_images[:, 0], torch.from_numpy(images))
    assert loaded_labels.tolist() == labels.tolist()


def test_root_comes_from_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = example_arrays()
    write_pair(tmp_path, images, labels)
    monkeypatch.setenv("SKREG_DATA", str(tmp_path))
    assert len(load("mnist", "train")[1]) == 20


def test_images_and_labels_come_from_one_folder(tmp_path: Path) -> None:
    images, labels = example_arrays()
    write_pair(tmp_path / FOLDERS["mnist"], images, labels)
    (tmp_path / FOLDERS["mnist"] / "train-labels-idx1-ubyte").unlink()
    write_pair(tmp_path, 255 - images, labels)
    assert torch.equal(load("mnist", "train", root=tmp_path)[0][:, 0], torch.from_numpy(255 - images))


def test_missing_files_name_file_places_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        load("fashion-mnist", "test", root=tmp_path)
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    for part in (
        "t10k-images-idx3-ubyte.gz",
        str(tmp_path / "FashionMNIST/raw"),
        "dataset-fashion-mnist",
        "download=True",
    ):
        assert part in message
    assert "/usr/share" not in message  # a root that was named is not searched past
    with pytest.raises(DatasetNotFoundError, match="no root was given and the variable SKREG_DATA is not set"):
        load("mnist", "train")
    monkeypatch.setenv("SKREG_DATA", str(tmp_path))
    with pytest.raises(DatasetNotFoundError, match="no train-images-idx3-ubyte, train-labels-idx1-ubyte"):
        load("mnist", "train")


def test_only_the_missing_file_is_named_as_missing(tmp_path: Path) -> None:
    write_pair(tmp_path, *example_arrays())
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no train-labels-idx1-ubyte\n"):
        load("mnist", "train", root=tmp_path)


def test_count_mismatch(tmp_path: Path) -> None:
    images, labels = example_arrays()
    write_pair(tmp_path, images, labels[:-1])
    with pytest.raises(DatasetFormatError, match=r"images-idx3-ubyte holds 20 images but .* 19 labels"):
        load("mnist", "train", root=tmp_path)


def test_label_out_of_range(tmp_path: Path) -> None:
    images, labels = example_arrays()
    labels[3] = 10
    write_pair(tmp_path, images, labels)
    with pytest.raises(DatasetFormatError, match=r"labels-idx1-ubyte: expected labels 0 to 9, found a label 10"):
        load("mnist", "train", root=tmp_path)


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path) -> None:
    images, labels = example_arrays()
    labels[:10] = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)
    write_pair(tmp_path, images, labels)
    assert len(load("fashion-mnist", "train", root=tmp_path)[1]) == 20
    with pytest.raises(DatasetFormatError, match="expected the labels of mnist, found those of fashion-mnist"):
        load("mnist", "train", root=tmp_path)


GOOD = idx_bytes(example_arrays(3)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic number 00000803 .*found an empty file"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "found 00000d03"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "found 00000801"),
        (GOOD[:10], "header of 16 bytes, found 10"),
        (
            GOOD[:8] + struct.pack(">2I", 28, 27) + GOOD[16:],
            "shape N x 28 x 28 with N at least 1, found 3 x 28 x 27",
        ),
        (struct.pack(">4B3I", 0, 0, 8, 3, 0, 28, 28), "found 0 x 28 x 28"),
        (GOOD[:-1], "promises 2352 bytes of data, found a file that holds at most 2351"),
        (GOOD + b"x", "expected 2352 bytes of data, found more"),
        (GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], "promises 3367254359280 bytes"),
        (gzip.compress(GOOD)[:-20], "expected whole gzip data, found it damaged"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "expected whole gzip data, found it damaged"),
        (gzip.compress(GOOD[:-1]), "expected 2352 bytes of data, found 2351"),
        (gzip.compress(GOOD + b"x"), "expected 2352 bytes of data, found more"),
        (gzip.compress(GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:]), "promises 3367254359280 bytes"),
        (b"\x1f\x8b", "expected whole gzip data, found it damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DatasetFormatError, match=message) as caught:
        read_idx(path, (28, 28))
    assert str(path) in str(caught.value)


def test_reads_labels_of_no_dimensions(tmp_path: Path) -> None:
    labels = np.arange(7, dtype=np.uint8)
    (tmp_path / "labels").write_bytes(idx_bytes(labels))
    assert np.array_equal(read_idx(tmp_path / "labels", ()), labels)


def outcome(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returned, or the one kind of error that damage may raise."""
    try:
        return read(*arguments)
    except DatasetFormatError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(data=st.data(), zipped=st.booleans())
def test_random_damage_gives_a_clear_error_or_a_right_load(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, zipped: bool
) -> None:
    images = example_arrays(2)[0]
    content = bytearray(idx_bytes(images))
    for position, value in data.draw(st.dictionaries(st.integers(0, 15), st.integers(0, 255), max_size=3)).items():
        content[position] = value
    content = bytearray(gzip.compress(bytes(content), mtime=0)) if zipped else content
    if zipped:
        positions = st.integers(0, len(content) - 1)
        for position, value in data.draw(st.dictionaries(positions, st.integers(0, 255), max_size=2)).items():
            content[position] = value
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    found = outcome(read_idx, path, (28, 28))
    if isinstance(found, DatasetFormatError):
        assert str(path) in str(found)
    else:
        assert np.array_equal(found, images)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_lying_header_takes_no_memory(tmp_path: Path, zipped: bool) -> None:
    content = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28) + bytes(1000)
    path = tmp_path / "lie"
    path.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetFormatError, match="promises"):
            read_idx(path, (28, 28))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason=f"no {DEBIAN_FOLDER}: Debian package dataset-fashion-mnist")
def test_the_real_fashion_mnist() -> None:
    images, labels = load("fashion-mnist", "test")
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [1000] * 10
    assert math.isclose(images.float().mean().item() / 255, 0.2868, abs_tol=1e-3)
    assert labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    with pytest.raises(DatasetFormatError, match="found those of fashion-mnist"):
        load("mnist", "test", root=DEBIAN_FOLDER)
