from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import skreg.models
from skreg.benchmark import WEIGHT_SETS, make_weights
from skreg.benchmark.weights import GROWING_SETS
from skreg.regularizer import SmoothKernelRegularizer


def regularized_shapes(model):
    return sorted(tuple(weight.shape) for _, weight in SmoothKernelRegularizer(model).named_parameters())


@pytest.mark.parametrize(
    ("name", "net", "shape"),
    [
        ("two_conv", "two_conv", (1, 28, 28)),
        ("resnet18_cifar", "resnet18_cifar", (3, 32, 32)),
        ("resnet50", "resnet50_restricted_imagenet", (3, 224, 224)),
    ],
)
def test_shapes_are_those_that_the_regularizer_takes_from_the_net(name, net, shape):
    with torch.device("meta"):
        ones = [1.0] * shape[0]
        model = skreg.models.build(net, classes=10, shape=shape, mean=ones, std=ones)
    assert sorted(WEIGHT_SETS[name]) == regularized_shapes(model)


def wide_resnet(depth, width):
    """The layers with parameters of a Wide ResNet for 10 classes, after its definition (arXiv 1605.07146)."""
    blocks = (depth - 4) // 6
    widths = [16, 16 * width, 32 * width, 64 * width]
    layers = [nn.Conv2d(3, 16, 3, bias=False)]
    for before, after in itertools.pairwise(widths):
        for block in range(blocks):
            wide_in = before if block == 0 else after
            layers += [nn.BatchNorm2d(wide_in), nn.Conv2d(wide_in, after, 3, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, bias=False)]
            if wide_in != after:
                layers.append(nn.Conv2d(wide_in, after, 1, bias=False))
    return nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], 10))


def test_wide_resnet_is_as_defined():
    with torch.device("meta"):
        model = wide_resnet(34, 10)
    # The number of parameters that is given for this net elsewhere.
    assert sum(parameter.numel() for parameter in model.parameters()) == 46_160_474
    assert sorted(WEIGHT_SETS["wrn_34_10"]) == regularized_shapes(model)


def test_growing_sets_span_three_orders_of_magnitude():
    counts = [sum(torch.Size(shape).numel() for shape in shapes) for shapes in GROWING_SETS.values()]
    assert counts == sorted(counts)
    assert counts[0] == pytest.approx(52_000, rel=0.02)
    assert counts[-1] == pytest.approx(50e6, rel=0.02)


def test_weights_have_the_variance_of_kaiming_initialisation():
    (weight,) = make_weights([(64, 32, 3, 3)])
    assert weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)


def test_same_numbers_in_every_format():
    shapes = [(4, 3, 3, 3), (2, 4, 5, 5)]
    plain = make_weights(shapes, seed=3)
    other = make_weights(shapes, seed=3, dtype=torch.bfloat16, channels_last=True)
    for weight, same in zip(plain, other, strict=True):
        assert weight.is_contiguous()
        assert same.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(weight.bfloat16(), same)
    assert not torch.equal(plain[0], make_weights(shapes, seed=4)[0])
