"""Signs that an attack did not work, so that its accuracy says little about the model."""

from __future__ import annotations

from skreg.evaluation.evaluate import Evaluation

# exp(-16.6) is half of float32's rounding at 1: at a wider margin the softmax of the label rounds to 1, and its part
# of the gradient of cross-entropy to 0.
WIDE_MARGIN = 16.6

# What a failed search of each kind tells of. DeepFool and ADef step onto the boundary, from either side of it.
_FAILURES = {
    ("fgsm", "pgd", "cw"): "a gradient without use",
    ("deepfool_l2", "deepfool_linf", "adef"): "a stop on the boundary, or a gradient without use",
    ("salt_pepper",): "a model that takes noise for their class, or too little of it",
}


def find_warnings(evaluation: Evaluation) -> list[str]:
    """What in `evaluation` a reader should not take at face value, a sentence each; empty when all is well.

    A working attack is not weaker than a simpler one, and it fools every model once eps is large enough
    (Carlini et al., arXiv 1902.06705, section 5).
    """
    return check_model(evaluation) + check_searches(evaluation) + check_at_eps(evaluation)


def check_model(evaluation: Evaluation) -> list[str]:
    """Whether the model itself is one whose robustness can be measured."""
    warnings = []
    clean = evaluation.clean
    if clean.count * evaluation.classes <= clean.total:
        warnings.append(
            f"the model itself gets {clean.count} of {clean.total} images right, no better than a guess among "
            f"{evaluation.classes} classes: its accuracy under attack says nothing"
        )
    if evaluation.zero_gradients.count:
        warnings.append(
            f"the gradient is exactly zero at {evaluation.zero_gradients.count} of "
            f"{evaluation.zero_gradients.total} images: attacks along it cannot start there"
        )
    if evaluation.logit_margin > WIDE_MARGIN:
        warnings.append(
            f"the two highest logits are {evaluation.logit_margin:.3g} apart on average: softmax rounds to 1 "
            "there, and the gradient of cross-entropy loses its direction"
        )
    return warnings


def check_searches(evaluation: Evaluation) -> list[str]:
    """Whether the searches for adversarial images did what such a search must."""
    warnings = []
    by_name = {summary.attack: summary for summary in evaluation.attacks}
    searching = [summary for summary in evaluation.attacks if not evaluation.is_fixed(summary.attack)]
    failed = {each.attack: each.failed for each in searching if each.failed}
    if failed:
        counts = ", ".join(f"{attack} {count}" for attack, count in failed.items())
        reasons = "; ".join(
            f"{', '.join(found)}: {reason}"
            for attacks, reason in _FAILURES.items()
            if (found := [attack for attack in attacks if attack in failed])
        )
        warnings.append(
            f"searches that found no adversarial at any distance, of {searching[0].searches} each: {counts}. They "
            f"count as right here, as in the paper, but tell of the search, not of a robust model ({reasons})"
        )
    if {"fgsm", "pgd"} <= by_name.keys():
        fgsm, pgd = by_name["fgsm"].accuracy, by_name["pgd"].accuracy
        if pgd.count > fgsm.count:
            warnings.append(
                f"PGD of preset {evaluation.preset} leaves {pgd.count} images right, the weaker FGSM only {fgsm.count}"
            )
    gradients = [each.accuracy.count for each in searching if each.attack != "salt_pepper"]
    if "salt_pepper" in by_name and gradients:
        noise = by_name["salt_pepper"].accuracy.count
        if noise < min(gradients):
            warnings.append(
                f"salt and pepper, which knows no gradient, leaves {noise} images right, every search along gradients "
                f"at least {min(gradients)}: the gradients mislead them"
            )
    return warnings


def check_at_eps(evaluation: Evaluation) -> list[str]:
    """Whether the attacks within a fixed eps did what such an attack must."""
    warnings = []
    eps, pgd = evaluation.eps, evaluation.pgd_at_eps
    for objective, found in (("cross-entropy", evaluation.pgd_ce_at_eps), ("margin", evaluation.pgd_margin_at_eps)):
        if found.count > evaluation.fgsm_at_eps.count:
            warnings.append(
                f"PGD ({objective}) at eps {eps:g} leaves {found.count} images right, the weaker FGSM only "
                f"{evaluation.fgsm_at_eps.count}: PGD is not converging"
            )
    if evaluation.pgd_at_one.count:
        warnings.append(
            f"PGD at eps 1 leaves {evaluation.pgd_at_one.count} images right, although any image is within "
            "reach: its gradients mislead it"
        )
    if evaluation.random_search_alone.count:
        warnings.append(
            f"the black-box search fools {evaluation.random_search_alone.count} images within eps {eps:g} that neither "
            "FGSM nor PGD fools: the gradients mislead them"
        )
    auto = evaluation.autoattack_at_eps
    if auto is not None and auto.count > pgd.count:
        warnings.append(f"AutoAttack leaves {auto.count} images right at eps {eps:g}, plain PGD only {pgd.count}")
    return warnings
