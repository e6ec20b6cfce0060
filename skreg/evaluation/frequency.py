"""Where in the spectrum a model is vulnerable: Fourier-basis noise, noise in a band, attacks confined to a band.

Frequencies are in cycles a pixel: 0 the mean, 0.5 a stripe every second pixel; a radius joins both directions and
reaches 0.71 in the corners. The penalty makes kernels low-pass (the paper's section 3), so it is at high frequencies
that it should help, if anywhere. The error map is that of Yin et al., "A Fourier Perspective on Model Robustness in
Computer Vision", arXiv:1906.08988.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skreg._checks import check_count, check_number
from skreg.attacks import attack_mode
from skreg.evaluation.attacks import check_inputs, finite_forward, minibatches
from skreg.evaluation.search import misclassified

# Low, middle, high: thirds of 0 to 0.5, and the corners with the last. The mean alone belongs to no band.
BANDS = {"low": (0.01, 1 / 6), "middle": (1 / 6, 1 / 3), "high": (1 / 3, 0.71)}


def radius(height: int, width: int) -> Tensor:
    """The radius of each component of `torch.fft.fft2`, cycles a pixel, float64 H W."""
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.hypot(vertical[:, None], horizontal[None, :])


def fourier_basis(height: int, width: int, vertical: int, horizontal: int) -> Tensor:
    """The real image of l2 norm 1 with energy at one frequency and its conjugate alone, float64 H W.

    Args:
        vertical, horizontal: the component's place in `torch.fft.fft2`, modulo the size; negative ones count back.
    """
    spectrum = torch.zeros(height, width, dtype=torch.complex128)
    # One vector for both: the phase of a conjugate is the opposite one. That phase is 45 degrees, with which a
    # component that is its own conjugate does not vanish.
    place = min((vertical % height, horizontal % width), (-vertical % height, -horizontal % width))
    spectrum[place] = torch.tensor(1 + 1j)
    image: Tensor = torch.fft.ifft2(spectrum).real
    return image.div(image.norm())


def fourier_error(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    batch_size: int = 512,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Error rate under each Fourier basis vector of l2 norm `norm` in every channel, its sign random by image.

    The perturbed images are clipped to [0, 1]. A component and its conjugate are one vector, measured once.

    Args:
        model: maps float images to logits (N K); left as it was found.
        images: N C H W, floating point in [0, 1], on the model's device.
        labels: N, int64 classes.
        norm: l2 norm of the perturbation of a channel, pixels in [0, 1].
        seed: of the signs, the same for all vectors and models.
        progress: is called with (vectors done, vectors in all).

    Returns:
        float64 H W on the CPU, the zero frequency at (H // 2, W // 2).

    Raises:
        TypeError, ValueError: the arguments are not as above.
        FloatingPointError: the model's logits are not finite.
    """
    check_inputs(model, images, labels)
    norm = check_number("norm", norm, positive=True)
    check_count("batch_size", batch_size)
    if not len(images):
        raise ValueError("images: expected at least one, found none")
    height, width = images.shape[-2:]
    signs = torch.randint(0, 2, images.shape[:2], generator=torch.Generator().manual_seed(seed)) * 2 - 1
    amplitudes = (norm * signs).to(images)[:, :, None, None]
    pairs = {tuple(sorted([(i, j), (-i % height, -j % width)])) for i in range(height) for j in range(width)}
    errors = torch.zeros(height, width, dtype=torch.float64)
    with attack_mode(model, "eval"), torch.no_grad():
        forward = finite_forward(model)
        for done, (first, second) in enumerate(sorted(pairs), start=1):
            perturbed = (images + amplitudes * fourier_basis(height, width, *first).to(images)).clamp(0, 1)
            wrong = sum(
                int(misclassified(forward, *batch).sum()) for batch in minibatches(perturbed, labels, batch_size)
            )
            errors[first] = errors[second] = wrong / len(images)
            if progress is not None:
                progress(done, len(pairs))
    shifted: Tensor = torch.fft.fftshift(errors)
    return shifted


def radial_mean(errors: Tensor, edges: Tensor) -> Tensor:
    """Mean of a map such as `fourier_error` returns (H W) over the rings between `edges` (B + 1, ascending): B.

    NaN where a ring holds no component.
    """
    ring = torch.bucketize(torch.fft.fftshift(radius(*errors.shape)), edges.double(), right=True) - 1
    means = [errors[ring == number].mean() for number in range(len(edges) - 1)]
    return torch.stack(means)


def filter_band(images: Tensor, low: float, high: float) -> Tensor:
    """Keep the components of `images` (... H W) with low <= radius < high."""
    kept = radius(*images.shape[-2:]).to(images.device)
    kept = (kept >= low) & (kept < high)
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * kept).real
    return filtered


def band_noise(images: Tensor, *, low: float, high: float, norm: float, seed: int = 0) -> Tensor:
    """Add Gaussian noise confined to a band, of l2 norm `norm` an image, and clip to [0, 1].

    Raises:
        ValueError: no component of images of this size lies in the band.
    """
    _check_band(images, low, high)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = filter_band(noise.to(images.device, images.dtype), low, high)
    return (images + norm * _unit(noise)).clamp(0, 1)


def band_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    low: float,
    high: float,
    eps: float,
    steps: int = 20,
    step_size: float | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> Tensor:
    """Projected gradient ascent on the margin loss with a perturbation of l2 norm up to `eps`, confined to a band.

    Each step goes along the gradient's part in the band. The perturbation stays in the band; clipping the image to
    [0, 1], which the model sees in every step, can add a little outside. An image keeps the first iterate that is
    misclassified, otherwise the last.

    Args:
        model, images, labels: as in `fourier_error`.
        low, high: the band, cycles a pixel.
        eps: l2 norm of an image's perturbation.
        step_size: l2 norm of a step; None for 2.5 eps / steps.
        seed: of the random start in the ball.

    Returns:
        the perturbed images, N C H W in [0, 1].

    Raises:
        TypeError, ValueError: the arguments are not as above, or no component lies in the band.
        FloatingPointError: the model's logits are not finite.
    """
    check_inputs(model, images, labels)
    _check_band(images, low, high)
    eps = check_number("eps", eps, positive=True)
    check_count("steps", steps)
    length = 2.5 * eps / steps if step_size is None else check_number("step_size", step_size, positive=True)
    if not len(images):
        return images.clone()
    start = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = start.to(images.device, images.dtype)
    with attack_mode(model, "eval"):
        forward = finite_forward(model)
        parts = [
            _ascend(forward, x, y, start[number * batch_size :][: len(x)], low, high, eps, steps, length)
            for number, (x, y) in enumerate(minibatches(images, labels, batch_size))
        ]
    return torch.cat(parts)


def _ascend(
    forward: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    low: float,
    high: float,
    eps: float,
    steps: int,
    step_size: float,
) -> Tensor:
    delta = eps * _unit(filter_band(start, low, high))
    found = images.clone()
    open_ = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            perturbed = (images + delta).clamp(0, 1).requires_grad_()
            logits = forward(perturbed)
            own = logits.gather(1, labels[:, None]).squeeze(1)
            other = logits.scatter(1, labels[:, None], -math.inf).amax(1)
            margin = other - own
            (gradient,) = torch.autograd.grad(margin.sum(), perturbed)
        found[open_] = perturbed.detach()[open_]
        open_ &= logits.argmax(1) == labels
        if step == steps or not open_.any():
            break
        delta = delta + step_size * _unit(filter_band(gradient, low, high))
        delta = delta * (eps / delta.flatten(1).norm(dim=1).clamp(min=eps))[:, None, None, None]
    return found


def _unit(images: Tensor) -> Tensor:
    """Each image over its l2 norm; one of zeros stays as it is."""
    norms = images.flatten(1).norm(dim=1).clamp(min=torch.finfo(images.dtype).tiny)
    return images.div(norms[:, None, None, None])


def _check_band(images: Tensor, low: float, high: float) -> None:
    components = radius(*images.shape[-2:])
    if not bool(((components >= low) & (components < high)).any()):
        height, width = images.shape[-2:]
        raise ValueError(
            f"low, high: expected a band between 0 and 0.71 cycles a pixel that holds a component of images "
            f"{height} x {width}, found {low:g} to {high:g}"
        )
