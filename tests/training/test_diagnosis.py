from __future__ import annotations

import torch
from torch import nn

from skreg.training.diagnosis import find_bad_layer


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def test_a_healthy_net_has_none():
    assert find_bad_layer(net(), torch.rand(2, 1, 4, 4)) == ""


def test_the_parameter_is_named():
    model = net()
    model[3].bias.data[1] = float("nan")
    assert find_bad_layer(model, torch.rand(2, 1, 4, 4)) == "the parameter 3.bias holds NaN"


def test_the_first_layer_whose_output_overflows_is_named():
    model = net()
    model[0].weight.data.fill_(1e38)
    images = torch.ones(2, 1, 4, 4)
    assert find_bad_layer(model, images) == "the output of 0 (Conv2d) holds infinity"
    assert not any(module._forward_hooks for module in model.modules())
