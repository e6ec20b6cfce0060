from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from skreg.data import DATASETS, DatasetFormatError, DatasetNotFoundError, load
from skreg.data.restricted_imagenet import class_of_folders

CLASSES = DATASETS["restricted-imagenet"].classes
# One ImageNet index inside each class, at the edges of its range.
INDICES = {
    "dog": 268,
    "cat": 281,
    "frog": 32,
    "turtle": 33,
    "bird": 100,
    "primate": 365,
    "fish": 397,
    "crab": 118,
    "insect": 319,
}


@pytest.fixture(autouse=True)
def _no_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKREG_DATA", raising=False)


def write_image(folder: Path, shade: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).convert(mode).save(folder / "image.JPEG", quality=95)


@pytest.mark.parametrize("by_name", [True, False])
def test_loads_a_folder_of_classes(tmp_path: Path, by_name: bool) -> None:
    for number, name in enumerate(CLASSES):
        write_image(tmp_path / "train" / (name if by_name else str(INDICES[name])), shade=20 * number)
    images, labels = load("restricted-imagenet", "train", root=tmp_path)
    assert images.shape == (9, 3, 224, 224)
    assert images.dtype == torch.uint8
    assert sorted(labels.tolist()) == list(range(9))
    for image, label in zip(images, labels, strict=True):  # each image kept its own label
        assert abs(image.float().mean().item() - 20 * label.item()) < 2


def test_a_thousand_wordnet_folders_are_ranked(tmp_path: Path) -> None:
    names = [f"n{10_000_000 + 7 * rank}" for rank in range(1000)]
    for name in names:
        (tmp_path / name).mkdir()
    labels = class_of_folders(tmp_path)
    for name, index in INDICES.items():
        assert labels[names[index]] == CLASSES.index(name)
    sizes = {
        "dog": 118,
        "cat": 5,
        "frog": 3,
        "turtle": 5,
        "bird": 21,
        "primate": 18,
        "fish": 9,
        "crab": 4,
        "insect": 20,
    }
    found = {name: list(labels.values()).count(CLASSES.index(name)) for name in CLASSES}
    assert found == sizes


def test_other_classes_are_left_out(tmp_path: Path) -> None:
    for index in ("0", "150", "151", "269"):
        write_image(tmp_path / "val" / index, shade=0)
    assert load("restricted-imagenet", "test", root=tmp_path)[1].tolist() == [CLASSES.index("dog")]


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    wide = Image.new("RGB", (600, 300), (255, 0, 0))
    wide.paste((0, 0, 255), (150, 0, 450, 300))  # blue: the middle square
    (tmp_path / "train" / "dog").mkdir(parents=True)
    wide.save(tmp_path / "train" / "dog" / "wide.png")
    image = load("restricted-imagenet", "train", root=tmp_path)[0][0]
    assert (image[2] > 250).all()
    assert (image[0] < 5).all()


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "cat", shade=77, mode="L")
    image = load("restricted-imagenet", "train", root=tmp_path)[0][0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_limit_decodes_only_what_it_keeps(tmp_path: Path) -> None:
    for name in CLASSES:
        write_image(tmp_path / "train" / name, shade=9)
    images, labels = load("restricted-imagenet", "train", root=tmp_path, limit=4)
    assert len(images) == len(labels) == 4
    kept = {CLASSES[label] for label in labels.tolist()}
    for name in set(CLASSES) - kept:
        (tmp_path / "train" / name / "image.JPEG").write_bytes(b"damaged")
    assert torch.equal(load("restricted-imagenet", "train", root=tmp_path, limit=4)[1], labels)


@pytest.mark.parametrize("folders", [[], ["n02085620", "n02085782"], ["dog", "wolf"], ["1000"]])
def test_folders_of_unknown_naming(tmp_path: Path, folders: list[str]) -> None:
    (tmp_path / "train").mkdir()
    for folder in folders:
        write_image(tmp_path / "train" / folder, shade=0)
    with pytest.raises(DatasetFormatError, match=rf"expected all 1000 ImageNet .* found {len(folders)} folders"):
        load("restricted-imagenet", "train", root=tmp_path)


def test_no_folder_of_the_nine_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "7", shade=0)
    with pytest.raises(DatasetFormatError, match="found none among 1 folders"):
        load("restricted-imagenet", "train", root=tmp_path)


def test_missing_folder_and_missing_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=rf"{tmp_path / 'val'}"):
        load("restricted-imagenet", "test", root=tmp_path)
    with pytest.raises(DatasetNotFoundError, match="SKREG_DATA is not set"):
        load("restricted-imagenet", "test")
    (tmp_path / "train" / "dog").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="images in every class folder") as caught:
        load("restricted-imagenet", "train", root=tmp_path)
    assert "dog" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0damaged"])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train" / "dog").mkdir(parents=True)
    path = tmp_path / "train" / "dog" / "image.JPEG"
    path.write_bytes(content)
    with pytest.raises(DatasetFormatError, match=rf"{path}: expected a readable image"):
        load("restricted-imagenet", "train", root=tmp_path)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this system does not say how much memory it has")
def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "train" / "dog", shade=0)
    monkeypatch.setattr(os, "sysconf", lambda name: 300)
    with pytest.raises(MemoryError, match=r"1 images take .* load fewer with limit"):
        load("restricted-imagenet", "train", root=tmp_path)
