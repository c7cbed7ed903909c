"""The colors of a sweep's pictures: the better, the darker. Told apart without seeing colors, and in print."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtape.trials import MAX

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINNER = "#d95f02"
"""Orange: seen before everything that is drawn in viridis."""
FAILED_COLOR = "#777777"
DPI = 100
MAX_WIDTH_INCHES = 9.4
"""MLflow shows a picture as wide as it is, and no more than this of it beside its assistant."""

_FAR = 10.0
"""A point that is so many times as far from the best as the median is has its color clipped: it has diverged, say."""
_DARK = 0.55
"""Luminance below which white text can be read."""


@dataclass(frozen=True, slots=True)
class Palette:
    """From an objective to a color.

    Attributes:
        best: end of the scale.
        worst: other end of the scale; what is worse still, as some point has diverged, has the same color.
        is_clipped: whether there is something worse.
    """

    best: float
    worst: float
    is_clipped: bool = False

    @classmethod
    def over(cls, values: Sequence[float], direction: str) -> "Palette":
        """Of the values of all points: at least one."""
        sign = -1.0 if direction == MAX else 1.0
        costs = sorted(sign * value for value in values)
        fence = costs[0] + _FAR * (statistics.median(dict.fromkeys(costs)) - costs[0])
        worst = max(cost for cost in costs if cost <= fence)
        return cls(sign * costs[0], sign * worst, costs[-1] > worst)

    def color(self, value: float) -> Any:
        """As matplotlib takes it."""
        return self._mappable().to_rgba(value)

    def text_color(self, value: float) -> str:
        """Of a text upon that color."""
        red, green, blue, _ = self.color(value)
        return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < _DARK else "black"

    def limits(self, others: Iterable[float] = ()) -> tuple[float, float]:
        """Of an axis of objectives that shows `others`, too, but not what is clipped; with a little room."""
        low, high = sorted((self.best, self.worst))
        if not self.is_clipped:
            low, high = min(low, *others, high), max(low, *others, high)
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        return low - room, high + room

    def add_scale(self, axes: "Axes | Sequence[Axes]", objective: str) -> None:
        """Draw the scale of the colors beside some axes."""
        from matplotlib.ticker import MaxNLocator

        axes = list(axes) if isinstance(axes, Sequence) else [axes]
        figure = axes[0].figure
        extend = "neither" if not self.is_clipped else "max" if self.worst > self.best else "min"
        bar = figure.colorbar(self._mappable(), ax=axes, extend=extend, pad=0.02, aspect=30)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
        bar.set_label(f"{objective} (dark is better)")

    def _mappable(self) -> Any:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize

        low, high = sorted((self.best, self.worst))
        if low == high:
            high = low + (abs(low) or 1.0) * 1e-6
        shades = [0.92 * index / 255 for index in range(256)]  # the palest yellow is not seen upon white
        if self.best > self.worst:
            shades.reverse()
        ramp = LinearSegmentedColormap.from_list("objective", colormaps["viridis"](shades))
        return ScalarMappable(Normalize(low, high), ramp)
