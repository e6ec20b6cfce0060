"""How smooth the gradient of the loss is in the image, for trained runs: a second or two a run.

    python docs/results/gradients.py OUTPUT.csv RUN... [--limit 1000]

Each run's best weights meet the same first test images. Of every image's gradient of cross-entropy: roughness (D / E,
squared differences of neighbouring pixels over squares) and the share of its energy at high frequencies, both as for
kernels (`skreg.statistics`), so that the length of the gradient does not count. Means over the images
whose gradient is not zero, with 95% intervals.
White noise of 28 x 28 has a roughness of 3.86 and a share of 75%.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from study import write_csv
from torch import Tensor, nn
from torch.nn import functional as F

from skreg import reference
from skreg.data import load
from skreg.statistics import high_frequency_energy
from skreg.training import load_run

BATCH = 250
COLUMNS = ("run", "images", "zero", "roughness", "roughness_interval", "high", "high_interval")


def image_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's cross-entropy in float64: in float32 a confident net's is rounded to nothing.

    Args:
        images: N x C x H x W in [0, 1].
        labels: N.

    Returns:
        N x C x H x W.
    """
    model = model.double().requires_grad_(False)
    gradients = []
    for x, y in zip(images.double().split(BATCH), labels.split(BATCH), strict=True):
        x = x.requires_grad_()
        gradients += torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return torch.cat(gradients)


def smoothness(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Roughness and high-frequency share of each gradient that is not zero, its channels together."""
    planes = gradients.flatten(0, 1)
    difference, high, energy = (
        each.view(gradients.shape[:2]).sum(1)
        for each in (reference.difference(planes), high_frequency_energy(planes), reference.energy(planes))
    )
    some = energy > 0
    return difference[some] / energy[some], high[some] / energy[some]


def mean_and_interval(samples: Tensor) -> tuple[float, float]:
    """Their mean, and half the width of its 95% interval by the central limit theorem."""
    return float(samples.mean()), float(1.96 * samples.std() / len(samples) ** 0.5)


def measure(path: Path, limit: int) -> dict[str, object]:
    """The row of one run."""
    run = load_run(path)
    pixels, labels = load(run.config.data, "test", run.config.data_root, limit)
    roughness, high = smoothness(image_gradients(run.load_model(), pixels / 255, labels))
    numbers = (f"{number:.4f}" for each in (roughness, high) for number in mean_and_interval(each))
    return dict(zip(COLUMNS, (str(path), len(labels), len(labels) - len(roughness), *numbers), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the runs and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=1000, help="test images")
    options = parser.parse_args(arguments)
    write_csv(options.output, [measure(path, options.limit) for path in options.runs])


if __name__ == "__main__":
    main()
