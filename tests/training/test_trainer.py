from __future__ import annotations

import dataclasses

import pytest
import torch

from skreg.data import batches, load, split_validation
from skreg.losses import LossOutput
from skreg.training import Progress, TrainConfig, load_run, train, trainer
from skreg.training.meter import EpochMeter

SMALL = TrainConfig(
    data="four-shapes",
    variant="V",
    limit=120,
    epochs=2,
    batch_size=40,
    attack_steps=2,
    validation_attack_steps=2,
    device="cpu",
)
TIMES = ("seconds", "images_per_second")


def config(**changes):
    return dataclasses.replace(SMALL, **changes)


def lasting(run):
    """All that a run leaves behind and that does not depend on the clock."""
    last = torch.load(run.path / "last.pt", weights_only=True)
    log = [{key: value for key, value in record.items() if key not in TIMES} for record in run.log]
    return last, log, (run.path / "best.safetensors").read_bytes()


def assert_same(left, right):
    """Equal bit for bit, through dictionaries and lists."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for mine, other in zip(left, right, strict=True):
            assert_same(mine, other)
    else:
        assert left == right


class Interrupt(Progress):
    """Ctrl-C after a step."""

    def __init__(self, epoch, step):
        self.moment = (epoch, step)
        self.ended = False

    def step(self, epoch, step, meter):
        if (epoch, step) == self.moment:
            raise KeyboardInterrupt

    def end(self):
        self.ended = True


@pytest.mark.parametrize("variant", ["V", "VR", "VH", "TR", "A", "L"])
def test_every_kind_of_variant_trains(tmp_path, variant):
    run = train(config(variant=variant), tmp_path / "run")

    assert [record["epoch"] for record in run.log] == [1, 2]
    assert run.log == load_run(run.path).log
    for record in run.log:
        assert record["loss"] == pytest.approx(record["data_loss"] + record["penalty"])
        sign = {"": 0, "R": 1, "H": -1}[variant[1:]]
        assert (record["penalty"] > 0) - (record["penalty"] < 0) == sign
        assert record["score"] == record["validation_accuracy" if variant[0] == "V" else "validation_pgd_accuracy"]
        assert 0 <= record["validation_pgd_accuracy"] <= record["validation_accuracy"] <= 1
        assert [layer["name"] for layer in record["layers"]] == ["conv1.weight", "conv2.weight"]
    model = run.load_model()
    assert not model.training
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 4)


def test_training_learns_and_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    run = train(config(limit=400, epochs=4, batch_size=32, learning_rate=2e-3), tmp_path / "run")
    best = max(run.log, key=lambda record: record["score"])
    assert run.log[-1]["data_loss"] < 0.6 * run.log[0]["data_loss"]
    assert best["validation_accuracy"] > 0.5  # chance is 0.25

    _, (images, labels) = split_validation(*load("four-shapes", "train", limit=400), 0.1, seed=0)
    model = run.load_model("best")
    with torch.no_grad():
        for batch, target in batches(images, labels, len(labels), shuffle=False):
            accuracy = (model(batch).argmax(1) == target).double().mean().item()
    assert accuracy == pytest.approx(best["validation_accuracy"])


def test_r_smooths_and_h_roughens(tmp_path):
    roughness = {
        variant: train(config(variant=variant, strength=0.1, learning_rate=1e-2), tmp_path / variant).log[-1]["layers"][
            0
        ]["roughness"]
        for variant in ("V", "VR", "VH")
    }
    assert roughness["VR"] < 0.9 * roughness["V"]
    assert roughness["VH"] > 1.05 * roughness["V"]


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "VR", "optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "schedule": "onecycle"},
        {"variant": "TR", "optimizer": "adamw", "schedule": "cosine"},
        {
            "variant": "A",
            "schedule": "multistep",
            "schedule_options": {"milestones": [1]},
            "channels_last": True,
        },
    ],
)
@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_an_interrupted_run_ends_as_if_it_had_never_stopped(tmp_path, options, moment):
    whole = train(config(**options), tmp_path / "whole")

    interrupt = Interrupt(*moment)
    torch.manual_seed(moment[1])  # what the caller's generator holds must not matter
    with pytest.raises(KeyboardInterrupt, match=rf"holds {moment[0] - 1} of 2 epochs; go on with --resume"):
        train(config(**options), tmp_path / "run", progress=interrupt)
    assert interrupt.ended
    assert len(load_run(tmp_path / "run").log) == moment[0] - 1
    torch.rand(7)
    resumed = train(config(**options), tmp_path / "run", resume=True)

    assert_same(lasting(resumed), lasting(whole))


def test_a_run_that_died_between_log_and_checkpoint_drops_the_newer_record(tmp_path, monkeypatch):
    whole = train(config(variant="LR"), tmp_path / "whole")

    def die(folder, state):
        if state["epoch"] == 2:
            raise SystemExit("killed")
        write_checkpoint(folder, state)

    write_checkpoint = trainer.write_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_checkpoint", die)
        with pytest.raises(SystemExit):
            train(config(variant="LR"), tmp_path / "run")
    assert len(load_run(tmp_path / "run").log) == 2

    resumed = train(config(variant="LR"), tmp_path / "run", resume=True)
    assert_same(lasting(resumed), lasting(whole))


def test_a_finished_run_can_grow(tmp_path):
    longer = train(config(epochs=3), tmp_path / "longer")
    train(config(epochs=2), tmp_path / "run")
    grown = train(config(epochs=3), tmp_path / "run", resume=True)
    assert_same(lasting(grown), lasting(longer))
    assert load_run(grown.path).config == longer.config


def test_a_finished_run_is_returned_at_once(tmp_path, monkeypatch):
    run = train(config(), tmp_path / "run")
    monkeypatch.setattr(trainer, "load", None)  # nothing is loaded
    assert train(config(), tmp_path / "run", resume=True) == run


def test_patience_ends_a_run_and_it_stays_ended(tmp_path, monkeypatch):
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])

    def validate(config, state, examples):
        score = next(scores)
        return {"validation_loss": 1.0, "validation_accuracy": score, "validation_pgd_accuracy": 0.0}

    monkeypatch.setattr(trainer, "_validate", validate)
    run = train(config(epochs=9, patience=2), tmp_path / "run")
    assert [record["best"] for record in run.log] == [True, True, False, False]
    assert train(config(epochs=9, patience=2), tmp_path / "run", resume=True) == run
    assert next(scores) == 0.9


def test_workers_give_the_same_run_and_may_change(tmp_path):
    whole = train(config(variant="A"), tmp_path / "whole")
    train(config(variant="A", epochs=1, loader="workers", workers=2), tmp_path / "run")
    grown = train(config(variant="A", loader="workers", workers=1), tmp_path / "run", resume=True)
    assert_same(lasting(grown), lasting(whole))


def test_compile_calls_the_net_through_torch_compile(tmp_path, monkeypatch):
    calls = []

    def compile_in_place(module):
        module._compiled_call_impl = lambda *arguments: calls.append(1) or module._call_impl(*arguments)

    whole = train(config(variant="A"), tmp_path / "whole")
    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_place)
    compiled = train(config(variant="A", compile=True), tmp_path / "run")
    assert_same(lasting(compiled), lasting(whole))
    assert len(calls) > 20


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    first, second, other = (
        train(config(variant="A", epochs=1, seed=seed), tmp_path / str(index)) for index, seed in enumerate((1, 1, 2))
    )
    assert_same(lasting(first), lasting(second))
    assert lasting(first)[1] != lasting(other)[1]


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_bfloat16_and_channels_last_train_and_resume(tmp_path, schedule):
    options = {"variant": "AR", "precision": "bfloat16", "channels_last": True, "schedule": schedule}
    whole = train(config(**options), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config(**options), tmp_path / "run", progress=Interrupt(2, 1))
    resumed = train(config(**options), tmp_path / "run", resume=True)
    assert_same(lasting(resumed), lasting(whole))
    assert all(parameter.dtype == torch.float32 for parameter in whole.load_model().parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # The weights overflow in the first update, so that the second step is the first bad one.
        ({"learning_rate": 1e38, "optimizer": "sgd"}, r"epoch 1, step 2: .*(the output of|the parameter) \w+"),
        (
            {
                "variant": "VR",
                "exponentiate": "layer",
                "strength": 1e3,
                "normalize": None,
                "net": "resnet18_cifar",
            },
            r"epoch 1, step 1: .*conv",
        ),
    ],
)
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_files(tmp_path, options, message):
    with pytest.raises(FloatingPointError, match=message):
        train(config(**options), tmp_path / "run")
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in last["model"].values())


def test_the_meter_finds_the_first_bad_step_later():
    meter = EpochMeter(4, torch.device("cpu"))
    for loss in (1.0, float("inf"), float("nan")):
        output = LossOutput(torch.tensor(loss), torch.zeros(5, 3), None)
        meter.add(output, torch.tensor(0.5), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(FloatingPointError, match=r"epoch 7, step 2: .*data loss inf, penalty 2.5"):
        meter.check_finite(epoch=7)


def test_the_callers_generator_and_flags_come_back(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(config(epochs=1, deterministic=True), tmp_path / "run").load_model()
    assert torch.equal(torch.rand(4), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_mistake_leaves_no_folder_behind(tmp_path):
    with pytest.raises(ValueError, match="include: 'conv9"):
        train(config(variant="VR", include=("conv9*",)), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="mnist"):
        train(config(data="mnist", data_root=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
