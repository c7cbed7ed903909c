"""The pictures of learning rates."""

import json
import math
import re
from xml.etree import ElementTree

import pytest

from lrtape.curve_page import curve_page
from lrtape.curve_svg import HEIGHT, WIDTH, Curve, Scale, draw_svg

SVG = "{http://www.w3.org/2000/svg}"
STEPLR = Curve(("all",), ((0, 1e-2), (200, 1e-5), (400, 1e-8), (600, 1e-8)), (200, 400))


def texts_of(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def curves_in(svg: str) -> list[str]:
    return [path.get("d", "") for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("class") == "lr"]


def test_a_small_lr_can_be_read() -> None:
    """The axis is logarithmic, and says 1e-08 where MLflow says 0; the drops are marked with their steps."""
    texts = texts_of(draw_svg([STEPLR], "steplr"))

    assert {"0.01", "1e-08", "200", "400", "steplr"} <= {*texts}


def test_an_lr_is_held_until_the_next_step() -> None:
    """Lines go along and down, never aslant: at the left edge, along to the drop, down, and so on to the right edge."""
    (path,) = curves_in(draw_svg([STEPLR], "steplr"))

    assert re.fullmatch(r"M[\d.]+ [\d.]+H[\d.]+V[\d.]+H[\d.]+V[\d.]+H[\d.]+", path)
    xs = [float(x) for x in re.findall(r"[MH]([\d.]+)", path)]
    assert (xs[1] - xs[0]) / (xs[-1] - xs[0]) == pytest.approx(1 / 3, abs=0.001)


def test_groups_have_colors_and_dashes_of_their_own_and_those_that_are_alike_share_a_curve() -> None:
    """Three groups, two curves, and a legend that names all three."""
    other = Curve(("neck",), STEPLR.corners, STEPLR.drops)
    head = Curve(("head",), ((0, 0.1), (600, 0.1)))
    svg = draw_svg([STEPLR, other, head], "")

    assert len(curves_in(svg)) == 2
    assert {"all, neck", "head"} <= {*texts_of(svg)}
    strokes = re.findall(r'class="lr"[^>]*stroke="(#\w+)"[^>]*?(?:stroke-dasharray="([^"]*)")?>', svg)
    assert len({color for color, _ in strokes}) == len({dashes for _, dashes in strokes}) == 2


@pytest.mark.parametrize(
    "corners",
    [
        ((0, 0.0), (10, 0.0)),
        ((0, -1.0), (5, 2.0), (10, 2.0)),
        ((0, math.nan), (3, 1.0), (10, math.inf)),
        ((0, math.nan), (1, math.nan)),
        ((0, 1e-320), (10, 1e300)),
        ((7, 1e-3), (8, 1e-3)),
        ((0, 0.1), (5, 0.0), (10, 0.0)),
    ],
)
def test_no_lr_is_too_strange_to_be_drawn(corners: tuple[tuple[int, float], ...]) -> None:
    """All zero, negative, not finite, subnormal, a single step: well-formed, with nothing outside of the picture."""
    svg = draw_svg([Curve(("a<b>&c",), corners)], "<title> & more")
    page = curve_page([Curve(("a</script>",), corners)], "<title>", "<text>")

    numbers = [float(number) for path in curves_in(svg) for number in re.findall(r"-?[\d.]+", path)]
    assert all(0 <= number <= max(WIDTH, HEIGHT) for number in numbers)
    assert page.count("</script>") == 2
    data = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])[0]["label"] == "a</script>"


def test_many_groups_have_a_legend_that_ends() -> None:
    """A hundred of them: twelve names, and how many more there are."""
    texts = texts_of(draw_svg([Curve((f"layer{i}",), ((0, 1.0 + i), (9, 1.0 + i))) for i in range(100)], ""))

    assert "layer11" in texts
    assert "layer12" not in texts
    assert "and 88 more" in texts


def test_ticks_are_few_and_within() -> None:
    """Whatever the values: between two and nine, ascending, within the axis."""
    for low, high in ((1e-8, 1e-2), (0.001, 0.0011), (1e-300, 1e300), (0.5, 0.5)):
        scale = Scale([low, high])
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 9
        assert ticks == sorted(ticks)
        assert scale.low <= ticks[0] < ticks[-1] <= scale.high
