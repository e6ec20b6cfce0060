"""The Lightning callback against the loss form in a loop of our own."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from skreg import SmoothKernelRegularizer

lightning = pytest.importorskip("lightning.pytorch", reason="the extra skreg[lightning] is not installed")

from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from skreg.integrations.lightning import SmoothKernelCallback  # noqa: E402

STRENGTH = 0.3
IMAGES = torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(lightning.LightningModule):
    def __init__(self, optimizers=1, manual=False, fused=False, momentum=0.9):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)
        self.count, self.automatic_optimization, self.fused, self.momentum = optimizers, not manual, fused, momentum

    def loss(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).tanh()).square().mean()

    def training_step(self, batch, index):
        loss = self.loss(batch[0])
        if self.automatic_optimization:
            return loss
        optimizers = [self.optimizers()] if self.count == 1 else self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return None

    def configure_optimizers(self):
        parts = [self.parameters()] if self.count == 1 else [self.first.parameters(), self.second.parameters()]
        return [torch.optim.SGD(part, lr=0.05, momentum=self.momentum, fused=self.fused) for part in parts]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.filterwarnings("ignore", message=".*num_workers|.*checkpoint directory|.*LeafSpec|.*lr_scheduler.step")
        yield


def trainer(tmp_path, *callbacks, epochs=2, **options):
    options = {"enable_checkpointing": False, "max_epochs": epochs, **options}
    switches = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(
        accelerator="cpu", callbacks=list(callbacks), default_root_dir=tmp_path, **switches, **options
    )


def loader():
    return DataLoader(TensorDataset(IMAGES), batch_size=4)


def expected(net: Net, epochs=2, accumulate=1, clip=None, strength=lambda step: STRENGTH, decoupled=False) -> Net:
    """The same training, the penalty being part of the loss."""
    net = copy.deepcopy(net)
    reg, step = SmoothKernelRegularizer(net), 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=net.momentum)
    for _ in range(epochs):
        for part in IMAGES.split(4 * accumulate):
            reg.strength = strength(step)
            optimizer.zero_grad()
            (net.loss(part) + (0.0 if decoupled else reg())).backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            if decoupled:
                weights = [weight for _, weight in reg.named_parameters()]
                with torch.no_grad():
                    for weight, gradient in zip(weights, torch.autograd.grad(_value(reg), weights)):
                        weight -= 0.05 * gradient
            step += 1
    return net


def _value(reg):
    with torch.enable_grad():
        return reg()


def assert_same(found: nn.Module, right: nn.Module, tolerance=1e-5):
    for (name, weight), other in zip(found.named_parameters(), right.parameters()):
        torch.testing.assert_close(
            weight, other, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    ("optimizers", "manual", "fused"), [(1, False, False), (1, False, True), (1, True, False), (2, True, False)]
)
def test_equals_the_loss_form(tmp_path, optimizers, manual, fused):
    net = Net(optimizers, manual, fused)
    right = expected(net)
    assert not torch.allclose(right.first.weight, expected(net, strength=lambda step: 0.0).first.weight, atol=1e-3)
    trainer(tmp_path, SmoothKernelCallback(strength=STRENGTH)).fit(net, loader())
    assert_same(net, right)


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"clip": 0.05}], ids=str)
def test_accumulation_and_clipping_are_those_of_the_loss_form(tmp_path, options):
    net = Net()
    right = expected(net, **options)
    lightnings = {"accumulate_grad_batches": options.get("accumulate", 1), "gradient_clip_val": options.get("clip")}
    trainer(tmp_path, SmoothKernelCallback(strength=STRENGTH), **lightnings).fit(net, loader())
    assert_same(net, right)


def test_decoupled(tmp_path):
    net = Net()
    right = expected(net, decoupled=True)
    trainer(tmp_path, SmoothKernelCallback(strength=STRENGTH, decoupled=True)).fit(net, loader())
    assert_same(net, right)


@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_with_a_scaler(tmp_path, fused):
    net = Net(fused=fused)
    right = expected(net)
    precision = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    trainer(tmp_path, SmoothKernelCallback(strength=STRENGTH), plugins=[precision]).fit(net, loader())
    assert_same(net, right, tolerance=2e-3)


def test_a_schedule_counts_steps_and_resumes_from_a_checkpoint(tmp_path):
    net, halfway = Net(momentum=0.0), tmp_path / "halfway.ckpt"

    def schedule(step):
        return STRENGTH * step / 10

    right = expected(net, epochs=3, accumulate=2, strength=schedule)
    start = copy.deepcopy(net)
    first = trainer(tmp_path, SmoothKernelCallback(strength=schedule), epochs=1, accumulate_grad_batches=2)
    first.fit(net, loader())
    first.save_checkpoint(halfway)
    callback = SmoothKernelCallback(strength=schedule)
    trainer(tmp_path, callback, epochs=3, accumulate_grad_batches=2).fit(start, loader(), ckpt_path=halfway)
    assert callback.regularizer.steps == 9
    assert_same(start, right)


def test_a_state_is_taken_up_once(tmp_path):
    net = Net()
    reg = SmoothKernelRegularizer(net, strength=STRENGTH)
    callback = SmoothKernelCallback(reg)
    callback.load_state_dict({**reg.state_dict(), "steps": 5})
    for steps in (11, 17):
        trainer(tmp_path, callback, epochs=1).fit(net, loader())
        assert reg.steps == steps
    untrained = SmoothKernelCallback()
    assert untrained.state_dict() == {}
    untrained.load_state_dict({})
    trainer(tmp_path, untrained, epochs=1).fit(net, loader())
    assert untrained.regularizer.steps == 6


def test_an_exception_detaches(tmp_path):
    class Fails(Net):
        def training_step(self, batch, index):
            raise RuntimeError("no more")

    net = Fails()
    run = trainer(tmp_path, SmoothKernelCallback(decoupled=True), epochs=1)
    with pytest.raises(RuntimeError, match="no more"):
        run.fit(net, loader())
    before = net.first.weight.clone()
    run.optimizers[0].step()
    assert torch.equal(net.first.weight, before)


def test_logs_and_detaches(tmp_path):
    net = Net()
    reg = SmoothKernelRegularizer(net, strength=STRENGTH)
    for decoupled in (False, True):
        run = trainer(tmp_path, SmoothKernelCallback(reg, decoupled=decoupled), epochs=1)
        run.fit(net, loader())
        assert run.callback_metrics["smooth_kernels/penalty"].item() == pytest.approx(reg().item())
        roughness = [layer.roughness for layer in reg.statistics()]
        assert run.callback_metrics["smooth_kernels/roughness"].item() == pytest.approx(sum(roughness) / 2)
        before = net.first.weight.clone()
        run.optimizers[0].zero_grad()
        run.optimizers[0].step()
        assert torch.equal(net.first.weight, before)


def test_a_second_training_lets_go_of_the_first(tmp_path):
    callback = SmoothKernelCallback(strength=STRENGTH)
    trainer(tmp_path, callback, epochs=1).fit(Net(), loader())
    first = weakref.ref(callback.regularizer)
    trainer(tmp_path, callback, epochs=1).fit(Net(), loader())
    gc.collect()
    assert first() is None


def test_mistakes_are_named(tmp_path):
    with pytest.raises(TypeError, match=r"regularizer: expected .*, found Conv2d; .*strength=1e-3"):
        SmoothKernelCallback(nn.Conv2d(1, 1, 3))
    with pytest.raises(TypeError, match="strength: give either a regularizer or arguments"):
        SmoothKernelCallback(SmoothKernelRegularizer(Net()), strength=1.0)
    with pytest.raises(ValueError, match=r"none of the regularized parameters \(first.weight, second.weight\)"):
        trainer(tmp_path, SmoothKernelCallback(SmoothKernelRegularizer(Net()))).fit(Net(), loader())

    class Twice(Net):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.first.parameters(), lr=0.1)]

    with pytest.raises(ValueError, match=r"first\.weight: belongs to two optimizers"):
        trainer(tmp_path, SmoothKernelCallback()).fit(Twice(manual=True), loader())

    class Quasi(Net):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(ValueError, match="LBFGS evaluates the loss several times"):
        trainer(tmp_path, SmoothKernelCallback()).fit(Quasi(), loader())
