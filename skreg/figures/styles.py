"""How the paper's variants look in figures with lines: by colours that the colour-blind tell apart, and by dashes."""

from __future__ import annotations

from collections.abc import Iterable

from skreg.training import VARIANTS

# After Okabe and Ito, with a contrast of 3 on white or more. A variant without penalty is dashed and R is solid, as in
# the paper's Figures 7 to 9.
PLAIN = {"color": "#4d4d4d", "linestyle": "--"}
SMOOTH = {"color": "#0072b2", "linestyle": "-"}
ROUGH = {"color": "#d55e00", "linestyle": ":"}
_OTHERS = ("#0072b2", "#b87500", "#00805a", "#aa4499", "#2a8fc7", "#d55e00", "#757575", "#8a8000")

MEANING = {"": "no penalty", "R": "with the penalty (R)", "H": "against it (H)"}
LOSSES = {"V": "cross-entropy (V)", "T": "TRADES (T)", "A": "adversarial training (A)", "L": "logit pairing (L)"}


def group_by_loss(names: Iterable[str]) -> dict[str, list[str]]:
    """The names under their loss, in order: {"cross-entropy (V)": ["V", "VR"], ...}; names of no variant under ""."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(LOSSES[name[0]] if name in VARIANTS else "", []).append(name)
    return groups


def line_styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and dashes of each line among those of one loss: by the penalty's sign, or else by turns."""
    signs = {"": PLAIN, "R": SMOOTH, "H": ROUGH}
    return {
        name: signs[name[1:]] if name in VARIANTS else {"color": _OTHERS[index % len(_OTHERS)], "linestyle": "-"}
        for index, name in enumerate(names)
    }
