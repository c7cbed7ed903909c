"""A tape as text for a terminal: curves, drawn by plotille, and a table.

plotille, a small library in pure Python, is imported when something is drawn.
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from string import ascii_letters

from lrtape.lines import format_lr
from lrtape.tape import Series, Tape

MAX_CHANGES = 8
"""Of one lr, listed below the table, beside its first and its last value."""
MAX_CHANGES_OF_A_SMOOTH_LR = 2
"""The same, where it changes at most of its steps."""
MAX_NAMES = 8
"""Of the keys that share one line of text."""

_MARGIN = 24
"""Columns that plotille takes for the y axis and the name of the x axis."""
_COLUMNS_A_TICK = 10
_DOTS_A_LINE = 4
_COLUMNS_A_LETTER = 3
_MIN_COLUMNS_BETWEEN_LETTERS = 24
_COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_EMPTY_BRAILLE = "\u2800"
_MAX_DRAWN = 1e300
"""Differences of larger values are not finite."""
_FLAT = 1e-9
"""Relative differences that are too small to be drawn."""


def plot(
    tape: Tape, width: int = 100, height: int = 16, *, log: bool | None = None, color: bool = False, y_label: str = "lr"
) -> str:
    """Draw every key of a tape over its steps. A value is drawn up to the next step, and a peak of one step is visible.

    Keys whose values are the same at every step share a curve. Several curves are told apart by letters.

    Args:
        tape: ``tape.lr``, to see the learning rates alone.
        width: of the terminal, in columns; 40 at least.
        height: of the curves, in lines.
        log: whether the y axis is logarithmic; by default it is where all values are greater than 0.
        color: whether to use color codes, for a terminal; never where ``$NO_COLOR`` is set.
        y_label: of the y axis, 8 characters at most.

    Returns:
        Lines without a last line break; where no value is finite, a line that says so.

    Raises:
        ValueError: `log` is asked for, but a value is not greater than 0.
    """
    import plotille

    curves = [(names, _drawable(tape[names[0]])) for names in _by_curve(tape)]
    curves = [(names, series) for names, series in curves if len(series)]
    if not curves:
        return "There is no finite value to draw."
    drawn = [series for _, series in curves]
    lowest = min(min(series.values) for series in drawn)
    if log and lowest <= 0:
        raise ValueError(f"a logarithmic axis needs values greater than 0, but one is {lowest} instead.")
    x_axis = _XAxis.over(drawn, max(width - _MARGIN, _COLUMNS_A_TICK))
    y_axis = _YAxis.over(drawn, height, lowest > 0 if log is None else log)
    figure = plotille.Figure()
    figure.with_colors = color
    figure.origin = False
    figure.linesep = "\n"
    figure.width, figure.height = x_axis.columns, height
    figure.x_label, figure.y_label = "step", y_label
    figure.set_x_limits(0, 2 * x_axis.columns)
    figure.set_y_limits(y_axis.low, y_axis.high)
    figure.x_ticks_fkt = lambda dot, _: str(x_axis.step(round(dot)))
    figure.y_ticks_fkt = lambda low, _: y_axis.label(low)
    legend = []
    for index, (names, series) in enumerate(curves):
        letter = ascii_letters[index % len(ascii_letters)] if len(curves) > 1 else ""
        curve_color = _COLORS[index % len(_COLORS)]
        corners = list(_vertices(series, x_axis, y_axis))
        figure.plot([dot for dot, _ in corners], [level for _, level in corners], lc=curve_color)
        if letter:
            at = list(_letter_positions(corners, x_axis.columns, index, len(curves)))
            figure.text([dot for dot, _ in at], [level for _, level in at], [letter] * len(at), lc=curve_color)
        mark = plotille.color(letter or "-", fg=curve_color, no_color=not color)
        legend.append(f"  {mark}  {_some([name.removeprefix('lr/') for name in names])}")
    lines = figure.show().replace(_EMPTY_BRAILLE, " ").split("\n")
    lines[1:2] = []  # an empty line above the highest value
    return "\n".join([*(line.rstrip() for line in lines), *legend])


def table(tape: Tape) -> str:
    """One row for each key, and below them when each lr changes: its first steps, and the last one.

    Returns:
        Lines without a last line break.
    """
    head = ("key", "rows", "first step", "last step", "first", "last", "peak", "at step", "changes", "not finite")
    rows = [_row(key, series) for key, series in tape.items()]
    n_columns = len(head) - all(row[-1] == "0" for row in rows)
    rows = [row[:n_columns] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    for names in _by_curve(tape.lr):
        lines += ["", _some(names), f"  {_changes(tape[names[0]])}"]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _XAxis:
    """Steps from `first` to `end`, exclusive, over so many columns of two dots each."""

    first: int
    end: int
    columns: int

    @classmethod
    def over(cls, curves: Sequence[Series], max_columns: int) -> "_XAxis":
        """A whole number of steps lies between two ticks, of two digits where there are many."""
        first = min(series.steps[0] for series in curves)
        n_steps = max(series.steps[-1] for series in curves) + 1 - first
        n_ticks = max_columns // _COLUMNS_A_TICK
        steps_a_tick = math.ceil(n_steps / n_ticks)
        round_to = 10 ** max(0, len(str(steps_a_tick)) - 2)
        steps_a_tick = math.ceil(steps_a_tick / round_to) * round_to
        n_ticks = math.ceil(n_steps / steps_a_tick)
        return cls(first, first + n_ticks * steps_a_tick, n_ticks * _COLUMNS_A_TICK)

    def dot(self, step: int) -> int:
        """Which dot shows `step`, from 0 on the left."""
        return (step - self.first) * 2 * self.columns // (self.end - self.first)

    def step(self, dot: int) -> int:
        """The first step that `dot` shows."""
        return self.first - (-dot * (self.end - self.first) // (2 * self.columns))


@dataclass(frozen=True, slots=True)
class _YAxis:
    """From `low` to `high`, exclusive, of values or of their decimal logarithms; `labels` are by line, from 0 below."""

    low: float
    high: float
    is_log: bool
    lines: int
    labels: dict[int, str]

    @classmethod
    def over(cls, curves: Sequence[Series], lines: int, is_log: bool) -> "_YAxis":
        """Where there are few values, each is labelled; else round ones are."""
        low, high = min(min(series.values) for series in curves), max(max(series.values) for series in curves)
        axis = cls(0.0, 1.0, is_log, lines, {})
        begin, end = axis.of(low), axis.of(high)
        dots = _DOTS_A_LINE * lines
        if end - begin > _FLAT * max(abs(begin), abs(end)):
            dot = (end - begin) / (dots - 3)  # one is free below, and one above
            axis = cls(begin - dot, begin + (dots - 1) * dot, is_log, lines, {})
        else:
            margin = 0.5 if is_log else abs(end) / 10 or 1.0
            axis = cls(begin - margin, end + margin, is_log, lines, {})
        levels = _few_levels(curves, lines)
        for value in sorted(levels) or _round_values(low, high, lines, is_log):
            line = round((axis.of(value) - axis.low) / (axis.high - axis.low) * dots) // _DOTS_A_LINE
            near = {line} if levels else {line - 1, line, line + 1}
            if not near & axis.labels.keys():
                axis.labels[line] = f"{value:.4g}"
        return axis

    def of(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def label(self, low: float) -> str:
        """Of the line that begins at `low`."""
        return self.labels.get(round((low - self.low) / (self.high - self.low) * self.lines), "")


def _few_levels(curves: Sequence[Series], at_most: int) -> set[float]:
    """The different values of the curves; none where there are more than `at_most`."""
    levels: set[float] = set()
    for value in chain.from_iterable(series.values for series in curves):
        levels.add(value)
        if len(levels) > at_most:
            return set()
    return levels


def _round_values(low: float, high: float, lines: int, is_log: bool) -> Iterator[float]:
    """Values that are easily read, between `low` and `high`, the roundest first."""
    if is_log and high >= 4 * low:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 5, 2):
            yield from (float(f"{digit}e{decade}") for decade in decades if low <= float(f"{digit}e{decade}") <= high)
        return
    rough = max((high - low) * 3 / lines, sys.float_info.min)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * unit for digit in (1, 2, 5, 10) if digit * unit >= rough)
    yield from (n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1))


def _vertices(series: Series, x_axis: _XAxis, y_axis: _YAxis) -> Iterator[tuple[int, float]]:
    """The corners of a curve of steps: in each column of dots the first, lowest, highest and last value."""
    level: float | None = None
    begin = 0
    while begin < len(series):
        dot = x_axis.dot(series.steps[begin])
        end = bisect_left(series.steps, x_axis.step(dot + 1), begin)
        values = series.values[begin:end]
        if level is not None:
            yield dot, level
        yield from ((dot, y_axis.of(value)) for value in (values[0], min(values), max(values), values[-1]))
        level = y_axis.of(values[-1])
        begin = end
    if level is not None:
        yield max(dot, x_axis.dot(series.steps[-1] + 1) - 1), level  # the last value, for the length of a step


def _letter_positions(
    corners: Sequence[tuple[int, float]], columns: int, index: int, n_curves: int
) -> Iterator[tuple[int, float]]:
    """Where a curve gets its letter: again and again, and, where there is room, not where another curve has one."""
    dots = [dot for dot, _ in corners]
    period = max(_MIN_COLUMNS_BETWEEN_LETTERS, _COLUMNS_A_LETTER * n_curves)
    at = [2 * column for column in range(_COLUMNS_A_LETTER * index + 1, columns, period)]
    for dot in [dot for dot in at if dots[0] <= dot <= dots[-1]] or [dots[len(dots) // 2]]:
        yield dot, corners[bisect_left(dots, dot + 1) - 1][1]


def _by_curve(tape: Tape) -> list[list[str]]:
    """The keys, those together that have the same value at every step."""
    by_curve: dict[tuple[bytes, bytes], list[str]] = {}
    for key, series in tape.items():
        by_curve.setdefault((series.steps.tobytes(), series.values.tobytes()), []).append(key)
    return list(by_curve.values())


def _drawable(series: Series) -> Series:
    if all(map(_is_drawable, series.values)):
        return series
    drawable = Series()
    for step, time_ms, value in zip(series.steps, series.times_ms, series.values, strict=True):
        if _is_drawable(value):
            drawable.steps.append(step)
            drawable.times_ms.append(time_ms)
            drawable.values.append(value)
    return drawable


def _is_drawable(value: float) -> bool:
    return abs(value) < _MAX_DRAWN  # which neither NaN nor infinity is


def _row(key: str, series: Series) -> tuple[str, ...]:
    values = series.values
    peak, at = max(
        ((value, -step) for value, step in zip(values, series.steps, strict=True) if not math.isnan(value)),
        default=(math.nan, 0),
    )
    return (
        key,
        *(f"{number:,}" for number in (len(series), series.steps[0], series.steps[-1])),
        *(format_lr(value) for value in (values[0], values[-1], peak)),
        f"{-at:,}",
        f"{sum(1 for _ in _changed(values)):,}",
        f"{sum(1 for value in values if not math.isfinite(value)):,}",
    )


def _changed(values: Iterable[float]) -> Iterator[int]:
    """The indices at which the value is not the one before; NaN after NaN is no change."""
    for index, (before, value) in enumerate(pairwise(values), start=1):
        if before != value and not (math.isnan(before) and math.isnan(value)):
            yield index


def _changes(series: Series) -> str:
    indices = list(_changed(series.values))
    if not indices:
        return f"{format_lr(series.values[0])} throughout"
    is_smooth = len(indices) > MAX_CHANGES and 2 * len(indices) > len(series)
    n_shown = MAX_CHANGES_OF_A_SMOOTH_LR if is_smooth else MAX_CHANGES
    texts = [f"step {series.steps[index]}: {format_lr(series.values[index])}" for index in [0, *indices[:n_shown]]]
    if len(indices) > n_shown:
        texts.append(f"... {len(indices) - n_shown:,} more changes ...")
    return "  ".join([*texts, f"last step {series.steps[-1]}: {format_lr(series.values[-1])}"])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
