"""Learning rates as a picture in SVG. Drawn here, as every run gets one: a drawing library takes a second to import."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lrtape.colors import style_of
from lrtape.lines import format_lr

WIDTH, HEIGHT = 840, 380
"""In pixels, at its own size."""
MAX_CURVES = 50
"""More cannot be told apart."""
MAX_LABELLED = 12
"""Curves in the legend, and steps of drops with their numbers; more cannot be read."""
MAX_DROPS = 80
"""Of which the steps are marked at all."""

_LEFT, _TOP, _BOTTOM, _GAP = 76, 44, 48, 28
_CHARACTER = 6.6
"""Width of one, about, in pixels."""
_MAX_NAME_CHARACTERS = 34
_MAX_NAMES = 3
_FEWEST_DECADES = 1.0
"""Less of a logarithmic axis is hard to read: it is made so long."""
_MAX_TICKS = 8
_LEAST_POWER, _LARGEST_POWER, _LARGEST = -307.0, 300.0, 1e300
"""Of ten, that a float holds with all its digits."""
_INK, _PALE, _GRID = "#1f2328", "#6b7280", "#e2e5ea"


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn of one lr, or of several that are the same.

    Attributes:
        names: of the param groups.
        corners: steps, from 0, and learning rates; each holds until the next corner. At least one.
        drops: steps at which it falls.
    """

    names: tuple[str, ...]
    corners: Sequence[tuple[int, float]]
    drops: Sequence[int] = ()

    @property
    def label(self) -> str:
        """Its names, as many as a legend has room for."""
        shown = [_shortened(name) for name in self.names[:_MAX_NAMES]]
        rest = len(self.names) - len(shown)
        return ", ".join(shown) + (f" and {rest} more" if rest else "")


def curves_alike(curves: Sequence[Curve]) -> list[Curve]:
    """The same curves, those with equal corners together as one."""
    together: dict[tuple[tuple[int, float], ...], list[Curve]] = {}
    for curve in curves:
        together.setdefault(tuple(curve.corners), []).append(curve)
    return [
        Curve(tuple(name for curve in alike for name in curve.names), alike[0].corners, alike[0].drops)
        for alike in together.values()
    ]


class Scale:
    """The vertical axis: logarithmic, unless a value is negative or none is above 0.

    Args:
        values: all that are drawn; those that are not finite count for nothing.

    Attributes:
        is_log: whether it is logarithmic; then a value of 0 is drawn at its lower end.
        low: its lower end.
        high: its upper end; above `low`.
    """

    def __init__(self, values: Sequence[float]) -> None:
        finite = [max(-_LARGEST, min(value, _LARGEST)) for value in values if math.isfinite(value)]
        positive = [value for value in finite if value > 0]
        self.is_log = bool(positive) and min(finite) >= 0
        if self.is_log:
            least, largest = math.log10(min(positive)), math.log10(max(positive))
            margin = max(0.05 * (largest - least), (_FEWEST_DECADES - (largest - least)) / 2)
            self._floor = max(least - margin - (0.3 if min(finite) == 0 else 0.0), _LEAST_POWER)
            self._ceiling = min(largest + margin, _LARGEST_POWER)
            self.low, self.high = 10.0**self._floor, 10.0**self._ceiling
        else:
            low, high = min(finite, default=0.0), max(finite, default=0.0)
            margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
            self._floor, self._ceiling = self.low, self.high = low - margin, high + margin

    def share(self, value: float) -> float:
        """Where a value is drawn: from 0 at the lower end to 1 at the upper one."""
        value = max(self.low, min(value, self.high))
        place = math.log10(value) if self.is_log else value
        return (place - self._floor) / (self._ceiling - self._floor)

    def ticks(self) -> list[float]:
        """The values that are labelled."""
        if not self.is_log:
            return nice_ticks(self.low, self.high)
        first, last = math.ceil(self._floor), math.floor(self._ceiling)
        every = max(1, math.ceil((last - first + 1) / _MAX_TICKS))
        factors = (1, 2, 5) if self._ceiling - self._floor < 2 else (1,)
        values = [float(f"{factor}e{power}") for power in range(first - 1, last + 1, every) for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


def nice_ticks(low: float, high: float) -> list[float]:
    """Round values between two: multiples of 1, 2 or 5 times a power of ten, at most `_MAX_TICKS` of them."""
    rough = (high - low) / (_MAX_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [index * width for index in range(math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9) + 1)]


def draw_svg(curves: Sequence[Curve], title: str) -> str:
    """Draw learning rates over the steps that used them: each is held until the next step.

    Takes about a millisecond for each thousand corners. The steps at which an lr drops are marked.

    Args:
        curves: at least one; of those that differ, the first `MAX_CURVES` are drawn.
        title: above the picture.
    """
    curves = curves_alike(curves)
    n_left_out = max(0, len(curves) - MAX_LABELLED)
    curves = curves[:MAX_CURVES]
    scale = Scale([lr for curve in curves for _, lr in curve.corners])
    steps = [step for curve in curves for step, _ in (curve.corners[0], curve.corners[-1])]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    has_legend = len(curves) > 1 or len(curves[0].names) > 1
    longest = max(len(curve.label) for curve in curves[:MAX_LABELLED])
    right = WIDTH - (_GAP + (40 + longest * _CHARACTER if has_legend else 0))

    def x(step: float) -> float:
        return round(_LEFT + (step - first) / (last - first) * (right - _LEFT), 1)

    def y(lr: float) -> float:
        return round(HEIGHT - _BOTTOM - scale.share(lr) * (HEIGHT - _BOTTOM - _TOP), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-weight="600">{escape(title)}</text>',
        *_axes(scale, first, last, right, x, y),
        *_drops(curves, x),
        *(_path(curve, index, x, y) for index, curve in enumerate(curves)),
        *(_legend(curves, right, n_left_out) if has_legend else ()),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _axes(
    scale: Scale, first: int, last: int, right: float, x: Callable[[float], float], y: Callable[[float], float]
) -> Iterator[str]:
    floor = HEIGHT - _BOTTOM
    for lr in scale.ticks():
        yield f'<path d="M{_LEFT} {y(lr)}H{right:g}" stroke="{_GRID}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y(lr) + 4:g}" text-anchor="end">{format_lr(lr)}</text>'
    for step in nice_ticks(first, last):
        if step == int(step):
            yield f'<path d="M{x(step)} {floor}v5" stroke="{_PALE}"/>'
            yield f'<text x="{x(step)}" y="{floor + 18}" text-anchor="middle">{int(step):,}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{floor}H{right:g}" fill="none" stroke="{_PALE}"/>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle:g}" y="{HEIGHT - 10}" text-anchor="middle" fill="{_PALE}">optimizer step, from 0</text>'
    turned = f'transform="rotate(-90 14 {(floor + _TOP) / 2:g})"'
    yield (
        f'<text x="14" y="{(floor + _TOP) / 2:g}" text-anchor="middle" fill="{_PALE}" {turned}>lr that the step '
        "uses</text>"
    )


def _drops(curves: Sequence[Curve], x: Callable[[float], float]) -> Iterator[str]:
    steps = sorted({step for curve in curves for step in curve.drops})
    if len(steps) > MAX_DROPS:
        return
    end_of_label = -math.inf
    for step in steps:
        yield f'<path class="drop" d="M{x(step)} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{_PALE}" stroke-dasharray="1 4"/>'
        half = len(f"{step:,}") * _CHARACTER / 2
        if len(steps) <= MAX_LABELLED and x(step) - half > end_of_label:
            yield f'<text x="{x(step)}" y="{_TOP - 6}" text-anchor="middle" fill="{_PALE}">{step:,}</text>'
            end_of_label = x(step) + half + 4


def _path(curve: Curve, index: int, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    parts: list[str] = []
    at = None
    for step, lr in curve.corners:
        if not math.isfinite(lr):
            at = None
        elif at is None:
            at = x(step), y(lr)
            parts.append(f"M{at[0]} {at[1]}")
        elif (x(step), y(lr)) != at:
            parts += [f"H{x(step)}"] if x(step) != at[0] else []
            parts += [f"V{y(lr)}"] if y(lr) != at[1] else []
            at = x(step), y(lr)
    color, dashes = style_of(index)
    dashed = f' stroke-dasharray="{" ".join(map(str, dashes))}"' if dashes else ""
    return (
        f'<path class="lr" d="{"".join(parts)}" fill="none" stroke="{color}" stroke-width="2"{dashed}>'
        f"<title>{escape(curve.label)}</title></path>"
    )


def _legend(curves: Sequence[Curve], right: float, n_left_out: int) -> Iterator[str]:
    left = right + 12
    for index, curve in enumerate(curves[:MAX_LABELLED]):
        color, dashes = style_of(index)
        top = _TOP + 8 + 20 * index
        dashed = f' stroke-dasharray="{" ".join(map(str, dashes))}"' if dashes else ""
        yield f'<path d="M{left:g} {top}h24" stroke="{color}" stroke-width="2"{dashed}/>'
        yield f'<text x="{left + 30:g}" y="{top + 4}">{escape(curve.label)}</text>'
    if n_left_out:
        top = _TOP + 12 + 20 * MAX_LABELLED
        yield f'<text x="{left:g}" y="{top}" fill="{_PALE}">and {n_left_out} more</text>'


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[: _MAX_NAME_CHARACTERS // 2]}...{name[-14:]}"
