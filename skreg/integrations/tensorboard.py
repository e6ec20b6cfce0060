"""Kernel statistics and training runs in TensorBoard."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from skreg._checks import check_count
from skreg._extras import require
from skreg.figures.kernels import spectra
from skreg.regularizer import SmoothKernelRegularizer
from skreg.training.progress import Progress

_SCALARS = (
    "loss",
    "data_loss",
    "penalty",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_pgd_accuracy",
    "learning_rate",
    "images_per_second",
)  # fmt: skip
_SIDE = 64  # pixels of a kernel's picture, at least


class TensorBoardProgress(Progress):
    """Writes a training to `folder`: numbers of the log after each epoch as ``training/KEY``, ``roughness/LAYER`` and
    ``norm/LAYER``; before the first epoch and after each, unless the net is sharded, what `write_statistics` writes.

    A resumed run replaces what its folder holds of later epochs.

    Raises:
        ModuleNotFoundError: TensorBoard is missing; names the extra.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     progress = TensorBoardProgress(folder)
        ...     progress.begin(epoch=0, epochs=1, steps=10)
        ...     progress.end()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        require("tensorboard", "tensorboard")
        self._make = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder = os.fspath(folder)
        self._writer: Any = None
        self._reg: SmoothKernelRegularizer | None = None

    def begin(self, *, epoch: int, epochs: int, steps: int) -> None:
        self._writer = self._make(self._folder, purge_step=epoch + 1)

    def weights(self, epoch: int, regularizer: SmoothKernelRegularizer) -> None:
        self._reg = regularizer
        if epoch == 1:
            write_statistics(self._writer, regularizer, 0)

    def epoch(self, record: dict[str, Any]) -> None:
        for key in _SCALARS:
            self._writer.add_scalar(f"training/{key}", record[key], record["epoch"])
        for layer in record["layers"]:
            self._writer.add_scalar(f"norm/{layer['name']}", layer["norm"], record["epoch"])
            if self._reg is None:
                self._writer.add_scalar(f"roughness/{layer['name']}", layer["roughness"], record["epoch"])
        if self._reg is not None:
            write_statistics(self._writer, self._reg, record["epoch"])

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()


@torch.no_grad()
def write_statistics(writer: Any, reg: SmoothKernelRegularizer, step: int, *, count: int = 16) -> None:
    """Write what `reg.statistics` says of each layer, and pictures of its first kernels and their spectra.

    Scalars: ``roughness/LAYER``, ``high_frequency_share/LAYER``, ``energy/LAYER``, ``penalty/LAYER`` (R of the layer,
    without strength), ``smooth_kernels/penalty`` (strength times R of all) and ``smooth_kernels/strength``.

    Images, of weights with two spatial dimensions: ``kernels/LAYER``, summed over input channels (the second axis),
    red above 0, blue below, full colour at the largest weight shown; and ``spectra/LAYER``, the modulus of their
    Fourier transforms, zero frequency in the middle, black 0, white each kernel's own maximum.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or what has its `add_scalar` and `add_image`.
        reg: whose weights, as they are now.
        step: the abscissa.
        count: kernels in a picture, at most; 0 for no pictures.

    Raises:
        TypeError: `writer` has no `add_scalar` and `add_image`, or a `count` that is no count.
        ValueError: a negative `count`.

    Example:
        >>> import tempfile
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> reg = SmoothKernelRegularizer(torch.nn.Conv2d(3, 16, 3))
        >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        ...     write_statistics(writer, reg, step=0)
    """
    if not callable(getattr(writer, "add_scalar", None)) or not callable(getattr(writer, "add_image", None)):
        raise TypeError(
            f"writer: expected a torch.utils.tensorboard.SummaryWriter, found {type(writer).__name__}; "
            'it comes with: pip install "skreg[tensorboard]"'
        )
    if count != 0:
        check_count("count", count)
    for layer in reg.statistics():
        for quantity in ("roughness", "high_frequency_share", "energy", "penalty"):
            writer.add_scalar(f"{quantity}/{layer.name}", getattr(layer, quantity), step)
    writer.add_scalar("smooth_kernels/penalty", float(reg()), step)
    writer.add_scalar("smooth_kernels/strength", reg.strength, step)
    for name, weight in reg.named_parameters():
        if count and weight.dim() == 4:
            kernels = weight[:count].float().sum(dim=1).cpu()
            writer.add_image(f"kernels/{name}", _grid(_red_blue(kernels)), step)
            writer.add_image(f"spectra/{name}", _grid(_grey(spectra(kernels))), step)


def _red_blue(kernels: Tensor) -> Tensor:
    """N H W to N 3 H W in [0, 1]: white at 0, red towards the largest modulus, blue towards its negative."""
    scaled = kernels / kernels.abs().amax().clamp(min=torch.finfo(kernels.dtype).tiny)
    above, below = scaled.clamp(min=0), (-scaled).clamp(min=0)
    return torch.stack([1 - below, 1 - above - below, 1 - above], dim=1)


def _grey(moduli: Tensor) -> Tensor:
    """N H W to N 3 H W in [0, 1], each divided by its maximum."""
    largest = moduli.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(moduli.dtype).tiny)
    return (moduli / largest).unsqueeze(1).expand(-1, 3, -1, -1)


def _grid(pictures: Tensor) -> Tensor:
    """N 3 H W, magnified without smoothing, to one picture 3 H W with white lines between."""
    factor = math.ceil(_SIDE / max(pictures.shape[2:]))
    pictures = pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    across = math.ceil(math.sqrt(len(pictures)))
    missing = -len(pictures) % across
    pictures = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    framed = functional.pad(pictures, (1, 1, 1, 1), value=1.0)
    rows = framed.reshape(-1, across, *framed.shape[1:])  # rows, columns, 3, H, W
    return rows.permute(2, 0, 3, 1, 4).reshape(3, rows.shape[0] * rows.shape[3], across * rows.shape[4])
