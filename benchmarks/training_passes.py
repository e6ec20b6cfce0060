"""Where the time of an adversarial training step goes: each kind of pass through the 2-conv net by itself.

`python benchmarks/training_passes.py` prints medians in milliseconds, in turn, on two threads and batches of 128: the
figures from which docs/training.md calculates what a step can save.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import skreg.models
from skreg.data import DATASETS

SECONDS, THREADS, BATCH = 20.0, 2, 128


def passes() -> dict[str, Callable[[], float]]:
    """By name, what runs one pass and returns its seconds."""
    info = DATASETS["fashion-mnist"]
    net, frozen = (skreg.models.two_conv(classes=10, shape=info.shape, mean=info.mean, std=info.std) for _ in range(2))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    images, labels = torch.rand(BATCH, *info.shape), torch.randint(10, (BATCH,))
    gradient, lower, upper = torch.randn_like(images), images - info.eps, images + info.eps
    step_size = torch.full((BATCH, 1, 1, 1), info.eps / 4)
    iterate = images.clone()
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.0, fused=fused) for fused in (False, True)]

    def clock(call: Callable[[], object]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def forward() -> float:
        return clock(lambda: frozen(images.clone().requires_grad_()))

    def to_images() -> float:
        leaf = images.clone().requires_grad_()
        loss = F.cross_entropy(frozen(leaf), labels)
        return clock(lambda: torch.autograd.grad(loss, leaf))

    def to_weights() -> float:
        loss = F.cross_entropy(net(images), labels)
        return clock(lambda: torch.autograd.backward(loss))

    def plain_step() -> None:
        moved = iterate + info.eps / 4 * torch.sign(gradient)
        torch.clamp(torch.min(torch.max(moved, images - info.eps), images + info.eps), 0.0, 1.0)

    def our_step() -> None:
        iterate.addcmul_(gradient.sign(), step_size).clamp_(lower, upper)

    return {
        "backward to the weights": to_weights,
        "forward": forward,
        "backward to the images": to_images,
        "PGD step, plain": lambda: clock(plain_step),
        "PGD step, ours": lambda: clock(our_step),
        "Adam, loop": lambda: clock(optimizers[0].step),
        "Adam, fused": lambda: clock(optimizers[1].step),
    }


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    calls = passes()
    for call in calls.values():  # the first makes the gradients that the optimizers need
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name in random.sample(list(calls), len(calls)):
            times[name].append(1e3 * calls[name]())
    for name, values in times.items():
        print(f"{name:24} {statistics.median(values):8.2f} ms  ({len(values)} times)")


if __name__ == "__main__":
    main()
