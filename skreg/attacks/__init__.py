"""Attacks on classifiers: images changed a little so that the model errs."""

from typing import TYPE_CHECKING, Any

from skreg.attacks.configs import FGSM, PGD
from skreg.attacks.gradient import fgsm, pgd
from skreg.attacks.mode import attack_mode
from skreg.attacks.noise import BatchPart

if TYPE_CHECKING:
    from skreg.attacks.adef import ADef as ADef

# ADef is left out so that `import *` works without Foolbox.
__all__ = ["FGSM", "PGD", "BatchPart", "attack_mode", "fgsm", "pgd"]


def __getattr__(name: str) -> Any:
    # ADef subclasses a class of Foolbox, which is optional, so it is imported by whoever asks for it.
    if name == "ADef":
        from skreg.attacks.adef import ADef

        return ADef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
