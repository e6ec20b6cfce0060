from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from skreg.training import Run, TrainConfig
from skreg.training.checkpoint import write_best
from skreg.training.run import build_model, create_run, write_log


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These nets are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def record(epoch: int = 1, **changes: object) -> dict[str, object]:
    """A record of log.jsonl, with numbers that differ from each other."""
    layers = [
        {"name": "conv1.weight", "roughness": 3.0 / epoch, "norm": 2.0 + epoch},
        {"name": "conv2.weight", "roughness": 2.0 / epoch, "norm": 5.0 + epoch},
    ]
    values = {"loss": 2.5, "data_loss": 2.0, "penalty": 0.5, "train_accuracy": 0.4}
    scores = {"validation_accuracy": 0.6, "validation_pgd_accuracy": 0.3, "score": 0.6, "best": True}
    return {"epoch": epoch, **values, **scores, "layers": layers, **changes}


@pytest.fixture
def make_record() -> Callable[..., dict[str, object]]:
    return record


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    """Run folders in tmp_path as `skreg train` leaves them, with fresh weights, which cost no training."""

    def make(variant: str, folder: str | None = None, data: str = "four-shapes") -> Run:
        config = TrainConfig(data=data, variant=variant, epochs=1, device="cpu").resolved()
        path: Path = tmp_path / (folder or variant)
        run = create_run(config, path)
        run.log.append(record())
        write_log(run)
        with torch.random.fork_rng():
            torch.manual_seed(sum(map(ord, variant)))
            write_best(path, build_model(config).state_dict(), epoch=1, score=0.5)
        return run

    return make
