"""The strength over time, and the decoupled step, in a loop of one's own: `skreg train` has no options for them.

    python docs/results/over_time.py OUTPUT.csv --loss V
    python docs/results/over_time.py OUTPUT.csv --loss A --forms none constant warm-up

The two-conv net of the study of eight variants (as many images and epochs, the same optimizer), judged after its last
epoch: clean and under PGD (20 steps, margin loss) on test images, with roughness and norm of its layers. OUTPUT.csv is
written after each net; nets that it has are left out. The decoupled step multiplies the strength by the learning rate:
it wants a --strength some hundred times larger.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from study import write_csv
from torch import nn

from skreg import SmoothKernelRegularizer
from skreg.attacks import PGD
from skreg.data import batches, load, split_validation
from skreg.evaluation import robust_accuracy
from skreg.losses import LOSSES
from skreg.training import TrainConfig
from skreg.training.run import build_model

CONFIG = TrainConfig(data="fashion-mnist", limit=6000, validation_fraction=0.1667, epochs=5, batch_size=64).resolved()
LEARNING_RATE, ATTACK_STEPS = 2e-3, 5
RADII = {"V": (0.025, 0.05), "A": (0.05, 0.1)}

# The strength as a share of the largest, by the share of the steps that are done.
FORMS: dict[str, Callable[[float], float]] = {
    "none": lambda done: 0.0,
    "constant": lambda done: 1.0,
    "warm-up": lambda done: done,
    "decay": lambda done: 1.0 - done,
    "decoupled": lambda done: 1.0,
}


def train(form: str, loss: str, strength: float, seed: int) -> tuple[nn.Module, SmoothKernelRegularizer]:
    """One net and its regularizer after the last epoch."""
    torch.manual_seed(seed)
    model = build_model(CONFIG).to(memory_format=torch.channels_last)
    order, noise = (torch.Generator().manual_seed(seed) for _ in range(2))
    (images, labels), _ = split_validation(
        *load(CONFIG.data, "train", limit=CONFIG.limit), CONFIG.validation_fraction, seed
    )
    steps = CONFIG.epochs * -(-len(labels) // CONFIG.batch_size)
    regularizer = SmoothKernelRegularizer(
        model, lambda step: strength * FORMS[form](step / steps), reduction="mean", max_exponent=1.0
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if form != "none":
        regularizer.attach(optimizer, decoupled=form == "decoupled")
    attack = PGD(eps=CONFIG.eps, steps=ATTACK_STEPS)
    for _ in range(CONFIG.epochs):
        for x, y in batches(images, labels, CONFIG.batch_size, shuffle=True, generator=order):
            optimizer.zero_grad()
            LOSSES[loss](model, x, y, attack=attack, generator=noise).loss.backward()
            optimizer.step()
            scheduler.step()
            regularizer.step()
    return model.eval(), regularizer


def judge(model: nn.Module, regularizer: SmoothKernelRegularizer, loss: str, images: int) -> dict[str, Any]:
    """Accuracy with 95% intervals on test images; roughness and norm."""
    pixels, labels = load(CONFIG.data, "test", limit=images)
    x, row = pixels.float() / 255, {"images": len(labels)}
    for eps in (0.0, *RADII[loss]):
        attacks = [PGD(eps=eps, steps=20, objective="margin")] if eps else []
        found = robust_accuracy(model, x, labels, attacks)
        key = f"pgd_{eps:g}" if eps else "clean"
        row |= {key: round(found.value, 4), f"{key}_interval": "{:.3f}-{:.3f}".format(*found.interval)}
    for layer in regularizer.statistics():
        short = layer.name.removesuffix(".weight")
        row |= {f"{short}_roughness": round(layer.roughness, 3), f"{short}_norm": round(layer.energy**0.5, 3)}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and judge the nets that the file has not yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--loss", choices=RADII, default="V")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--strength", type=float, default=1.0, help="the largest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1000, help="test images")
    options = parser.parse_args(arguments)
    rows = list(csv.DictReader(options.output.open(encoding="utf-8"))) if options.output.exists() else []
    for form in options.forms:
        strength = 0.0 if form == "none" else options.strength
        net = {"loss": options.loss, "form": form, "strength": f"{strength:g}", "seed": f"{options.seed}"}
        if any(net.items() <= row.items() for row in rows):
            continue
        model, regularizer = train(form, options.loss, strength, options.seed)
        rows.append(net | judge(model, regularizer, options.loss, options.images))
        write_csv(options.output, rows)
        print(*rows[-1].values())


if __name__ == "__main__":
    main()
