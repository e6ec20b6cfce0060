"""A figure with the words that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """One picture of trained runs, ready for a file, a page or a notebook.

    Attributes:
        name: the stem of its file, such as "kernels" or "targeted-VR".
        title: a heading.
        caption: what is seen and how it was made: images, attack, eps, seed.
        alt: the content in a sentence or two, for those who do not see it.
        figure: belongs to no window and no global state; `skreg.figures.save` writes it.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
