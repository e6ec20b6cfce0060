"""The paper's first data set (sec. 4.1): four shapes, black on white, drawn by us at every load."""

from __future__ import annotations

import os
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skreg.data.files import subset
from skreg.data.info import DATASETS

_INFO = DATASETS["four-shapes"]
_SIDE = _INFO.shape[1]
_SAMPLES = 4  # sub-pixel samples along each axis
_RADIUS = (7.0, 13.0)  # of the circle through the corners, in pixels
_SEEDS_AND_COUNTS = {"train": (1, 4000), "test": (2, 1000)}

# Corners, and how many of the lines along the edges a point of the shape may lie beyond. Those of a star are
# the five lines of a pentagram, and each of its tips lies beyond one of them.
_POLYGONS = {"star": (5, 1), "square": (4, 0), "triangle": (3, 0)}

_Array = npt.NDArray[np.floating[Any]]


def load_four_shapes(
    name: str, split: str, root: str | os.PathLike[str] | None, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Draw the four shapes: 4000 images for training, 1000 for testing, equally many of each class in turn.

    `root` is not used. The random numbers come from a stream that NumPy keeps stable, and go only through
    operations that IEEE 754 fixes to the last bit: the bytes are the same on every machine.

    Returns:
        images uint8 N x 1 x 28 x 28, labels int64 N.
    """
    seed, count = _SEEDS_AND_COUNTS[split]
    uniform = (np.random.PCG64(seed).random_raw(4 * count) >> np.uint64(11)).reshape(4, count) * 2.0**-53
    labels = np.arange(count) % len(_INFO.classes)
    images = np.empty((count, _SIDE, _SIDE), dtype=np.uint8)
    for label, shape in enumerate(_INFO.classes):
        images[labels == label] = _draw(shape, uniform[:, labels == label])
    return subset(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels), limit)


def _draw(shape: str, uniform: _Array) -> npt.NDArray[np.uint8]:
    """Draw one shape n times.

    Args:
        shape: name of the class.
        uniform: 4 x n numbers in [0, 1): size, horizontal and vertical position, rotation.

    Returns:
        n x 28 x 28, white 255, black 0, grey where a pixel is partly covered.
    """
    radius = _RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * uniform[0]
    # The circle through the corners stays inside the image.
    centre_x, centre_y = (radius + (_SIDE - 2 * radius) * position for position in uniform[1:3])
    covered = np.zeros((len(radius), _SIDE, _SIDE), dtype=np.uint16)
    for sample_y, sample_x in product(range(_SAMPLES), repeat=2):
        pixels = np.arange(_SIDE)
        x = pixels + (sample_x + 0.5) / _SAMPLES - centre_x[:, None]
        y = pixels + (sample_y + 0.5) / _SAMPLES - centre_y[:, None]
        covered += _inside(shape, x, y, radius[:, None], uniform[3][:, None])
    samples = _SAMPLES**2
    return (255 - (255 * covered + samples // 2) // samples).astype(np.uint8)


def _inside(shape: str, x: _Array, y: _Array, radius: _Array, rotation: _Array) -> npt.NDArray[np.bool_]:
    """Whether points lie in a shape centred at 0: columns x and rows y, each n x 28, give n x 28 x 28."""
    if shape == "circle":
        return (x * x)[:, None, :] <= (radius * radius - y * y)[:, :, None]
    corners, beyond_allowed = _POLYGONS[shape]
    # Half-angle formulas: cosine and sine of a rotation within 90 degrees either way, without a cosine, whose
    # last bit differs from machine to machine.
    tangent = 2 * rotation - 1
    cos, sin = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    beyond = np.zeros((*x.shape, _SIDE), dtype=np.uint8)
    distance = radius * _cosine((1 + beyond_allowed) / (2 * corners))
    for edge in range(corners):
        normal_x, normal_y = _cosine(edge / corners), _cosine(edge / corners - 0.25)
        along_x = (cos * normal_x - sin * normal_y) * x
        along_y = (sin * normal_x + cos * normal_y) * y
        beyond += along_x[:, None, :] > (distance - along_y)[:, :, None]
    return beyond <= beyond_allowed


def _cosine(turns: float) -> float:
    """Cosine of a constant angle, cut to decimals on which all machines agree."""
    return round(float(np.cos(2 * np.pi * turns)), 9)
