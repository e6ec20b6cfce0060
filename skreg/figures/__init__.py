"""Pictures of what nets learnt, as matplotlib figures: of models one by one, or all of trained runs (`draw`)."""

from skreg.figures.drawing import Drawing
from skreg.figures.gallery import FIGURES, draw
from skreg.figures.kernels import kernels
from skreg.figures.saving import save

__all__ = ["FIGURES", "Drawing", "draw", "kernels", "save"]
