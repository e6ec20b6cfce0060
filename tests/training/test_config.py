from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skreg.data import DATASETS
from skreg.training import VARIANTS, TrainConfig


@given(
    data=st.sampled_from(sorted(DATASETS)),
    variant=st.sampled_from(VARIANTS),
    limit=st.none() | st.integers(1, 10**9),
    learning_rate=st.floats(1e-12, 1e12),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    include=st.none() | st.lists(st.text(), min_size=1).map(tuple),
    normalize=st.sampled_from(["subtract", "divide", None]),
    patience=st.none() | st.integers(1, 100),
)
def test_json_round_trip(data, variant, limit, learning_rate, betas, include, normalize, patience):
    config = TrainConfig(
        data=data,
        variant=variant,
        limit=limit,
        learning_rate=learning_rate,
        optimizer_options={"betas": betas},
        include=include,
        normalize=normalize,
        patience=patience,
    )
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "svhn"}, "data: expected one of four-shapes, .*; found 'svhn'"),
        ({"variant": "RV"}, "variant: expected one of V, VR, .*; found 'RV'"),
        ({"net": "vgg"}, "net: expected one of two_conv, .*; found 'vgg'"),
        ({"epochs": 0}, "epochs: expected 1 or more, found 0"),
        ({"limit": -1}, "limit: expected 1 or more, found -1"),
        ({"patience": 0}, "patience: expected 1 or more"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected between 0 and 1, found 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number above 0, found nan"),
        ({"strength": -1.0}, "strength: expected a finite number above 0, found -1.0"),
        ({"gamma": float("inf")}, "gamma: expected a finite number, 0 or more"),
        ({"eps": 0.0}, "eps: expected a finite number above 0"),
        ({"precision": "float16"}, "precision: expected one of float32, bfloat16; found 'float16'"),
        ({"device": "gpu"}, "device: expected \"auto\" or a torch device, found 'gpu'"),
        ({"normalize": "halve"}, "normalize: expected one of .*'halve'"),
        ({"connectivity": 4}, "connectivity: expected one of 1, 2, 3; found 4"),
        ({"optimizer": "adma"}, "optimizer: expected adam, adamw, sgd or the exact name .*'adma'"),
        ({"optimizer": "Optimizer"}, "optimizer: expected"),
        ({"optimizer": "lr_scheduler"}, "optimizer: expected"),
        ({"optimizer": "LBFGS"}, "LBFGS.*needs a closure"),
        ({"optimizer": "SparseAdam"}, "SparseAdam.*sparse gradients"),
        ({"optimizer_options": {"momentun": 0.9}}, "adam has no option 'momentun'; it has betas"),
        ({"optimizer_options": {"lr": 0.9}}, "lr is set by learning_rate"),
        ({"optimizer_options": {"weight_decay": -1}}, "adam refuses .*weight_decay"),
        ({"optimizer_options": {"eps": torch.tensor(1.0)}}, "optimizer_options: expected values that JSON"),
        ({"schedule": "linear"}, "schedule: expected one of constant, .*'linear'"),
        ({"schedule": "step"}, "schedule_options: step needs step_size"),
        ({"schedule": "cosine", "schedule_options": {"T_max": 3}}, "cosine has no option 'T_max'"),
        ({"schedule": "multistep", "schedule_options": {"milestones": ["a"]}}, "number of epochs, found 'a'"),
        ({"schedule": "multistep", "schedule_options": {"milestones": 3}}, "multistep refuses"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"data": "mnist", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1.5}, "epochs: expected int, found 1.5"),
        ({"epochs": True}, "epochs: expected int, found True"),
        ({"limit": "all"}, "limit: expected int or None, found 'all'"),
        ({"learning_rate": "0.1"}, "learning_rate: expected float, found '0.1'"),
        ({"channels_last": 1}, "channels_last: expected bool, found 1"),
        ({"include": "conv*"}, "include: expected tuple or None, found 'conv\\*'"),
        ({"exclude": [1]}, "exclude: expected tuple or None"),
        ({"optimizer_options": [1]}, "optimizer_options: expected dict"),
    ],
)
def test_wrong_types_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        TrainConfig(**{"data": "mnist", **options})


def test_unknown_keys_are_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown option 'learning_rat'; did you mean 'learning_rate'"):
        TrainConfig.from_dict({"data": "mnist", "learning_rat": 0.1})
    with pytest.raises(ValueError, match="unknown option 'zzz'; the options are data, variant"):
        TrainConfig.from_dict({"data": "mnist", "zzz": 0.1})
    with pytest.raises(ValueError, match="data is missing"):
        TrainConfig.from_dict({})
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        TrainConfig.from_json("[]")


def test_the_variant_sets_loss_and_sign():
    signs = {v: TrainConfig(data="mnist", variant=v, strength=2.0).signed_strength for v in VARIANTS}
    assert [signs[v] for v in ("V", "VR", "VH", "L", "LR", "LH")] == [0, 2, -2, 0, 2, -2]
    assert [TrainConfig(data="mnist", variant=v).loss for v in ("VH", "TR", "A", "LR")] == list("VTAL")


def test_resolved_takes_the_data_sets_values_unless_given():
    cifar = TrainConfig(data="cifar10", device="cpu").resolved()
    assert (cifar.net, cifar.eps, cifar.device) == ("resnet18_cifar", 0.03, "cpu")
    own = TrainConfig(data="cifar10", net="two_conv", eps=0.5, device="cpu").resolved()
    assert (own.net, own.eps) == ("two_conv", 0.5)
    assert own.resolved() == own


def test_an_absent_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TrainConfig(data="mnist").resolved().device == "cpu"
    with pytest.raises(ValueError, match="torch sees no GPU here; use cpu or auto"):
        TrainConfig(data="mnist", device="cuda").resolved()
