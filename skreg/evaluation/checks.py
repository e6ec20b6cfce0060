"""Signs that an attack did not work, so that its accuracy says little about the model."""

from __future__ import annotations

from skreg.evaluation.attacks import FIXED_IN_FOOLBOX3
from skreg.evaluation.evaluate import Evaluation


def find_warnings(evaluation: Evaluation) -> list[str]:
    """What in `evaluation` a reader should not take at face value, a sentence each; empty when all is well.

    A working attack is not weaker than a simpler one, and it fools every model once eps is large enough
    (Carlini et al., arXiv 1902.06705, section 5).
    """
    warnings = []
    if evaluation.pgd_at_eps.count > evaluation.fgsm_at_eps.count:
        warnings.append(
            f"PGD at eps {evaluation.eps:g} leaves {evaluation.pgd_at_eps.count} images right, the weaker "
            f"FGSM only {evaluation.fgsm_at_eps.count}: PGD is not converging"
        )
    if evaluation.pgd_at_one.count:
        warnings.append(
            f"PGD at eps 1 leaves {evaluation.pgd_at_one.count} images right, although any image is within "
            "reach: its gradients mislead it"
        )
    by_name = {summary.attack: summary for summary in evaluation.attacks}
    if evaluation.preset == "paper" and {"fgsm", "pgd"} <= by_name.keys():
        fgsm, pgd = by_name["fgsm"].accuracy, by_name["pgd"].accuracy
        if pgd.count > fgsm.count:
            warnings.append(
                f"the paper's PGD search leaves {pgd.count} images right, the weaker FGSM only {fgsm.count}"
            )
    for summary in evaluation.attacks:
        fixed = evaluation.preset == "foolbox3" and summary.attack in FIXED_IN_FOOLBOX3
        if summary.failed and not fixed:
            warnings.append(
                f"{summary.failed} of {summary.searches} searches of {summary.attack} found no adversarial "
                "at any distance; its accuracy counts them as right, as the paper does"
            )
    if evaluation.zero_gradients.count:
        warnings.append(
            f"the gradient is exactly zero at {evaluation.zero_gradients.count} of "
            f"{evaluation.zero_gradients.total} images: attacks along it cannot start there"
        )
    return warnings
