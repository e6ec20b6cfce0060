from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from skreg.training import Run, TrainConfig
from skreg.training.checkpoint import write_best
from skreg.training.run import build_model, create_run


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """These nets are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    """Run folders in tmp_path as `skreg train` leaves them, with fresh weights, which cost no training."""

    def make(variant: str, folder: str | None = None, data: str = "four-shapes") -> Run:
        config = TrainConfig(data=data, variant=variant, epochs=1, device="cpu").resolved()
        path: Path = tmp_path / (folder or variant)
        run = create_run(config, path)
        with torch.random.fork_rng():
            torch.manual_seed(sum(map(ord, variant)))
            write_best(path, build_model(config).state_dict(), epoch=1, score=0.5)
        return run

    return make
