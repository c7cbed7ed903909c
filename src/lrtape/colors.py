"""Colors of curves and runs, which people tell apart who do not see all colors."""

RUNS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Those of M. Okabe and K. Ito, "Color Universal Design", 2008: blue, vermilion, bluish green, reddish purple, orange,
sky blue; without their yellow and their black, which are not seen upon a white and upon a dark page."""
CURVES = (*RUNS, "#000000")
"""In a picture of ours, which is white."""
DASHES = ((), (8, 4), (2, 3), (10, 3, 2, 3))
"""Lengths of lines and gaps, in pixels: they tell curves apart that lie upon one another, or are printed in grey."""


def style_of(index: int) -> tuple[str, tuple[int, ...]]:
    """Color and dashes of the curve with this index, from 0; the first 28 have a pair each that no other has."""
    return CURVES[index % len(CURVES)], DASHES[(index + index // 28) % len(DASHES)]
