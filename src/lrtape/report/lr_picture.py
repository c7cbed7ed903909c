"""``lr_curves.png``: the learning rates of all points of a sweep, one upon another."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lrtape.leaderboard import Leaderboard
from lrtape.lines import format_lr
from lrtape.report.curves import Curve, PointCurves
from lrtape.report.palette import DPI, FAILED_COLOR, MAX_WIDTH_INCHES, WINNER, Palette

MAX_PANELS = 6
MAX_NAMES = 8
"""Points that a legend can tell apart; where there are more, only the best has a name."""

_HEIGHT = 4.2
_HEIGHT_OF_MANY = 3.0
_LOWEST_SHARE = 1e-6
"""Of the largest lr; an axis that shows less of a cosine's end shows nothing else."""


def draw_lr_curves(path: Path, board: Leaderboard, points: Sequence[PointCurves]) -> bool:
    """Draw one panel for each param group: every point's curve, the better the darker, and the winner on top of all.

    Groups that have the same learning rates in every point share a panel.

    Args:
        path: of a PNG file.
        board: of the sweep.
        points: at least one curve in each.

    Returns:
        Whether there was something to draw.
    """
    panels = _panels(points)
    if not panels:
        return False
    shown = panels[:MAX_PANELS]
    means = [point.standing.mean for point in points if point.standing.mean is not None]
    palette = Palette.over(means, board.direction) if means else None
    height = _HEIGHT if len(shown) == 1 else _HEIGHT_OF_MANY * len(shown)
    figure = Figure((MAX_WIDTH_INCHES, height + 0.9), layout="constrained")
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
    all_axes = [row[0] for row in grid]
    for axes, keys in zip(all_axes, shown, strict=True):
        _draw_panel(axes, keys, points, board, palette)
    all_axes[-1].set_xlabel("optimizer step, from 0")
    if len(panels) > len(shown):
        names = ", ".join(_names(keys) for keys in panels[len(shown) :])
        figure.text(0.01, 0.0, f"Not drawn: {names}.", fontsize="small", va="bottom")
    if palette is not None and len(set(means)) > 1:
        palette.add_scale(all_axes, board.objective)
    n_points = len(points)
    figure.suptitle(
        f"Learning rates of {n_points} point{'s' if n_points != 1 else ''}", x=0.01, ha="left", fontsize="large"
    )
    _add_legend(figure, board, points, palette)
    figure.savefig(path, dpi=DPI)
    return True


def _panels(points: Sequence[PointCurves]) -> list[list[str]]:
    """Keys of param groups, those together whose learning rates are the same in every point."""
    keys = dict.fromkeys(key for point in points for key in point.curves)
    panels: dict[tuple[object, ...], list[str]] = {}
    for key in keys:
        panels.setdefault(tuple(tuple(point.curves.get(key, ())) for point in points), []).append(key)
    return list(panels.values())


def _draw_panel(
    axes: Axes, keys: Sequence[str], points: Sequence[PointCurves], board: Leaderboard, palette: Palette | None
) -> None:
    values = [lr for point in points for curve in point.curves.get(keys[0], ()) for _, lr in curve if math.isfinite(lr)]
    highest = max(values, default=0.0)
    floor = 0.0
    if highest > 0 and min(values) >= 0:
        floor = max(min((lr for lr in values if lr > 0), default=highest), highest * _LOWEST_SHARE)
        axes.set_yscale("log")
        axes.set_ylim(floor / 1.6, highest * 1.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda lr, _: format_lr(lr)))
        if highest / floor < 100:
            axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    # The best ones are drawn last, on top.
    for point in reversed(points):
        for curve in point.curves.get(keys[0], ()):
            _draw_curve(axes, curve, floor, point, board, palette)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"param group {_names(keys)}", loc="left", fontsize="medium")
    axes.set_ylabel("lr that the step uses")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.margins(x=0.01)


def _draw_curve(
    axes: Axes, curve: Curve, floor: float, point: PointCurves, board: Leaderboard, palette: Palette | None
) -> None:
    mean = point.standing.mean
    style: dict[str, object] = {"color": FAILED_COLOR, "linestyle": ":", "linewidth": 1.2, "zorder": 2.0}
    if board.winner is not None and point.standing.name == board.winner.name:
        halo = [patheffects.Stroke(linewidth=5.0, foreground="white"), patheffects.Normal()]
        style = {"color": WINNER, "linewidth": 2.6, "zorder": 4.0, "path_effects": halo}
    elif mean is not None and palette is not None:
        style = {"color": palette.color(mean), "linewidth": 1.3, "alpha": 0.9, "zorder": 3.0}
    steps, lrs = [step for step, _ in curve], [max(lr, floor) for _, lr in curve]
    axes.step(steps, lrs, where="post", **style)  # type: ignore[arg-type]


def _add_legend(figure: Figure, board: Leaderboard, points: Sequence[PointCurves], palette: Palette | None) -> None:
    handles = []
    ranked = [point.standing for point in points if point.standing.mean is not None]
    if board.winner is not None:
        label = f"1, best: {board.winner.name}, {board.objective} {board.winner.mean:.4g}"
        handles.append(Line2D([], [], color=WINNER, linewidth=2.6, label=label))
    if palette is not None and len(ranked) <= MAX_NAMES:
        for number, other in enumerate(ranked[1:], start=2):
            label = f"{number}: {other.name}, {other.mean:.4g}"
            handles.append(Line2D([], [], color=palette.color(other.mean or 0.0), linewidth=1.5, label=label))
    if any(point.standing.mean is None for point in points):
        handles.append(Line2D([], [], color=FAILED_COLOR, linestyle=":", label="failed, or not finished yet"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False)


def _minor_label(lr: float, _: object) -> str:
    """2 and 5 of each decade."""
    return format_lr(lr) if round(lr / 10 ** math.floor(math.log10(lr) + 1e-9)) in {2, 5} else ""


def _names(keys: Sequence[str]) -> str:
    names = [key.removeprefix("lr/") for key in keys]
    text = ", ".join(names[:MAX_PANELS])
    return f"{text} and {len(names) - MAX_PANELS} more" if len(names) > MAX_PANELS else text
