from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from skreg.data import DATASETS, load


@pytest.fixture(scope="module", params=["train", "test"])
def split(request: pytest.FixtureRequest) -> tuple[str, Tensor, Tensor]:
    return request.param, *load("four-shapes", request.param)


def test_types_and_balance(split: tuple[str, Tensor, Tensor]) -> None:
    name, images, labels = split
    count = {"train": 4000, "test": 1000}[name]
    assert images.shape == (count, *DATASETS["four-shapes"].shape)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [count // 4] * 4


def test_black_shapes_on_white(split: tuple[str, Tensor, Tensor]) -> None:
    images = split[1]
    assert (images.amin(dim=(1, 2, 3)) == 0).all()
    assert (images.amax(dim=(1, 2, 3)) == 255).all()
    # Corners of the image are outside every shape: white, but for the rare tip.
    assert (images[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).float().mean() > 0.999
    # Anti-aliased, yet mostly black and white.
    grey = ((images > 0) & (images < 255)).float().mean(dim=(1, 2, 3))
    assert (grey > 0).all()
    assert (grey < 0.25).all()


def test_the_bytes_never_change(split: tuple[str, Tensor, Tensor]) -> None:
    name, images, labels = split
    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert (
        digest
        == {
            "train": "3be638b438d8db2e895b5afda1aeab8e1066a3d6741d7ab8ad60aa0e89eefcff",
            "test": "03251c471fcbe2a924189a6ad5f4d7965fa98dabe33f28ba7b9889ee19a0b910",
        }[name]
    )


def test_every_image_is_another_one() -> None:
    train, test = load("four-shapes", "train")[0], load("four-shapes", "test")[0]
    everything = torch.cat([train, test]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == len(everything)


def test_mean_and_std_are_those_of_the_training_set() -> None:
    info, pixels = DATASETS["four-shapes"], load("four-shapes", "train")[0].double() / 255
    assert pixels.mean().item() == pytest.approx(info.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(info.std[0], abs=5e-5)


def ink_and_reach(images: Tensor) -> tuple[Tensor, Tensor]:
    """Area of each shape, and the distance of its furthest dark pixel from its centre of mass."""
    ink = 1 - images[:, 0].double() / 255
    area = ink.sum(dim=(1, 2))
    places = torch.arange(28, dtype=torch.float64) + 0.5
    centre_y = (ink.sum(2) * places).sum(1) / area
    centre_x = (ink.sum(1) * places).sum(1) / area
    distance = torch.hypot(
        places[None, :, None] - centre_y[:, None, None], places[None, None] - centre_x[:, None, None]
    )
    return area, (distance * (ink > 0.5)).amax(dim=(1, 2))


@pytest.mark.parametrize(
    ("shape", "share"),  # area of the shape over the area of the circle through its corners
    [("circle", 1.0), ("star", 0.3573), ("square", 0.6366), ("triangle", 0.4135)],
)
def test_each_class_has_the_proportions_of_its_shape(shape: str, share: float) -> None:
    images, labels = load("four-shapes", "train")
    area, reach = ink_and_reach(images[labels == DATASETS["four-shapes"].classes.index(shape)])
    radius = (area / (share * torch.pi)).sqrt()  # exact up to sampling, so it must lie where radii are drawn
    assert radius.min() > 6.9
    assert radius.max() < 13.1
    # Pixel centres stay within the radius; thin tips fall short of it by about a pixel and a half.
    assert (reach < radius + 0.5).all()
    assert (reach > radius - 3).all()


def test_position_size_and_rotation_vary() -> None:
    images, labels = load("four-shapes", "train")
    for label in range(4):
        chosen = images[labels == label]
        assert ink_and_reach(chosen)[1].std() > 1
        columns = (255 - chosen[:, 0].double()).sum(1)
        centre = (columns * torch.arange(28)).sum(1) / columns.sum(1)
        assert centre.std() > 1
