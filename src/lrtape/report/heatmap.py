"""``heatmap.png``: the objective over two swept values; of a union of grids, once for each schedule."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lrtape.leaderboard import SCHEDULER, Leaderboard
from lrtape.report.palette import DPI, MAX_WIDTH_INCHES, WINNER, Palette
from lrtape.report.verdict import rounded
from lrtape.standing import REFUSED, Standing
from lrtape.tape import Status

MAX_CELLS = 12
"""To one side; more values cannot be read."""
MAX_PANELS = 8

_CELL = 0.95
_MARGIN = 1.9
_MIN_WIDTH = 6.5
_EMPTY = "#ececec"


@dataclass(frozen=True, slots=True)
class _Panel:
    """One heat map: the values of two keys, and the points by these."""

    title: str
    x_key: str
    y_key: str
    xs: list[str]
    ys: list[str]
    points: dict[tuple[str, str], Standing]


def draw_heatmap(path: Path, board: Leaderboard) -> bool:
    """Draw a cell for each pair of values: the mean of its seeds, and their spread. The winner has a frame.

    Returns:
        Whether there was something to draw: exactly two keys with at least two values each, and a result.
    """
    panels = _panels(board)[:MAX_PANELS]
    means = [point.mean for panel in panels for point in panel.points.values() if point.mean is not None]
    if not means:
        return False
    palette = Palette.over(means, board.direction)
    # One upon another: MLflow shows no wide pictures.
    heights = [len(panel.ys) * 0.75 * _CELL + _MARGIN / 2 for panel in panels]
    width = max(len(panel.xs) for panel in panels) * _CELL + _MARGIN + 1.2
    size = (min(max(width, _MIN_WIDTH), MAX_WIDTH_INCHES), sum(heights) + 0.5)
    figure = Figure(size, layout="constrained")
    row = [axes[0] for axes in figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)]
    for axes, panel in zip(row, panels, strict=True):
        _draw_panel(axes, panel, board, palette)
    if len(set(means)) > 1:
        palette.add_scale(row, board.objective)
    n_seeds = max((point.n_trials for point in board.standings), default=1)
    seeds = f", mean ± standard deviation of up to {n_seeds} seeds" if n_seeds > 1 else ""
    figure.suptitle(f"{board.objective} of each point{seeds}", x=0.01, ha="left", fontsize="large")
    figure.savefig(path, dpi=DPI)
    return True


def _panels(board: Leaderboard) -> list[_Panel]:
    """One for each schedule whose points differ in exactly two keys."""
    by_schedule: dict[str, list[Standing]] = {}
    for standing in board.standings:
        if standing.values:
            by_schedule.setdefault(standing.values.get(SCHEDULER, ""), []).append(standing)
    panels = []
    for schedule, standings in by_schedule.items():
        swept = {
            key: values
            for key, values in Leaderboard(board.objective, board.direction, tuple(standings)).swept().items()
            if len(values) > 1
        }
        if len(swept) != 2 or max(map(len, swept.values())) > MAX_CELLS:
            continue
        (y_key, ys), (x_key, xs) = sorted(swept.items(), key=lambda item: len(item[1]))
        points: dict[tuple[str, str], Standing] = {}
        for point in standings:
            if x_key in point.values and y_key in point.values:
                points.setdefault((point.values[x_key], point.values[y_key]), point)
        panels.append(_Panel(schedule, x_key, y_key, xs, ys, points))
    return panels


def _draw_panel(axes: Axes, panel: _Panel, board: Leaderboard, palette: Palette) -> None:
    for column, x in enumerate(panel.xs):
        for row, y in enumerate(panel.ys):
            _draw_cell(axes, column, row, panel.points.get((x, y)), palette)
    winner = board.winner
    for (x, y), point in panel.points.items():
        if winner is not None and point.name == winner.name:
            corner = (panel.xs.index(x) - 0.5, panel.ys.index(y) - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=WINNER, linewidth=4, zorder=5))
    axes.set_xlim(-0.5, len(panel.xs) - 0.5)
    axes.set_ylim(-0.5, len(panel.ys) - 0.5)
    axes.set_xticks(range(len(panel.xs)), [_short(text) for text in panel.xs])
    axes.set_yticks(range(len(panel.ys)), [_short(text) for text in panel.ys])
    axes.set_xlabel(panel.x_key.lstrip("+"))
    axes.set_ylabel(panel.y_key.lstrip("+"))
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_cell(axes: Axes, column: int, row: int, point: Standing | None, palette: Palette) -> None:
    mean = point.mean if point is not None else None
    color = palette.color(mean) if mean is not None else _EMPTY
    has_failed = point is not None and mean is None and point.status in {Status.FAILED, Status.KILLED, REFUSED}
    hatch = "///" if has_failed else None
    axes.add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=2, hatch=hatch)
    )
    if point is None:
        return
    text, text_color = point.status.lower(), "black"
    if mean is not None:
        text, text_color = f"{mean:.4g}", palette.text_color(mean)
        if point.spread is not None:
            text += f"\n± {rounded(point.spread)}"
        if point.failures:
            text += f"\n{len(point.failures)} failed"
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if has_failed else None
    axes.text(column, row, text, ha="center", va="center", color=text_color, fontsize="small", bbox=box)


def _short(text: str, max_characters: int = 14) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"
