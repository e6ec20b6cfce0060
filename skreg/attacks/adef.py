"""ADef as an attack of Foolbox 3, to be used like its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skreg._checks import check_count, check_number
from skreg._extras import require
from skreg.attacks.deformation import Deformation

foolbox = require("foolbox", "lab")
eagerpy = require("eagerpy", "lab")


class ADef(foolbox.attacks.base.MinimizationAttack):  # type: ignore[misc, name-defined]  # Foolbox is not typed
    """Deforms images instead of adding to them: the ADef of Alaifari, Alberti and Gauksson (arXiv 1804.07729).

    It moves pixels along a smooth vector field until the model errs. Each step is the smallest field that would
    cross the nearest decision boundary, were the model linear in it. Batched; the field is kept in float64.

    With the criterion `foolbox.criteria.TargetedMisclassification` it deforms towards the target class, across the
    boundary with the class that is highest at the time. Only PyTorch models; the perturbation of pixels has no bound
    (`distance`, linf, is what `epsilons` are compared with).

    After a call, `fields` holds the vector fields of the images (N, 2, H, W), float64, in pixels: x, then y.

    Args:
        steps: most steps an image.
        smooth: deviation of the Gaussian that smooths the field, in pixels; 0 for none.
        candidates: so many of the highest logits of the clean image are considered, the true class among them;
            at least 2.
        overshoot: factor on the field, at least 1. At exactly 1 an image can end on the boundary itself, and the
            attack then fails by a rounding error.

    Raises:
        TypeError, ValueError: an option is not as described; on a call, the criterion is neither of the two.
        ModuleNotFoundError: on import, where Foolbox is missing; it names the extra.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
        >>> model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
        >>> images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
        >>> attack = ADef(steps=3)
        >>> raw, clipped, is_adversarial = attack(model, images, labels, epsilons=None)
        >>> attack.fields.shape
        torch.Size([2, 2, 4, 4])
    """

    distance = foolbox.distances.linf

    def __init__(self, steps: int = 100, smooth: float = 1.0, candidates: int = 10, overshoot: float = 1.02) -> None:
        check_count("steps", steps)
        check_number("smooth", smooth)
        check_count("candidates", candidates)
        if candidates < 2:
            raise ValueError(f"candidates must be at least 2, the true class and another, found {candidates}")
        if check_number("overshoot", overshoot) < 1:
            raise ValueError(f"overshoot must be at least 1, found {overshoot!r}")
        self.steps = steps
        self.smooth = smooth
        self.candidates = candidates
        self.overshoot = overshoot
        self.fields: Tensor | None = None

    def __repr__(self) -> str:
        options = ("steps", "smooth", "candidates", "overshoot")
        return f"ADef({', '.join(f'{name}={getattr(self, name)!r}' for name in options)})"

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **options: Any) -> Any:
        """Foolbox calls this; see `foolbox.attacks.base.MinimizationAttack.run`. `early_stop` is not used."""
        foolbox.attacks.base.raise_if_kwargs(options)
        wrapped, restore_type = eagerpy.astensor_(inputs)
        images = wrapped.raw
        if not isinstance(images, Tensor):
            raise TypeError(f"ADef needs a PyTorch model and torch images, found {type(images).__name__}")
        if images.ndim != 4:
            raise ValueError(f"images must have shape (N, C, H, W), found {tuple(images.shape)}")
        labels, target = _classes(criterion)
        deformation = Deformation(self.steps, self.smooth, self.candidates, self.overshoot)
        deformed, self.fields = deformation.run(model, images, labels, target)
        low, high = model.bounds
        return restore_type(eagerpy.astensor(deformed.clamp(low, high)))  # an average may round past a bound


def _classes(criterion: Any) -> tuple[Tensor, Tensor | None]:
    """The labels to leave and the targets to reach, if there are any."""
    criterion = foolbox.attacks.base.get_criterion(criterion)
    if isinstance(criterion, foolbox.criteria.Misclassification):
        return criterion.labels.raw.long(), None
    if isinstance(criterion, foolbox.criteria.TargetedMisclassification):
        target: Tensor = criterion.target_classes.raw.long()
        return target, target
    raise ValueError(
        f"ADef takes labels, Misclassification or TargetedMisclassification, found {type(criterion).__name__}"
    )
