from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from skreg.data import DATASETS
from skreg.models import NETS, Normalize, build, two_conv


def build_for(dataset: str, **changes: Any) -> nn.Module:
    info = DATASETS[dataset]
    arguments: dict[str, Any] = {
        "classes": len(info.classes),
        "shape": info.shape,
        "mean": info.mean,
        "std": info.std,
    }
    return build(changes.pop("name", info.net), **(arguments | changes))


@pytest.mark.parametrize("dataset", ["four-shapes", "fashion-mnist", "cifar10", "restricted-imagenet"])
def test_default_nets_give_logits(dataset: str) -> None:
    info = DATASETS[dataset]
    # A third of the side is enough to see that ResNet-50 runs.
    shape = (3, 64, 64) if dataset == "restricted-imagenet" else info.shape
    model = build_for(dataset)
    images = torch.rand(2, *shape, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, len(info.classes))
    assert logits.isfinite().all()
    logits.sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (4, 8, 20), (1, 4, 4)])
def test_two_conv_takes_any_size_divisible_by_4(shape: tuple[int, int, int]) -> None:
    model = two_conv(classes=7, shape=shape, mean=[0.5] * shape[0], std=[0.2] * shape[0])
    assert model(torch.rand(3, *shape)).shape == (3, 7)


def test_two_conv_has_the_sizes_of_the_paper_it_follows() -> None:
    sizes = {name: tuple(p.shape) for name, p in build_for("mnist").named_parameters() if name.endswith("weight")}
    assert sizes == {
        "conv1.weight": (32, 1, 5, 5),
        "conv2.weight": (64, 32, 5, 5),
        "fc1.weight": (1024, 64 * 7 * 7),
        "fc2.weight": (10, 1024),
    }


def test_resnet18_has_the_small_stem() -> None:
    model = build_for("cifar10")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 20
    assert convolutions[0].weight.shape == (64, 3, 3, 3)
    assert convolutions[0].stride == (1, 1)
    assert not any(isinstance(module, nn.MaxPool2d) for module in model.modules())
    # The stem keeps the 32 x 32 pixels and each of the three later stages halves them.
    seen: list[tuple[int, ...]] = []
    model.get_submodule("resnet.layer4").register_forward_hook(lambda *call: seen.append(tuple(call[2].shape)))
    model.eval()(torch.rand(1, 3, 32, 32))
    assert seen == [(1, 512, 4, 4)]


def test_resnet50_is_the_large_one() -> None:
    model = build_for("restricted-imagenet")
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 53
    assert model.get_parameter("resnet.conv1.weight").shape == (64, 3, 7, 7)
    assert model.get_parameter("resnet.fc.weight").shape == (9, 2048)


@pytest.mark.parametrize("name", ["resnet18_cifar", "resnet50_restricted_imagenet"])
def test_resnets_take_other_channel_counts(name: str) -> None:
    model = build_for("fashion-mnist", name=name).eval()
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_normalisation_is_inside() -> None:
    torch.manual_seed(0)
    inside = build_for("fashion-mnist")
    torch.manual_seed(0)
    plain = build_for("fashion-mnist", mean=(0.0,), std=(1.0,))
    images = torch.rand(4, 1, 28, 28)
    mean, std = DATASETS["fashion-mnist"].mean[0], DATASETS["fashion-mnist"].std[0]
    torch.testing.assert_close(inside(images), plain((images - mean) / std))


def test_normalisation_is_saved_with_the_net() -> None:
    saved = build_for("mnist")
    other = build_for("mnist", mean=(0.9,), std=(0.9,))
    other.load_state_dict(saved.state_dict())
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(saved(images), other(images))


def test_normalize_by_channel() -> None:
    images = torch.rand(5, 3, 4, 6)
    normalized = Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(images)
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)]):
        torch.testing.assert_close(normalized[:, channel], (images[:, channel] - mean) / std)


def test_wrong_images_are_named() -> None:
    model = build_for("cifar10").eval()
    with pytest.raises(TypeError, match=r"images: expected floating point in \[0, 1\], found torch.uint8"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images: expected N x 3 x H x W, found shape \(1, 1, 32, 32\)"):
        model(torch.rand(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"images: expected N x 3 x H x W, found shape \(3, 32, 32\)"):
        model(torch.rand(3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 30, 28)}, "shape: expected height and width divisible by 4, found 30 x 28"),
        ({"shape": (1, 28)}, r"shape: expected positive \(channels, height, width\), found \(1, 28\)"),
        ({"shape": (1, 0, 28)}, r"shape: expected positive"),
        ({"classes": 1}, "classes: expected at least 2, found 1"),
        ({"mean": (0.1, 0.2)}, "mean, std: expected 1 values each, one a channel, found 2 and 1"),
        ({"std": (0.0,)}, r"positive std for each channel, found .* std \(0.0,\)"),
        ({"name": "resnet"}, "net: expected one of two_conv, resnet18_cifar, .* found 'resnet'"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_for("mnist", **changes)


def test_only_the_resnets_need_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    build_for("mnist")
    with pytest.raises(ModuleNotFoundError, match="torchvision"):
        build_for("cifar10")


def test_names_are_the_functions() -> None:
    assert all(net.__name__ == name for name, net in NETS.items())
