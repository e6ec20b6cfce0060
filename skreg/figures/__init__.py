"""Pictures of what nets learnt, as matplotlib figures: of models one by one, or all of trained runs (`draw`)."""

from skreg.figures.curves import accuracy_curves
from skreg.figures.drawing import Drawing
from skreg.figures.gallery import FIGURES, draw
from skreg.figures.kernels import kernels
from skreg.figures.saving import save
from skreg.figures.training import layer_curves, training_curves

__all__ = [
    "FIGURES",
    "Drawing",
    "accuracy_curves",
    "draw",
    "kernels",
    "layer_curves",
    "save",
    "training_curves",
]
