"""The README's lines, pasted into a loop in the style of torchvision's references."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
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


REFERENCE_LOOP = """
{before}

def train_one_epoch(model, optimizer, data_loader, device, epoch, model_ema=None, scaler=None, clip_grad_norm=None):
    model.train()
    for i, (images, labels) in enumerate(data_loader(epoch)):
        images, labels = images.to(device), labels.to(device)
        with torch.amp.autocast("cpu", dtype=torch.bfloat16, enabled=scaler is not None):
{loss}
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            if clip_grad_norm is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            if clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
            optimizer.step()
        if model_ema is not None and i % 4 == 0:
            model_ema.update_parameters(model)
            if epoch < 1:
                model_ema.n_averaged.fill_(0)

{attach}
device = torch.device("cpu")
scaler = torch.amp.GradScaler("cpu") if amp else None
model_ema = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
)
lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
for epoch in range(4):
    train_one_epoch(model, optimizer, data_loader, device, epoch, model_ema, scaler, clip_grad_norm=1.0)
    lr_scheduler.step()
averaged = skreg.SmoothKernelRegularizer(model_ema)
rough = [layer.roughness for layer in [*reg.statistics(), *averaged.statistics()]]
"""


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("attached", [False, True])
def test_roughness_falls_under_the_options_of_reference_loops(amp, attached):
    """A GradScaler, clipping, an averaged model, a scheduler: the penalty makes both models end smoother."""
    images, labels = load("four-shapes", "train", limit=256)
    images = images.expand(-1, 3, -1, -1) / 255

    def data_loader(epoch):
        return ((images[part], labels[part]) for part in torch.arange(len(images)).split(8))

    before, step, _ = pasted()
    line = next(text for text in step.splitlines() if "+ reg()" in text)
    attach = "reg.attach(optimizer)"
    assert attach in README
    if attached:
        line = line.replace(" + reg()", "")
    source = REFERENCE_LOOP.format(
        before=before, loss=textwrap.indent(line, " " * 12), attach=attach if attached else ""
    )
    ends = []
    for times in ("", "0 * "):
        namespace = {"data_loader": data_loader, "amp": amp}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            exec(compile(source.replace("strength=", f"strength={times}"), "reference loop", "exec"), namespace)
        ends.append(namespace["rough"])
    for with_penalty, without in zip(*ends, strict=True):
        assert with_penalty < 0.95 * without
