from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from skreg.figures.grid import FAILED, FRAME, Cell, image_grid
from skreg.figures.lines import COLOURS
from skreg.figures.styles import PLAIN, ROUGH, SMOOTH, line_styles


def cells(rows: int, columns: int, channels: int = 1, **options):
    return [
        [Cell(torch.rand(channels, 8, 8), f"{row} {column}", **options) for column in range(columns)]
        for row in range(rows)
    ]


def test_images_stand_in_rows_and_columns_between_black_0_and_white_1():
    grid = cells(2, 3)
    figure = image_grid(grid, ["a", "b"], ["x", "y", "z"], row_title="rows", column_title="columns")
    assert len(figure.axes) == 6
    corners = np.array([[axes.get_position().x0, axes.get_position().y0] for axes in figure.axes]).reshape(2, 3, 2)
    assert (np.diff(corners[:, :, 0], axis=1) > 0).all()
    assert (np.diff(corners[:, :, 1], axis=0) < 0).all()
    for axes, cell in zip(figure.axes, [cell for row in grid for cell in row], strict=True):
        (shown,) = axes.images
        np.testing.assert_array_equal(np.asarray(shown.get_array()), cell.image[0].numpy())
        assert shown.get_clim() == (0, 1)
        assert axes.get_xlabel() == cell.text
    assert {"a", "b", "x", "y", "z", "rows", "columns"} == {text.get_text() for text in figure.texts}


def test_colour_images():
    grid = cells(1, 2, channels=3)
    figure = image_grid(grid, ["a"], ["x", "y"])
    np.testing.assert_array_equal(np.asarray(figure.axes[1].images[0].get_array()), grid[0][1].image.movedim(0, -1))


def test_nothing_is_cut_or_covered():
    names = ["T-shirt/top", "ankle boot"]
    grid = [[Cell(torch.rand(1, 8, 8), "T-shirt/top\n100%") for _ in range(13)] for _ in names]
    figure = image_grid(
        grid,
        names,
        ["O", *["T-shirt/top" if i % 2 else "kernel-1e-3" for i in range(12)]],
        row_title="rows",
        apart=True,
    )
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.size
    texts = [*figure.texts, *(axes.xaxis.label for axes in figure.axes)]
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in texts] + [
        axes.get_window_extent(renderer) for axes in figure.axes
    ]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= width  # noqa: PT018
        assert box.y0 >= 0 and box.y1 <= height  # noqa: PT018
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_failures_are_crossed_out():
    (row,) = cells(1, 2)
    figure = image_grid([[row[0], Cell(row[1].image, "failed", failed=True)]], ["a"], ["x", "y"])
    good, failed = figure.axes
    assert (len(good.lines), len(failed.lines)) == (0, 2)
    assert good.images[0].get_alpha() is None
    assert failed.images[0].get_alpha() < 0.5
    assert failed.get_xlabel() == "failed"


def luminance(colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(colour, background="white") -> float:
    """WCAG 2."""
    low, high = sorted((luminance(colour), luminance(background)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("black") == pytest.approx(21)
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)  # the lightest grey that passes


def test_words_and_lines_have_contrast_on_the_white_page():
    image = torch.rand(1, 4, 4)
    row = [Cell(image, "original", framed=True), Cell(image, "l2 1"), Cell(image, "failed", failed=True)]
    figure = image_grid([row], ["target"], ["a", "b", "c"], row_title="target class", column_title="original class")
    words = [text for text in figure.findobj(Text) if text.get_text()]
    assert {"failed", "target class", "original class", "a"} <= {text.get_text() for text in words}
    for text in words:
        assert contrast(text.get_color()) >= 4.5, text.get_text()
    for colour in (FRAME, FAILED, *COLOURS.values(), *(each["color"] for each in (PLAIN, SMOOTH, ROUGH))):
        assert contrast(colour) >= 3, colour  # for what is not text


def test_lines_of_names_that_are_no_variants_stand_out_on_paper_and_on_a_dark_page():
    colours = [look["color"] for look in line_styles(f"net{number}" for number in range(8)).values()]
    assert len(set(colours)) == 8
    for background in ("white", "#14161a"):
        assert min(contrast(colour, background) for colour in colours) >= 3


def test_column_titles_have_one_size():
    image = torch.rand(1, 4, 4)
    figure = image_grid([[Cell(image), Cell(image)]], ["row"], ["bag", "a very long title indeed"])
    sizes = {text.get_text(): text.get_size() for text in figure.texts}
    assert sizes["bag"] == sizes["a very long title indeed"] < 9
