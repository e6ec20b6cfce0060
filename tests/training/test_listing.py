from __future__ import annotations

import pytest

from skreg.training import RunError, TrainConfig, list_runs, train
from skreg.training.checkpoint import write_file


def test_states_and_best_numbers(tmp_path):
    options = {
        "data": "four-shapes",
        "variant": "V",
        "limit": 60,
        "validation_attack_steps": 1,
        "validation_attack_images": 2,
        "device": "cpu",
    }
    finished = train(TrainConfig(**options, epochs=1), tmp_path / "a" / "finished")
    started = train(TrainConfig(**options, epochs=1), tmp_path / "b")
    config = (started.path / "config.json").read_text()
    write_file(started.path / "config.json", config.replace('"epochs": 1', '"epochs": 9').encode())
    train(TrainConfig(**options, epochs=1), tmp_path / "c")
    weights = tmp_path / "c" / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.json").write_text("{")

    first, second, third, fourth = list_runs(tmp_path)
    assert (first.state, first.epochs_done, first.epochs, first.best_epoch) == ("finished", 1, 1, 1)
    assert first.validation_accuracy == finished.log[0]["validation_accuracy"]
    assert first.roughness == finished.log[0]["layers"][0]["roughness"]
    assert (second.state, second.epochs_done, second.epochs) == ("unfinished", 1, 9)
    assert third.state == "damaged"
    assert "best.safetensors is damaged" in third.problem
    assert fourth.state == "damaged"
    assert "config.json: damaged, not JSON" in fourth.problem


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such folder"):
        list_runs(tmp_path / "nowhere")
    assert list_runs(tmp_path) == []
