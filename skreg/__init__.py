"""Smooth-kernel regularization of convolutional networks.

    reg = skreg.SmoothKernelRegularizer(model, strength=1e-3)
    loss = criterion(model(images), labels) + reg()

The lab (`skreg.attacks`, `losses`, `models`, `data`, `training`, `evaluation`, `figures`) is imported by name and
needs the extra ``skreg[lab]``; this module needs torch and numpy alone.
"""

from skreg import reference
from skreg._version import __version__
from skreg.penalty import SmoothKernelPenalty, smooth_kernel_penalty
from skreg.regularizer import SmoothKernelRegularizer
from skreg.statistics import KernelStatistics, format_statistics

__all__ = [
    "KernelStatistics",
    "SmoothKernelPenalty",
    "SmoothKernelRegularizer",
    "__version__",
    "format_statistics",
    "reference",
    "smooth_kernel_penalty",
]
