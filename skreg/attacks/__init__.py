"""Attacks on classifiers: images changed a little so that the model errs."""

from skreg.attacks.configs import FGSM, PGD
from skreg.attacks.gradient import fgsm, pgd
from skreg.attacks.mode import attack_mode

__all__ = ["FGSM", "PGD", "attack_mode", "fgsm", "pgd"]
