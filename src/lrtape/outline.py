"""What is drawn of a learning rate: few points that look like all of them, found while they come, in little memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from lrtape.tape import Series

MAX_CORNERS = 4_000
"""Of one curve; more cannot be seen."""

_CORNERS_PER_STRETCH = 4


@dataclass(slots=True)
class _Stretch:
    """Some steps that follow one another: the first, the last, and the first ones with the least and the largest lr."""

    first: tuple[int, float]
    least: tuple[int, float]
    largest: tuple[int, float]
    last: tuple[int, float]

    def corners(self) -> list[tuple[int, float]]:
        """In the order of their steps."""
        return sorted({self.first, self.least, self.largest, self.last})

    def extend(self, other: "_Stretch") -> None:
        """Take in the steps that follow."""
        if other.least[1] < self.least[1]:
            self.least = other.least
        if other.largest[1] > self.largest[1]:
            self.largest = other.largest
        self.last = other.last


class Outline:
    """The outline of one curve.

    A curve of few rows is kept as it is. Of a longer one, the rows are taken together in stretches of equal numbers of
    rows, twice as many in each whenever there are too many stretches; of each stretch its ends and its extremes are
    kept. So no spike is lost, however long the curve is, though it is drawn as wide as its stretch; and a jump stays at
    its step where a stretch has one.

    Args:
        max_corners: that are kept at most; about half as many at least, of a long curve.
    """

    def __init__(self, max_corners: int = MAX_CORNERS) -> None:
        self._max_stretches = max(2, max_corners // _CORNERS_PER_STRETCH)
        self._stretches: list[_Stretch] = []
        self._rows_per_stretch = 1
        self._room = 0
        """How many rows the last stretch can still take."""

    @classmethod
    def of(cls, series: Series, max_corners: int = MAX_CORNERS) -> "Outline":
        """Of a whole series."""
        outline = cls(max_corners)
        for step, value in zip(series.steps, series.values, strict=True):
            outline.add(step, value)
        return outline

    def add(self, step: int, value: float) -> None:
        """Add the next row, of a larger step; takes about half a microsecond."""
        point = (step, value)
        if self._room:
            self._room -= 1
            stretch = self._stretches[-1]
            stretch.last = point
            least, largest = stretch.least[1], stretch.largest[1]
            if value < least or least != least:  # which is NaN
                stretch.least = point
            if value > largest or largest != largest:
                stretch.largest = point
            return
        if len(self._stretches) >= self._max_stretches:
            self._merge()
            if self._room:
                self.add(step, value)
                return
        self._stretches.append(_Stretch(point, point, point, point))
        self._room = self._rows_per_stretch - 1

    def _merge(self) -> None:
        """Make one stretch of every two."""
        merged = self._stretches[::2]
        for stretch, following in zip(merged, self._stretches[1::2], strict=False):
            stretch.extend(following)
        is_odd = len(self._stretches) % 2
        self._stretches = merged
        self._room = self._rows_per_stretch if is_odd else 0
        self._rows_per_stretch *= 2

    def corners(self) -> Iterator[tuple[int, float]]:
        """Steps and values, each of which holds until the next step; at last the end of the last step."""
        for stretch in self._stretches:
            yield from stretch.corners()
        if self._stretches:
            step, value = self._stretches[-1].last
            yield step + 1, value
