"""The README's lines, pasted into a loop in the style of torchvision's references."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import torch

from skreg.data import load

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def pasted() -> tuple[str, str, str]:
    """The README's first block in three parts: before the loop, for each batch, and after the loop."""
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    before, step, after = re.fullmatch(
        r"(.*?)(^loss = .*?^optimizer\.step\(\)\n)(.*)", block, re.DOTALL | re.M
    ).groups()
    return before, step, after


LOOP = """
def train_one_epoch(model, optimizer, data_loader, epoch):
    model.train()
    for images, labels in data_loader(epoch):
        optimizer.zero_grad()
{step}
{before}
lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
rough = [[layer.roughness for layer in reg.statistics()]]
for epoch in range(4):
    train_one_epoch(model, optimizer, data_loader, epoch)
    lr_scheduler.step()
    rough.append([layer.roughness for layer in reg.statistics()])
{after}
"""


def train(readme_strength_times: float) -> list[list[float]]:
    images, labels = load("four-shapes", "train", limit=512)
    images = images.expand(-1, 3, -1, -1) / 255  # the README's model takes three channels

    def data_loader(epoch):
        return ((images[part], labels[part]) for part in torch.arange(len(images)).split(8))

    before, step, after = pasted()
    source = LOOP.format(step=textwrap.indent(step, " " * 8), before=before, after=after)
    strength = f"strength={readme_strength_times} * "
    namespace = {"data_loader": data_loader}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(source.replace("strength=", strength), "README loop", "exec"), namespace)
    return namespace["rough"]


def test_roughness_falls_with_the_lines_of_the_readme(capsys):
    before, step, _ = pasted()
    assert "reg = skreg.SmoothKernelRegularizer(model" in before
    assert "+ reg()" in step
    rough = train(1)
    (first,), (last,) = rough[0], rough[-1]
    assert last < 0.9 * first
    (plain,) = train(0)[-1]
    assert last < plain, "it is the penalty that does it"
    assert "0.weight" in capsys.readouterr().out
