"""Every check that needs more than one process, by name."""

from . import data_parallel, fully_sharded, shardings
from .common import CHECKS

__all__ = ["CHECKS", "data_parallel", "fully_sharded", "shardings"]
