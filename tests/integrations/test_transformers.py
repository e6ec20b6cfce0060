"""The callback of Hugging Face's Trainer against the loss form in a loop of our own; nothing is downloaded."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from skreg import SmoothKernelRegularizer

pytest.importorskip("transformers", reason="the extra skreg[transformers] is not installed")
pytest.importorskip("accelerate", reason="the extra skreg[transformers] is not installed")

from transformers import Trainer, TrainerCallback, TrainingArguments

from skreg.integrations.transformers import SmoothKernelCallback

STRENGTH = 0.3
IMAGES = torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, images):
        return {"loss": self.second(self.first(images).tanh()).square().mean()}


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(net, folder, callback, epochs=2, momentum=0.9, **options):
    options = {"max_grad_norm": 0.0, "save_strategy": "no", "logging_steps": 3, **options}
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=4, use_cpu=True,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **options,
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=momentum)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    data = [{"images": image} for image in IMAGES]
    return InOrder(net, arguments, train_dataset=data, optimizers=(optimizer, constant), callbacks=[callback])


def expected(net, epochs=2, accumulate=1, strength=lambda step: STRENGTH, bf16=False, momentum=0.9):
    net = copy.deepcopy(net)
    reg, step = SmoothKernelRegularizer(net), 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=momentum)
    for _ in range(epochs):
        for part in IMAGES.split(4 * accumulate):
            reg.strength = strength(step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = net(part)["loss"]
            (loss + reg()).backward()
            optimizer.step()
            step += 1
    return net


def assert_same(found, right):
    for (name, weight), other in zip(found.named_parameters(), right.parameters()):
        assert torch.allclose(weight, other, rtol=1e-5, atol=1e-5), f"{name}: {weight} is not {other}"


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_accumulation_steps": 3}], ids=str)
def test_equals_the_loss_form(tmp_path, options):
    net = Net()
    right = expected(net, accumulate=options.get("gradient_accumulation_steps", 1), bf16=options.get("bf16", False))
    assert not torch.allclose(right.first.weight, expected(net, strength=lambda step: 0.0).first.weight, atol=1e-3)
    trainer(net, tmp_path, SmoothKernelCallback(strength=STRENGTH), **options).train()
    assert_same(net, right)


@pytest.mark.parametrize("restore", [False, True])
def test_a_schedule_resumes_from_a_checkpoint(tmp_path, restore):
    def schedule(step):
        return STRENGTH * step / 10

    net = Net()
    start, right = copy.deepcopy(net), expected(net, epochs=2, strength=schedule)
    options = {"save_strategy": "epoch", "restore_callback_states_from_checkpoint": restore}
    trainer(net, tmp_path, SmoothKernelCallback(strength=schedule), epochs=1, **options).train()
    callback = SmoothKernelCallback(strength=schedule)
    again = trainer(start, tmp_path, callback, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert callback.regularizer.steps == 12
    assert_same(start, right)
    with pytest.raises(ValueError, match=r"options: the state is of another regularizer"):
        other = SmoothKernelCallback(strength=schedule, reduction="mean")
        trainer(Net(), tmp_path, other, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_logs_and_detaches(tmp_path):
    net = Net()
    reg = SmoothKernelRegularizer(net, strength=STRENGTH)
    callback = SmoothKernelCallback(reg, decoupled=True)
    assert callback.regularizer is reg
    run = trainer(net, tmp_path, callback, epochs=1)
    run.log({"before": 1.0})
    shown = []
    run.add_callback(type("Shows", (TrainerCallback,), {"on_log": lambda *_, logs, **__: shown.append(dict(logs))}))
    run.train()
    assert shown[-1]["smooth_kernels/strength"] == STRENGTH  # callbacks behind this one, which print or upload
    last = run.state.log_history[-1]
    run.log({"after": 1.0})
    assert "smooth_kernels/penalty" not in run.state.log_history[-1]
    assert last["smooth_kernels/penalty"] == pytest.approx(reg().item())
    assert last["smooth_kernels/strength"] == STRENGTH
    assert last["smooth_kernels/roughness"] == pytest.approx(sum(s.roughness for s in reg.statistics()) / 2)
    assert last["smooth_kernels/roughness"] < run.state.log_history[0]["smooth_kernels/roughness"]
    before = net.first.weight.clone()
    run.optimizer.zero_grad()
    run.optimizer.optimizer.step()
    assert torch.equal(net.first.weight, before)  # no gradients, so nothing but the hook would move it


def test_a_training_after_one_that_failed(tmp_path):
    class Fails(Net):
        def forward(self, images):
            raise RuntimeError("no more")

    net = Fails()
    run = trainer(net, tmp_path, SmoothKernelCallback(strength=STRENGTH), epochs=1)
    with pytest.raises(RuntimeError, match="no more"):
        run.train()
    net.__class__ = Net
    right = expected(net, epochs=1)
    run.train()
    assert_same(net, right)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"DeepSpeed steps inside its own engine.*in compute_loss"):
        SmoothKernelCallback().on_train_begin(SimpleNamespace(deepspeed="zero.json"), None, None, model=Net())
    with pytest.raises(TypeError, match=r"regularizer: expected .*, found Conv2d; .*strength=1e-3"):
        SmoothKernelCallback(nn.Conv2d(1, 1, 3))
    with pytest.raises(ValueError, match=r"none of the regularized parameters \(first.weight, second.weight\)"):
        trainer(Net(), tmp_path, SmoothKernelCallback(SmoothKernelRegularizer(Net()))).train()
