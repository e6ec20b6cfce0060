"""Conv kernels, their spectra and what they make of an image: the paper's Figure 1."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from skreg._checks import check_count
from skreg._extras import require
from skreg.attacks import attack_mode
from skreg.figures.drawing import Drawing
from skreg.figures.grid import fit
from skreg.figures.lineup import Lineup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPECTRUM_SIZE = 64  # zero-padded to this side, so that the spectrum of a small kernel is drawn smooth

# Inches.
_PANEL, _SPACE = 0.62, 0.05
_BETWEEN_MODELS, _BETWEEN_FAMILIES, _BETWEEN_BLOCKS = 0.1, 0.12, 0.14
_LEFT, _RIGHT, _TOP = 0.4, 0.15, 0.55

MANY = 6  # more models than this have their kernels in one column each, so that the page stays narrow

_CAPTION = {
    "kernels": "Kernels: red above 0, blue below; full colour at the value written above each model.",
    "spectra": "Spectra: modulus of the 2-D Fourier transform, zero frequency in the middle, "
    "highest at the edges; black 0, brightest the kernel's own maximum.",
    "responses": "Responses: what the kernel makes of the image, black its minimum, white its maximum.",
}


@dataclass(frozen=True)
class _Block:
    """One kind of picture of all models, and how it is coloured."""

    title: str
    panels: dict[str, Tensor]  # by model, count H W
    colours: str
    limits: dict[str, tuple[float | None, float | None]]  # by model; None: each panel's own


def kernels(
    models: Mapping[str, nn.Module],
    *,
    count: int = 4,
    layer: str | None = None,
    image: Tensor | None = None,
    caption: bool = True,
) -> Figure:
    """Draw the first kernels of each model side by side: weights, spectra, and responses to `image`.

    A filter with several input channels is shown as their sum, which is how it acts on a grey image. The
    kernels of a model share a colour scale, symmetric about 0 and written above them: models differ in norm,
    and smoothness is a matter of shape. The caption says how the rest is scaled.

    Args:
        models: nets by the name to write above them, such as V, VR and VH. They are left as they were found.
        count: kernels a model.
        layer: name of a 2-D convolution in every model, such as "conv1"; None for the first one of each.
        image: C H W, floating point, as the models take it; None for no responses.
        caption: whether to write below what is seen.

    Returns:
        A figure that belongs to no window and no global state; `skreg.figures.save` writes it. Its axes come
        block by block, model by model, kernel by kernel. Names that begin with the same letter stand closer.

    Raises:
        TypeError, ValueError: no models, a layer that is not there or has too few filters, or a bad image.
    """
    if not models:
        raise ValueError("models: expected at least one, found none")
    check_count("count", count)
    layers = {name: _find_layer(name, model, layer) for name, model in models.items()}
    weights = {name: _grey_kernels(name, conv, count) for name, conv in layers.items()}
    scales = {name: float(kernel.abs().max()) for name, kernel in weights.items()}
    blocks = [
        _Block("kernels", weights, "RdBu_r", {name: (-scale, scale) for name, scale in scales.items()}),
        _Block("spectra", {n: spectra(k) for n, k in weights.items()}, "magma", dict.fromkeys(models, (0, None))),
    ]
    if image is not None:
        responses = {name: _responses(models[name], layers[name], image, count) for name in models}
        blocks.append(_Block("responses", responses, "gray", dict.fromkeys(models, (None, None))))
    text = " ".join(_CAPTION[block.title] for block in blocks) if caption else ""
    return _layout(blocks, scales, count, text)


def draw_kernels(lineup: Lineup) -> Iterator[Drawing]:
    """The paper's Figure 1: the first four kernels of the first layer, and what they make of a test image."""
    images, labels = lineup.test_images()
    classes = lineup.info.classes
    shown = classes.index("star") if "star" in classes else len(classes) - 1  # the paper shows a star
    members = (labels == shown).nonzero()[:, 0]
    index = int(members[images[members].flatten(1).std(dim=1).argmax()])
    names = ", ".join(lineup.models)
    yield Drawing(
        name="kernels",
        title="First kernels, their spectra and their responses",
        caption=f"The first four kernels of the first convolution. {' '.join(_CAPTION.values())} The image is the "
        f"{classes[shown]} of most contrast among {len(images)} test images of {lineup.info.name}. Best weights of "
        "each run.",
        alt=f"Small squares in a column for each of {names}: four kernels as red and blue pixels, their spectra, and "
        f"what they make of a picture of a {classes[shown]}.",
        figure=kernels(lineup.models, image=images[index], caption=False),
    )


def spectra(kernels: Tensor) -> Tensor:
    """Modulus of the zero-padded 2-D Fourier transform of each kernel, zero frequency in the middle.

    Args:
        kernels: N H W.

    Returns:
        N x `SPECTRUM_SIZE` x `SPECTRUM_SIZE`, or the kernels' own size where that is larger.
    """
    size = [max(SPECTRUM_SIZE, side) for side in kernels.shape[1:]]
    moduli: Tensor = torch.fft.fftshift(torch.fft.fft2(kernels, s=size), dim=(1, 2)).abs()
    return moduli


def _layout(blocks: list[_Block], scales: dict[str, float], count: int, text: str) -> Figure:
    """Place `count` panels of each model and block, and `text` below them."""
    figure_class = require("matplotlib.figure", "lab").Figure
    across = 1 if len(scales) > MANY else math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    pitch = _PANEL + _SPACE
    block_height = down * pitch + _BETWEEN_BLOCKS
    lefts = _left_edges(list(scales), across * pitch + _BETWEEN_MODELS)
    width = lefts[-1] + across * pitch - _SPACE + _RIGHT
    lines = textwrap.wrap(text, int(width * 15))
    bottom = 0.2 + 0.16 * len(lines) if lines else 0.0
    height = _TOP + len(blocks) * block_height + bottom
    figure: Figure = figure_class(figsize=(width, height))

    for row, block in enumerate(blocks):
        top = height - _TOP - row * block_height
        middle = top - (down * pitch - _SPACE) / 2
        figure.text(0.2 / width, middle / height, block.title, rotation=90, ha="center", va="center", size=10)
        for left, (name, panels) in zip(lefts, block.panels.items(), strict=True):
            lowest, highest = block.limits[name]
            for index, panel in enumerate(panels):
                x, y = left + index % across * pitch, top - index // across * pitch - _PANEL
                axes = figure.add_axes((x / width, y / height, _PANEL / width, _PANEL / height))
                axes.imshow(panel.numpy(), cmap=block.colours, vmin=lowest, vmax=highest, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(color="0.75", linewidth=0.5)
    for left, (name, scale) in zip(lefts, scales.items(), strict=True):
        centre = (left + (across * pitch - _SPACE) / 2) / width
        size = fit(name, across * pitch + _BETWEEN_MODELS, 11)
        figure.text(centre, 1 - 0.24 / height, name, ha="center", va="center", size=size, weight="bold")
        figure.text(centre, 1 - 0.42 / height, f"±{scale:.2g}", ha="center", va="center", size=8, color="0.35")
    figure.text(_LEFT / width, (bottom - 0.1) / height, "\n".join(lines), va="top", size=7.5, color="0.25")
    return figure


def _left_edges(names: list[str], pitch: float) -> list[float]:
    """Where each model's panels begin: names with the same first letter side by side, the others further apart."""
    edges = [_LEFT]
    for before, name in itertools.pairwise(names):
        edges.append(edges[-1] + pitch + (_BETWEEN_FAMILIES if name[:1] != before[:1] else 0))
    return edges


def _find_layer(name: str, model: nn.Module, layer: str | None) -> nn.Conv2d:
    convolutions = {key: module for key, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if not convolutions:
        raise ValueError(f'model "{name}" has no torch.nn.Conv2d to draw')
    if layer is None:
        return next(iter(convolutions.values()))
    if layer not in convolutions:
        raise ValueError(f'model "{name}" has no 2-D convolution "{layer}"; it has: {", ".join(convolutions)}')
    return convolutions[layer]


def _grey_kernels(name: str, conv: nn.Conv2d, count: int) -> Tensor:
    """The first `count` filters, summed over input channels: count H W, float32 or better, on the CPU."""
    if conv.out_channels < count:
        raise ValueError(f'count: the layer of model "{name}" has {conv.out_channels} filters, asked for {count}')
    weight = conv.weight.detach()[:count].cpu()
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).sum(dim=1)


@torch.no_grad()
def _responses(model: nn.Module, conv: nn.Conv2d, image: Tensor, count: int) -> Tensor:
    """What the first `count` filters of `conv` give when `model` sees `image`: count H W, on the CPU."""
    if image.dim() != 3 or not image.is_floating_point():
        raise ValueError(f"image: expected floats C H W, found {image.dtype} of shape {tuple(image.shape)}")
    seen: list[Tensor] = []
    hook = conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with attack_mode(model, "eval"):
            model(image[None].to(conv.weight.device, conv.weight.dtype))
    finally:
        hook.remove()
    if not seen:
        raise ValueError("layer: the model computes its logits without it, so it has no response to the image")
    return seen[0][0, :count].float().cpu()
