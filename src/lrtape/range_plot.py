"""The curve of an LR range test, loss against lr, as text for a terminal and as a picture.

plotille and matplotlib are imported when something is drawn.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from lrtape.lines import format_lr
from lrtape.range_curve import RangeResult

_MARGIN = 24
"""Columns that plotille takes for the y axis and the name of the x axis."""
_COLUMNS_A_TICK = 10
_HEADROOM = 0.25
"""Above the losses of interest, as a share of their range: an explosion would make the rest of the curve a line."""
_EMPTY_BRAILLE = "\u2800"
_SMOOTHED, _RAW, _STEEPEST, _LOWEST, _DIVERGED = (
    "smoothed loss, without its lag",
    "loss of each step",
    "steepest",
    "lowest",
    "diverged",
)


def plot_range(result: RangeResult, width: int = 100, height: int = 18, color: bool = False) -> str:
    """Draw loss against lr, whose axis is logarithmic: the losses as dots, the smoothed one as a curve.

    Args:
        result: of `lr_range`.
        width: of the terminal, in columns; 50 at least.
        height: of the curve, in lines.
        color: whether to use color codes, for a terminal.

    Returns:
        Lines without a last line break; where no loss is finite, a line that says so.
    """
    import plotille

    limits = _limits(result)
    if limits is None:
        return "There is no finite loss to draw."
    low, high = limits
    x_axis = _XAxis.over(result.lrs[0], result.lrs[-1], max(width - _MARGIN, _COLUMNS_A_TICK) // _COLUMNS_A_TICK)
    figure = plotille.Figure()
    figure.with_colors = color
    figure.origin = False
    figure.linesep = "\n"
    figure.width, figure.height = x_axis.n_ticks * _COLUMNS_A_TICK, height
    figure.x_label, figure.y_label = "lr", "loss"
    figure.set_x_limits(x_axis.left, x_axis.left + x_axis.n_ticks * x_axis.decades_a_tick)
    figure.set_y_limits(low, high)
    figure.x_ticks_fkt = lambda exponent, _: format_lr(float(f"{10**exponent:.2g}"))
    figure.y_ticks_fkt = lambda loss, _: f"{loss:.3g}"
    raw = [(lr, loss) for lr, loss in zip(result.lrs, result.losses, strict=True) if low <= loss <= high]
    smoothed = [(lr, loss) for lr, loss in result.aligned() if low <= loss <= high]
    figure.scatter([math.log10(lr) for lr, _ in raw], [loss for _, loss in raw], lc="blue")
    figure.plot([math.log10(lr) for lr, _ in smoothed], [loss for _, loss in smoothed], lc="cyan")
    legend = ["  dots: the loss of each step; line: smoothed, without its lag"]
    line = (high - low) / height
    for letter, name, step in _marks(result):
        level = min(max(_level(result, step), low), high - line)  # plotille fails on a text at the edge
        figure.text([math.log10(result.lrs[step])], [level], [letter], lc="red")
        legend.append(f"  {letter}  {name}: lr {format_lr(result.lrs[step])}")
    lines = figure.show().replace(_EMPTY_BRAILLE, " ").split("\n")
    return "\n".join([*(line.rstrip() for line in lines), *legend])


def draw_range(result: RangeResult, path: str | Path, title: str = "LR range test") -> None:
    """Save the same as a picture, in the format that the end of `path` names: png, svg, pdf.

    Args:
        result: of `lr_range`.
        path: of the file; its folder must be there.
        title: above the picture.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps figures and chooses a window system

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set(xlabel="lr", ylabel="loss", title=title)
    axes.plot(result.lrs, result.losses, ".", color="tab:gray", alpha=0.45, markersize=5, label=_RAW)
    aligned = [(lr, loss) for lr, loss in result.aligned() if math.isfinite(loss)]
    axes.plot([lr for lr, _ in aligned], [loss for _, loss in aligned], color="tab:blue", linewidth=2, label=_SMOOTHED)
    looks = {
        _STEEPEST: ("tab:green", "-", "suggestion, steepest descent"),
        _LOWEST: ("tab:orange", ":", "lowest smoothed loss"),
        _DIVERGED: ("tab:red", "--", "diverged"),
    }
    for _, name, step in _marks(result):
        line_color, style, text = looks[name]
        label = f"{text}: {format_lr(result.lrs[step])}"
        axes.axvline(result.lrs[step], color=line_color, linestyle=style, label=label)
        if name == _STEEPEST:
            axes.plot(result.lrs[step], _level(result, step), "o", color=line_color, markersize=9)
    if (limits := _limits(result)) is not None:
        axes.set_ylim(*limits)
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="best")
    target = Path(path)
    new = target.with_name(f".new-{target.name}")
    figure.savefig(new, dpi=150)
    new.replace(target)  # The one before may be kept for another run.


def _marks(result: RangeResult) -> list[tuple[str, str, int]]:
    """Letter, name and step of what is marked; the lowest loss only where it can be compared with a suggestion."""
    marks = [("S", _STEEPEST, result.steepest), ("D", _DIVERGED, result.diverged_at)]
    if result.steepest is not None:
        marks.insert(1, ("L", _LOWEST, result.lowest))
    return [(letter, name, step) for letter, name, step in marks if step is not None]


def _limits(result: RangeResult) -> tuple[float, float] | None:
    """The lowest and the highest loss that is drawn."""
    end = len(result.lrs) if result.lowest is None else result.smoothed.index(result.lowest_loss) + 1
    raw = [loss for loss in result.losses if math.isfinite(loss)]
    smoothed = [loss for loss in result.smoothed[:end] if math.isfinite(loss)]
    if not raw or not smoothed:
        return None
    low, high = min(raw), max(smoothed)
    span = max(high - low, 1e-3 * abs(high)) or 1.0
    return low - 0.05 * span, high + _HEADROOM * span


def _level(result: RangeResult, step: int) -> float:
    """Of the curve that is drawn, at the lr of `step`."""
    log_lr = math.log(result.lrs[step])
    _, loss = min(result.aligned(), key=lambda point: abs(math.log(point[0]) - log_lr))
    return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True, slots=True)
class _XAxis:
    """From the decimal logarithm `left`, so many ticks of so many decades each."""

    left: float
    decades_a_tick: float
    n_ticks: int

    @classmethod
    def over(cls, low: float, high: float, max_ticks: int) -> "_XAxis":
        """Ticks are at whole decades, or at halves or quarters of them."""
        left, right = math.log10(low), math.log10(high)
        for decades in (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 1000.0):
            first = math.floor(left / decades + 1e-9)
            n_ticks = max(math.ceil(right / decades - 1e-9) - first, 1)
            if n_ticks <= max_ticks:
                break
        return cls(first * decades, decades, n_ticks)
