from __future__ import annotations

import sys

import pytest
import torch

from skreg.data import DATASETS, load
from skreg.models import NETS


def test_every_entry_is_whole() -> None:
    assert list(DATASETS) == ["four-shapes", "mnist", "fashion-mnist", "cifar10", "restricted-imagenet"]
    for name, info in DATASETS.items():
        assert info.name == name
        assert len(set(info.classes)) == len(info.classes) >= 2
        assert len(info.mean) == len(info.std) == info.shape[0]
        assert info.net in NETS
    assert {name: info.eps for name, info in DATASETS.items()} == {
        "four-shapes": 0.1,
        "mnist": 0.3,
        "fashion-mnist": 0.1,
        "cifar10": 0.03,
        "restricted-imagenet": 0.005,
    }


def test_limit_is_a_fixed_growing_sample() -> None:
    images, _ = load("four-shapes", "train")
    small, large = load("four-shapes", "train", limit=100), load("four-shapes", "train", limit=400)
    again = load("four-shapes", "train", limit=100)
    assert torch.equal(small[0], again[0])
    assert torch.equal(small[0], large[0][:100])
    assert torch.equal(small[1], large[1][:100])
    assert not torch.equal(small[0], images[:100])
    assert large[1].bincount(minlength=4).min() > 70  # 100 expected, standard deviation 8.5


def test_limited_images_keep_their_labels() -> None:
    images, labels = load("four-shapes", "test")
    label_of = {image.numpy().tobytes(): label for image, label in zip(images, labels.tolist(), strict=True)}
    some, some_labels = load("four-shapes", "test", limit=50)
    assert [label_of[image.numpy().tobytes()] for image in some] == some_labels.tolist()


@pytest.mark.parametrize("limit", [1000, 5000])
def test_a_limit_beyond_the_set_keeps_all(limit: int) -> None:
    images, labels = load("four-shapes", "test", limit=limit)
    assert len(images) == len(labels) == 1000
    assert labels.bincount().tolist() == [250] * 4


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_under_one(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"limit: expected at least 1 image, or None for all, found {limit}"):
        load("four-shapes", "test", limit=limit)


def test_unknown_name_and_split() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of four-shapes, mnist, .* found 'imagenet'"):
        load("imagenet", "train")
    with pytest.raises(ValueError, match="split: expected one of train, test, found 'val'"):
        load("mnist", "val")


def test_torchvision_is_asked_for_only_where_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert len(load("four-shapes", "test", limit=3)[0]) == 3
    with pytest.raises(ModuleNotFoundError, match=r"torchvision"):
        load("restricted-imagenet", "test", root=tmp_path_factory.getbasetemp())
