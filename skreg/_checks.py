"""Checks of what callers hand to the attacks and losses, each with an error that says how to put it right.

Shapes, dtypes and devices cost nothing to check. The checks that read values wait for a CUDA device, once
each; they are `check_range`, `check_classes` and `per_image` when it is handed a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn


def check_model(model: object) -> None:
    """Raise TypeError unless `model` is a module, whose mode and parameters can be saved and restored."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {type(model).__name__}; wrap a function in a module")


def check_choice(name: str, value: object, options: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `options`, which the message lists."""
    # The types are compared too, because 1 == True.
    if not any(type(value) is type(option) and value == option for option in options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, found {value!r}")


def check_count(name: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, found {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}")


def check_number(name: str, value: object, *, positive: bool = False) -> float:
    """Return `value` as a float, or raise unless it is finite and at least 0 (above 0 if `positive`)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise ValueError(f"{name} must be finite and {'above 0' if positive else 'at least 0'}, found {number!r}")
    return number


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return `bounds` as two floats, or raise unless they are finite and the first is the smaller."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (lowest, highest) of pixel values, found {bounds!r}")
    low, high = float(bounds[0]), float(bounds[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"bounds must be finite with the lowest value first, found {bounds!r}")
    return low, high


def check_images(images: object) -> None:
    """Raise unless `images` is a floating point tensor of shape (N, C, H, W)."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, found {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, found {images.dtype}; divide uint8 pixels by 255 first")
    if images.layout != torch.strided:
        raise TypeError(f"images must be a dense tensor, found layout {images.layout}; call .to_dense() on them")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), found {tuple(images.shape)}")


def check_labels(labels: object, images: Tensor, *, name: str = "labels") -> None:
    """Raise unless `labels` is an int64 tensor (N,) with a class for each of `images`, on their device."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor, found {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise TypeError(f"{name} must be int64 class indices, found {labels.dtype}; call .long() on them")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{name} must have shape ({len(images)},), one for each image, found {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"{name} are on {labels.device} but images are on {images.device}; move them together")


def check_range(images: Tensor, bounds: tuple[float, float]) -> None:
    """Raise ValueError where `images` hold NaN or a value outside `bounds`; no tolerance. Waits for CUDA."""
    if images.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()
    if math.isnan(low) or math.isnan(high):
        raise ValueError("images hold NaN")
    if low < bounds[0] or high > bounds[1]:
        raise ValueError(
            f"images must lie within bounds {bounds}, found values from {low!r} to {high!r}; "
            "clamp or rescale them, or pass the bounds they have (normalisation belongs inside the model)"
        )


def check_logits(logits: object, images: Tensor) -> Tensor:
    """Return `logits` of `images`, or raise unless they are a floating point tensor (N, K) with K >= 2."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model must return a tensor of logits, found {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"the model must return floating point logits, found {logits.dtype}")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(
            f"the model must return logits of shape ({len(images)}, K), a row for each image and "
            f"K >= 2 classes, found {tuple(logits.shape)}"
        )
    return logits


def check_classes(labels: Tensor, classes: int, *, name: str = "labels") -> None:
    """Raise ValueError where `labels` are not in [0, classes). Waits for CUDA."""
    if labels.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(labels)).tolist()
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must lie in [0, {classes}) for a model with {classes} logits, found {low} to {high}")


def per_image(name: str, value: float | Tensor, images: Tensor, *, positive: bool = False) -> Tensor:
    """Return a number, or a tensor (N,) with one an image, as (N, 1, 1, 1) of the images' dtype and device.

    Raises:
        TypeError, ValueError: when a value is not finite, is negative (or 0 if `positive`), or the shape is
            not (N,). Reading a tensor waits for CUDA once.
    """
    if not isinstance(value, Tensor):
        number = check_number(name, value, positive=positive)
        return torch.full((len(images), 1, 1, 1), number, dtype=images.dtype, device=images.device)
    if value.shape != images.shape[:1]:
        raise ValueError(
            f"{name} must be a number or a tensor of shape ({len(images)},), one for each image, "
            f"found shape {tuple(value.shape)}"
        )
    values = value.detach().to(images.device, images.dtype)
    if not bool((values.isfinite() & (values > 0 if positive else values >= 0)).all()):
        raise ValueError(f"{name} must be finite and {'above 0' if positive else 'at least 0'} for every image")
    return values.reshape(-1, 1, 1, 1)
