"""Training of the paper's variants: a configuration, a plain PyTorch loop, run folders to resume."""

from skreg.training.checkpoint import RunError
from skreg.training.config import VARIANTS, TrainConfig
from skreg.training.interrupt import Terminated
from skreg.training.listing import RunSummary, list_runs
from skreg.training.optimization import SCHEDULES
from skreg.training.progress import AllProgress, ConsoleProgress, Progress
from skreg.training.run import Run, load_run
from skreg.training.trainer import train

__all__ = [
    "SCHEDULES",
    "VARIANTS",
    "AllProgress",
    "ConsoleProgress",
    "Progress",
    "Run",
    "RunError",
    "RunSummary",
    "Terminated",
    "TrainConfig",
    "list_runs",
    "load_run",
    "train",
]
