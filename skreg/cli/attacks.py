"""The names of attacks on the command line, one by one and in groups."""

from __future__ import annotations

import typer

from skreg.cli.application import split_names
from skreg.evaluation import ATTACKS, CHOICES

# Without C&W, salt and pepper and AutoAttack, which cost several times as much.
FAST = ("fgsm", "pgd", "deepfool_l2", "deepfool_linf", "adef")
GROUPS = {"fast": FAST, "paper": ATTACKS, "all": CHOICES}
NAMES_HELP = (
    f"Separated by commas: {', '.join(CHOICES)}; or fast ({', '.join(FAST)}), paper (the seven of its Table 1), all "
    "(those and autoattack)."
)


def attack_names(text: str) -> list[str]:
    """The attacks that `text` names.

    Raises:
        typer.BadParameter: an unknown name; lists those there are.
    """
    names = split_names(text)
    for name in names:
        if name not in CHOICES and name not in GROUPS:
            raise typer.BadParameter(
                f"--attacks: unknown attack {name!r}; expected names among {', '.join(CHOICES)}, or {', '.join(GROUPS)}"
            )
    return [attack for name in names for attack in GROUPS.get(name, (name,))]
