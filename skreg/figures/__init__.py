"""Pictures of what nets learnt, as matplotlib figures."""

from skreg.figures.kernels import kernels
from skreg.figures.saving import save

__all__ = ["kernels", "save"]
