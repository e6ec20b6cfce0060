"""What each process of `test_distributed.py` runs: `processes.py FOLDER NAME...` trains the runs of these names.

Run by ``python -m torch.distributed.run``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from skreg.training import TrainConfig, train, trainer
from skreg.training.distributed import process_rank

# 56 images to train on: the last batch has 2, fewer than 4 processes; 8 to validate on, of which 5 are attacked.
SMALL = {
    "data": "four-shapes",
    "limit": 64,
    "validation_fraction": 0.125,
    "batch_size": 18,
    "epochs": 1,
    "attack_steps": 2,
    "validation_attack_steps": 2,
    "validation_attack_images": 5,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "device": "cpu",
}
RUNS = {
    "V": {"variant": "V", "loader": "workers", "workers": 1, "epochs": 2},
    "AR": {"variant": "AR", "optimizer_options": {"momentum": 0.9}},
    "TR": {"variant": "TR"},
    "fsdp-VR": {"variant": "VR", "fsdp": True, "exponentiate": "layer", "max_exponent": 1.0, "strength": 1e-4},
    "fsdp-A": {"variant": "A", "fsdp": True},
    "grown": {"variant": "VR", "fsdp": True, "optimizer": "adam", "learning_rate": 1e-3},
}


def config(name: str, **changes: object) -> TrainConfig:
    return TrainConfig(**{**SMALL, **RUNS[name], **changes})


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for name in names:
        resume = (folder / name).exists()
        torch.distributed.barrier()  # all have looked before one makes it
        train(config(name, epochs=2) if resume else config(name), folder / name, resume=resume)
    torch.distributed.barrier()
    os._exit(0)  # a thread of gloo that drops a tensor after the interpreter's end aborts (pytorch/pytorch#190489)


def fail(folder: Path) -> None:
    """Rank 1 fails in its second step; the others wait for it in a collective call."""
    vanilla, calls = trainer.LOSSES["V"], []

    def failing(*arguments, **options):
        calls.append(1)
        if process_rank() == 1 and len(calls) == 2:
            raise FloatingPointError("rank 1 has had enough")
        return vanilla(*arguments, **options)

    trainer.LOSSES["V"] = failing
    train(config("V", loader="device"), folder)


if __name__ == "__main__":
    if sys.argv[2:] == ["fail"]:
        fail(Path(sys.argv[1]))
    elif sys.argv[2:] == ["join"]:
        train(config("V"), sys.argv[1])
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
