import matplotlib.colors
import pytest

from skreg.figures.styles import line_styles

WHITE, DARK = "#ffffff", "#14161a"  # a picture's paper, and the dark page of a report


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    values = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in matplotlib.colors.to_rgb(colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), values, strict=True))


def contrast(colour: str, other: str) -> float:
    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("background", [WHITE, DARK])
def test_lines_of_names_that_are_no_variants_stand_out(background):
    assert contrast(WHITE, "#000000") == pytest.approx(21)
    colours = [look["color"] for look in line_styles(f"net{number}" for number in range(8)).values()]
    assert len(set(colours)) == 8
    assert min(contrast(colour, background) for colour in colours) >= 3
