"""Uses the public API as a typed project would; `mypy --strict` reads it, nothing runs it.

A name that loses its types, or a signature that changes, is an error of the type checker here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import skreg
from skreg import training
from skreg.attacks import fgsm, pgd
from skreg.data import load
from skreg.evaluation import Evaluation, evaluate_runs
from skreg.models import build

model: nn.Module = nn.Conv2d(1, 2, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

reg = skreg.SmoothKernelRegularizer(model, strength=1e-3, exponentiate="layer", include=["*"])
assert_type(reg(), Tensor)
assert_type(reg.statistics(), list[skreg.KernelStatistics])
assert_type(skreg.format_statistics(reg.statistics()), str)
assert_type(skreg.smooth_kernel_penalty([torch.zeros(1, 1, 3, 3)]), Tensor)
assert_type(skreg.__version__, str)
skreg.SmoothKernelRegularizer(model, strength=lambda step: 0.1 * step)
reg.attach(optimizer, decoupled=True).remove()

images, labels = load("four-shapes", "test", limit=8)
assert_type(images, Tensor)
net = build("two_conv", classes=4, shape=(1, 28, 28), mean=[0.5], std=[0.5])
assert_type(net, nn.Module)
assert_type(fgsm(net, images, labels, eps=0.1), Tensor)
assert_type(pgd(net, images, labels, eps=0.1), Tensor)

run = training.train(training.TrainConfig(data="four-shapes"), Path("runs/vr"))
assert_type(run, training.Run)
assert_type(run.load_model(), nn.Module)
assert_type(evaluate_runs([run.path]), list[Evaluation])

skreg.SmoothKernelRegularizer(model, strength="much")  # type: ignore[arg-type]
reg.attach(model)  # type: ignore[arg-type]
