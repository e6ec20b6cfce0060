"""Pictures of what nets learnt, as matplotlib figures: of models one by one, or all of trained runs (`draw`).

What takes long is computed first (`deceive`, `maximize_activation`, `targeted_attack`, tensors in and out) and
drawn afterwards.
"""

from skreg.figures.activation import activation_grid, maximize_activation
from skreg.figures.curves import accuracy_curves
from skreg.figures.deceptive import deceive, deceptive_grid, most_deceptive
from skreg.figures.drawing import Drawing
from skreg.figures.estimate import describe_estimate, estimate_seconds
from skreg.figures.fourier import fourier_maps
from skreg.figures.gallery import FIGURES, draw
from skreg.figures.kernels import kernels
from skreg.figures.radial import radial_power, radial_spectra
from skreg.figures.saving import save
from skreg.figures.targeted import targeted_attack, targeted_grid
from skreg.figures.training import layer_curves, training_curves

__all__ = [
    "FIGURES",
    "Drawing",
    "accuracy_curves",
    "activation_grid",
    "deceive",
    "deceptive_grid",
    "describe_estimate",
    "draw",
    "estimate_seconds",
    "fourier_maps",
    "kernels",
    "layer_curves",
    "maximize_activation",
    "most_deceptive",
    "radial_power",
    "radial_spectra",
    "save",
    "targeted_attack",
    "targeted_grid",
    "training_curves",
]
