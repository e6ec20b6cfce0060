from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skreg import models
from skreg.data import cifar10
from skreg.models import Normalize


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_net(monkeypatch):
    """A net called "tiny" for images of any size: a convolution, the mean over 16 regions, a linear layer."""

    def build(*, classes, shape, mean, std):
        return nn.Sequential(
            Normalize(mean, std),
            nn.Conv2d(shape[0], 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64, classes),
        )

    monkeypatch.setitem(models.NETS, "tiny", build)
    return "tiny"


@pytest.fixture
def cifar10_files(tmp_path, monkeypatch):
    """A folder with all batches of CIFAR-10's binary format, of 20 images each, brighter the higher the class."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", 20)
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        labels = np.arange(20, dtype=np.uint8) % 10
        pixels = rng.integers(0, 30, (20, 3072)) + 20 * labels[:, None]
        np.concatenate([labels[:, None], pixels.astype(np.uint8)], axis=1).tofile(folder / name)
    return folder.parent


@pytest.fixture
def imagenet_files(tmp_path):
    """A folder with ImageNet's train and val, two pictures of one class of each of the nine groups."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number, index in enumerate((151, 281, 30, 33, 80, 365, 389, 118, 300)):
            folder = tmp_path / "data" / split / str(index)
            folder.mkdir(parents=True)
            for picture in range(2):
                pixels = rng.integers(0, 30, (40, 40, 3)) + 22 * number
                image.fromarray(pixels.astype(np.uint8)).save(folder / f"{picture}.JPEG")
    return tmp_path / "data"
