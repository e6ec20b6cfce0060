"""Training of the paper's variants: a configuration, a plain PyTorch loop, run folders to resume."""

from skreg.training.config import VARIANTS, TrainConfig
from skreg.training.optimization import SCHEDULES
from skreg.training.progress import ConsoleProgress, Progress
from skreg.training.run import Run, RunError, load_run
from skreg.training.trainer import train

__all__ = [
    "SCHEDULES",
    "VARIANTS",
    "ConsoleProgress",
    "Progress",
    "Run",
    "RunError",
    "TrainConfig",
    "load_run",
    "train",
]
