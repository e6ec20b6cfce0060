"""Errors by the frequency of a perturbation: the Fourier heat map of Yin et al. (arXiv 1906.08988)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skreg._checks import check_count, check_number
from skreg.attacks import attack_mode
from skreg.evaluation.attacks import check_inputs, finite_forward, minibatches
from skreg.evaluation.search import misclassified


def fourier_vector(row: int, column: int, height: int, width: int) -> Tensor:
    """The real wave (height, width, float64) of l2 norm 1 whose only frequencies are +-(row, column).

    Args:
        row, column: cycles over the whole height and width, of any sign; those that differ by a multiple of height and
            width are the same.
    """
    y = torch.arange(height, dtype=torch.float64)[:, None] * (row / height)
    x = torch.arange(width, dtype=torch.float64)[None, :] * (column / width)
    wave = torch.cos(2 * math.pi * (y + x))
    return wave / wave.square().sum().sqrt()


def fourier_errors(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    size: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Tensor:
    """The error rate with each Fourier basis vector added to the images, one frequency at a time.

    The vector is added to every channel with a random sign (one an image and channel, the same for all
    frequencies), and the sum is clipped to [0, 1]. The model is in eval mode, and left as it was found.

    Args:
        model: maps float images to logits (N K).
        images: N C H W in [0, 1], on the model's device; at least one.
        labels: N, int64 classes.
        norm: l2 norm of the perturbation of each channel, before it is clipped.
        size: an odd number, for the `size` x `size` lowest frequencies only; None for all H x W.
        batch_size: images a forward pass.
        seed: of the signs.
        progress: is called with a line before each row of frequencies.

    Returns:
        H W (or size size), float64, on the CPU: error rates with frequency 0 at (H // 2, W // 2), as
        `torch.fft.fftshift` has it. A frequency and its negative are the same vector and have the same rate.

    Raises:
        TypeError, ValueError: an argument is not as described.
        FloatingPointError: the model's logits are not finite.
    """
    check_inputs(model, images, labels)
    check_count("number of images", len(images))
    check_number("norm", norm)
    check_count("batch_size", batch_size)
    height, width = images.shape[2:]
    if size is not None:
        check_count("size", size)
        if size % 2 == 0 or size > min(height, width):
            raise ValueError(f"size: expected an odd number of at most {min(height, width)}, found {size}")
    rows, columns = (height, width) if size is None else (size, size)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (len(images), images.shape[1], 1, 1), generator=generator) * 2 - 1
    scaled_signs = (norm * signs).to(images)
    errors: dict[tuple[int, int], float] = {}
    rates = torch.zeros(rows, columns, dtype=torch.float64)
    with attack_mode(model, "eval"), torch.no_grad():
        forward = finite_forward(model)
        for i in range(rows):
            if progress is not None:
                progress(f"frequencies, row {i + 1} of {rows}")
            for j in range(columns):
                row, column = i - rows // 2, j - columns // 2
                key, twin = (row % height, column % width), (-row % height, -column % width)
                if twin not in errors:
                    perturbation = fourier_vector(row, column, height, width).to(images) * scaled_signs
                    errors[key] = _error_rate(forward, images, labels, perturbation, batch_size)
                else:
                    errors[key] = errors[twin]
                rates[i, j] = errors[key]
    return rates


def _error_rate(forward: nn.Module, images: Tensor, labels: Tensor, perturbation: Tensor, batch_size: int) -> float:
    wrong = 0
    for (x, y), (change, _) in zip(
        minibatches(images, labels, batch_size), minibatches(perturbation, labels, batch_size), strict=True
    ):
        wrong += int(misclassified(forward, (x + change).clamp(0, 1), y).sum())
    return wrong / len(images)
