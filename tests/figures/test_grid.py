from __future__ import annotations

import numpy as np
import torch

from skreg.figures.grid import Cell, image_grid


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
