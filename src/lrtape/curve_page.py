"""Learning rates as a page to look into: one file of HTML that needs nothing else, not even a network."""

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from lrtape.colors import style_of
from lrtape.curve_svg import MAX_CURVES, MAX_DROPS, Curve, curves_alike


def curve_page(curves: Sequence[Curve], title: str, text: str = "") -> str:
    """A page on which a person reads the lr of every step, looks closer, and hides groups.

    Args:
        curves: at least one, of which `MAX_CURVES` that differ are in the page; what lies between the corners is not.
        title: above the picture.
        text: for below it: lines of fixed width.
    """
    plain = [_plain(curve, index) for index, curve in enumerate(curves_alike(curves)[:MAX_CURVES])]
    data = json.dumps(plain).replace("<", "\\u003c")  # in a name it shall not end the script
    page = (files("lrtape") / "curve.html").read_text(encoding="utf-8")
    for place, content in (("__TITLE__", escape(title)), ("__TEXT__", escape(text)), ("__CURVES__", data)):
        page = page.replace(place, content)
    return page


def _plain(curve: Curve, index: int) -> dict[str, object]:
    color, dashes = style_of(index)
    return {
        "label": curve.label,
        "color": color,
        "dashes": dashes,
        "drops": list(curve.drops)[: MAX_DROPS + 1],
        "steps": [step for step, _ in curve.corners],
        "lrs": [lr if math.isfinite(lr) else None for _, lr in curve.corners],  # JSON has no NaN
    }
