from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skreg.data import DatasetFormatError, DatasetNotFoundError, cifar10, load

PER_BATCH = 4
NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", PER_BATCH)
    monkeypatch.delenv("SKREG_DATA", raising=False)


def example_batch(seed: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8), rng.integers(0, 10, PER_BATCH).tolist()


def binary_bytes(pixels: np.ndarray, labels: list[int]) -> bytes:
    return np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1).tobytes()


def python_bytes(pixels: Any, labels: Any, protocol: int = 2) -> bytes:
    return pickle.dumps({"batch_label": "a batch", "labels": labels, "data": pixels}, protocol=protocol)


def python2_bytes(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and its NumPy pickled it, opcode by opcode: byte strings, the old module name."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def integer(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    raw = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + integer(1) + integer(len(pixels)) + integer(3072) + b"\x86" + dtype + b"\x89"
    array += b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def write(folder: Path, encode: Callable[[np.ndarray, list[int]], bytes], suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        (folder / (name + suffix)).write_bytes(encode(*example_batch(seed)))


@pytest.mark.parametrize(
    ("encode", "folder", "suffix"),
    [
        (binary_bytes, "cifar-10-batches-bin", ".bin"),
        (binary_bytes, "", ".bin"),
        (python_bytes, "cifar-10-batches-py", ""),
        (python_bytes, "", ""),
        (python2_bytes, "cifar-10-batches-py", ""),
    ],
)
def test_loads_what_was_written(
    tmp_path: Path, encode: Callable[[np.ndarray, list[int]], bytes], folder: str, suffix: str
) -> None:
    write(tmp_path / folder, encode, suffix)
    for split, seeds in (("train", range(5)), ("test", range(5, 6))):
        images, labels = load("cifar10", split, root=tmp_path)
        batches = [example_batch(seed) for seed in seeds]
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert torch.equal(images, torch.from_numpy(np.concatenate([b[0] for b in batches])).reshape(-1, 3, 32, 32))
        assert labels.tolist() == [label for batch in batches for label in batch[1]]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    pixels, labels = example_batch(0)
    (tmp_path / "test_batch").write_bytes(python_bytes(pixels, labels, protocol))
    assert torch.equal(load("cifar10", "test", root=tmp_path)[0].reshape(-1, 3072), torch.from_numpy(pixels))


def test_the_hand_made_pickle_is_what_a_plain_unpickler_reads() -> None:
    pixels, labels = example_batch(0)
    content = pickle.loads(python2_bytes(pixels, labels), encoding="bytes")
    assert np.array_equal(content[b"data"], pixels)
    assert content[b"labels"] == labels


def test_missing_batch_names_both_versions(tmp_path: Path) -> None:
    write(tmp_path, binary_bytes, ".bin")
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"{tmp_path}: no data_batch_3\n") as caught:
        load("cifar10", "train", root=tmp_path)
    for part in (
        "data_batch_3.bin or data_batch_3",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "download=True",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("change", [-1, 1, -3073, 3073])
def test_binary_batch_of_another_size(tmp_path: Path, change: int) -> None:
    content = binary_bytes(*example_batch(0))
    (tmp_path / "test_batch.bin").write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(DatasetFormatError, match=rf"test_batch.bin: expected 12292 bytes .* found {12292 + change}"):
        load("cifar10", "test", root=tmp_path)


@pytest.mark.parametrize(("encode", "suffix"), [(binary_bytes, ".bin"), (python_bytes, "")])
def test_label_out_of_range(tmp_path: Path, encode: Callable[..., bytes], suffix: str) -> None:
    (tmp_path / f"test_batch{suffix}").write_bytes(encode(example_batch(0)[0], [0, 1, 10, 2]))
    with pytest.raises(DatasetFormatError, match=r"test_batch.*: expected labels 0 to 9, found a label 10"):
        load("cifar10", "test", root=tmp_path)


class Attack:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, np.load, np.frombuffer])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, function: Callable[..., Any], protocol: int) -> None:
    mark = tmp_path / "mark"
    attack = Attack(function, str(mark) if function is os.mkdir else f"__import__('os').mkdir({str(mark)!r})")
    content = pickle.dumps({"labels": [0] * PER_BATCH, "data": attack}, protocol=protocol)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DatasetFormatError, match=r"test_batch: refused: the pickle asks for \w+(\.\w+)*\.\w+"):
        load("cifar10", "test", root=tmp_path)
    assert not mark.exists()
    if function in (os.mkdir, eval):  # the attack is a real one
        pickle.loads(content)
        assert mark.is_dir()


def test_an_object_array_is_refused(tmp_path: Path) -> None:
    array = np.empty((PER_BATCH, 3072), dtype=object)  # whose pickled state is a list, not bytes
    (tmp_path / "test_batch").write_bytes(python_bytes(array, [0] * PER_BATCH))
    with pytest.raises(DatasetFormatError, match=r"expected in 'data' a C-ordered uint8 array .*O8"):
        load("cifar10", "test", root=tmp_path)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (
            np.zeros((PER_BATCH, 3071), np.uint8),
            [0] * PER_BATCH,
            r"uint8 array of shape \(4, 3072\), found shape",
        ),
        (np.zeros((1, PER_BATCH * 3072), np.uint8), [0] * PER_BATCH, r"found shape \(1, 12288\)"),
        (np.zeros((PER_BATCH, 3072), np.int8), [0] * PER_BATCH, "found shape .* dtype .*i1"),
        (np.zeros((PER_BATCH, 3072), np.uint8, order="F"), [0] * PER_BATCH, "Fortran order"),
        (np.zeros((PER_BATCH, 10), np.float64), [0] * PER_BATCH, "f8"),
        (b"pixels", [0] * PER_BATCH, "expected in 'data' a NumPy array, found bytes"),
        (None, [0] * PER_BATCH, "expected in 'data' a NumPy array, found NoneType"),
        (np.zeros((PER_BATCH, 3072), np.uint8), [0] * 3, "a list of 4 integers"),
        (np.zeros((PER_BATCH, 3072), np.uint8), ["0"] * PER_BATCH, "a list of 4 integers"),
        (np.zeros((PER_BATCH, 3072), np.uint8), None, "a list of 4 integers"),
        (np.zeros((PER_BATCH, 3072), np.uint8), [0, 1, -1, 2**70], "labels 0 to 9, found a label -1"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, data: Any, labels: Any, message: str) -> None:
    (tmp_path / "test_batch").write_bytes(python_bytes(data, labels))
    with pytest.raises(DatasetFormatError, match=message) as caught:
        load("cifar10", "test", root=tmp_path)
    assert str(tmp_path / "test_batch") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps("text")])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DatasetFormatError, match="test_batch: expected a pickled"):
        load("cifar10", "test", root=tmp_path)


def test_an_oversized_pickle_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "test_batch").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DatasetFormatError, match="at most 25776 bytes, found 1099511627776"):
        load("cifar10", "test", root=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b".",  # BYTEARRAY8 of 64 GiB
        b"\x80\x04\x8e" + (2**36).to_bytes(8, "little") + b".",  # BINBYTES8 of 64 GiB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # memo index 2**32 - 1
    ],
)
def test_a_lying_length_takes_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetFormatError, match="expected a pickled"):
            load("cifar10", "test", root=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


PIXELS, LABELS = example_batch(0)
CONTENT = python_bytes(PIXELS, LABELS)
# Damage to the pixels themselves cannot be seen: flip only what lies before and after them.
EDGES = [*range(200), *range(len(CONTENT) - 60, len(CONTENT))]


def outcome(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returned, or the one kind of error that damage may raise."""
    try:
        return read(*arguments)
    except DatasetFormatError as error:
        return error


@settings(max_examples=200, deadline=None)
@given(
    flips=st.dictionaries(st.sampled_from(EDGES), st.integers(0, 255), max_size=3),
    length=st.just(len(CONTENT)) | st.integers(0, len(CONTENT)),
)
def test_random_damage_gives_a_clear_error_or_a_batch(
    tmp_path_factory: pytest.TempPathFactory, flips: dict[int, int], length: int
) -> None:
    damaged = bytearray(CONTENT)
    for position, value in flips.items():
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged_batch"
    path.write_bytes(damaged[:length])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "IMAGES_PER_BATCH", PER_BATCH)
        found = outcome(cifar10.read_python_batch, path)
    if isinstance(found, DatasetFormatError):
        assert str(path) in str(found)
    else:
        pixels, labels = found
        assert pixels.shape == (PER_BATCH, 3072)
        assert labels.shape == (PER_BATCH,)
        assert ((labels >= 0) & (labels < 10)).all()


def test_the_pickle_of_the_test_is_a_plain_one() -> None:
    assert pickle.Unpickler(io.BytesIO(CONTENT)).load()["labels"] == LABELS
