"""What smooth kernels look like in numbers: roughness and spectrum of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skreg import reference
from skreg.options import PenaltyOptions
from skreg.penalty import penalties


@dataclass(frozen=True)
class KernelStatistics:
    """The kernels of one weight ``(A, B, *spatial)`` in numbers; sums run over its ``A * B`` kernels.

    Attributes:
        name: the parameter's name.
        shape: the weight's shape.
        kernels: how many kernels it holds, ``A * B``.
        difference: the sum of D(k), squared differences between neighbours (paper, section 3).
        energy: the sum of E(k), squares.
        score: the sum of S(k) under the penalty's options.
        penalty: R(W) under the penalty's options, without strength and coefficient; infinite where exp
            overflows.
        roughness: ``difference / energy``, which does not change when the weights are scaled; 0 for zero
            weights. In the mean over white noise: 2 x the number of neighbouring pairs / the number of
            elements, 2.67 for 3x3.
        high_frequency_share: the share of the energy at spatial frequencies above half the Nyquist frequency
            along any axis, see `high_frequency_energy`; 0 for zero weights.

    Example:
        >>> import skreg
        >>> (layer,) = skreg.SmoothKernelRegularizer(torch.nn.Conv2d(3, 8, 3)).statistics()
        >>> layer.name, layer.shape, layer.kernels
        ('weight', (8, 3, 3, 3), 24)
    """

    name: str
    shape: tuple[int, ...]
    kernels: int
    difference: float
    energy: float
    score: float
    penalty: float
    roughness: float
    high_frequency_share: float


def kernel_statistics(weights: Mapping[str, Tensor], options: PenaltyOptions) -> list[KernelStatistics]:
    """The statistics of each weight, computed in float64 on the CPU and in float32 (float64 for float64)
    elsewhere.

    Args:
        weights: ``(A, B, *spatial)`` tensors by name.
        options: the penalty's options; they set the neighbourhood, S and R.
    """
    # Spread over processes, a weight is gathered: all of them must call this.
    whole = {name: getattr(weight, "full_tensor", lambda weight=weight: weight)() for name, weight in weights.items()}
    return [_layer_statistics(name, weight, options) for name, weight in whole.items()]


@torch.no_grad()
def _layer_statistics(name: str, weight: Tensor, options: PenaltyOptions) -> KernelStatistics:
    at_least = torch.float64 if weight.device.type == "cpu" else torch.float32
    with torch.autocast(weight.device.type, enabled=False):
        wide = weight.detach().to(torch.promote_types(weight.dtype, at_least))
        kernels = wide.flatten(0, 1)
        sums = [
            reference.difference(kernels, options.connectivity).sum(),
            reference.energy(kernels).sum(),
            reference.scores(kernels, options).sum(),
            penalties([wide], options)[0],
            high_frequency_energy(kernels).sum(),
        ]
        # One transfer a layer: reading them one by one would synchronise with the device five times.
        difference, energy, score, penalty, high = torch.stack(sums).tolist()
    return KernelStatistics(
        name=name,
        shape=tuple(weight.shape),
        kernels=kernels.shape[0],
        difference=difference,
        energy=energy,
        score=score,
        penalty=penalty,
        roughness=difference / energy if energy else 0.0,
        high_frequency_share=high / energy if energy else 0.0,
    )


def high_frequency_energy(kernels: Tensor) -> Tensor:
    """The energy of each kernel at frequencies above 1/4 cycle a pixel, half of Nyquist, along any axis.

    A kernel acts on an image through its Fourier transform ``K(f) = sum over p of k_p exp(-2 pi i <f, p>)``,
    f in cycles a pixel, and by Parseval ``E(k)`` is the integral of ``|K(f)|^2`` over ``|f_a| <= 1/2``. The
    low-frequency part is that over the box ``|f_a| <= 1/4``, which has a closed form, so that no size of zero
    padding enters: ``sum over p, q of k_p k_q h(p - q)`` with ``h(d) = product over axes a of sin(pi d_a / 2)
    / (pi d_a)``. The rest is high.

    As a share of the energy: white noise has ``1 - 2**-dimensions`` in the mean (0.75 in 2-D), a constant 3x3
    kernel 0.15 (its edges are steep), a 3x3 checkerboard 0.994, a kernel of one element the same as white
    noise.

    Args:
        kernels: ``(n, *spatial)``, float32 or float64.

    Returns:
        ``(n,)``.
    """
    low = kernels
    for axis in range(1, kernels.dim()):
        position = torch.arange(kernels.shape[axis], device=kernels.device, dtype=kernels.dtype)
        response = torch.sinc((position[:, None] - position) / 2) / 2
        low = (low.movedim(axis, -1) @ response).movedim(-1, axis)
    low_energy = (kernels * low).flatten(1).sum(1)
    return (reference.energy(kernels) - low_energy).clamp(min=0)


def format_statistics(statistics: Sequence[KernelStatistics]) -> str:
    """The statistics as a table in plain text, one line a layer; sums are over the kernels of the layer.

    Example:
        >>> from skreg.options import PenaltyOptions
        >>> print(format_statistics(kernel_statistics({"conv": torch.ones(1, 2, 3, 3)}, PenaltyOptions())))
        layer    shape  kernels  difference  energy  score    penalty  roughness  high freq.
        conv   1x2x3x3        2           0      18    -18  0.0002468     0.0000      0.1455
    """
    rows = [
        ("layer", "shape", "kernels", "difference", "energy", "score", "penalty", "roughness", "high freq."),
        *(
            (
                s.name,
                "x".join(map(str, s.shape)),
                str(s.kernels),
                *(f"{value:.4g}" for value in (s.difference, s.energy, s.score, s.penalty)),
                *(f"{value:.4f}" for value in (s.roughness, s.high_frequency_share)),
            )
            for s in statistics
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
