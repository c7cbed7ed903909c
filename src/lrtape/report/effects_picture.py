"""``effects.png``: what each swept value did, whatever the others were."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrtape.leaderboard import Effect, Leaderboard
from lrtape.report.palette import DPI, MAX_WIDTH_INCHES, WINNER, Palette

MAX_PANELS = 9
MAX_TICKS = 12
"""Values that are set beside each other; more numbers than that get an axis of their own."""

_DOTS, _MEAN = "#5b8fa8", "#222222"


def draw_effects(path: Path, board: Leaderboard) -> bool:
    """Draw one panel for each swept key: a dot for each point, and the mean over all points with a value.

    Returns:
        Whether there was something to draw: a key with at least two values, and a result.
    """
    by_key: dict[str, list[Effect]] = {}
    for effect in board.effects():
        by_key.setdefault(effect.key, []).append(effect)
    shown = [effects for effects in by_key.values() if len(effects) > 1][:MAX_PANELS]
    means = [mean for effects in shown for effect in effects for mean in effect.means]
    if not means:
        return False
    bars = [end for effects in shown for effect in effects for end in _bar(effect)]
    limits = Palette.over(means, board.direction).limits(bars)
    n_columns = min(len(shown), 3)
    n_rows = math.ceil(len(shown) / n_columns)
    figure = Figure((min(4.2 * n_columns + 0.8, MAX_WIDTH_INCHES), 3.2 * n_rows + 0.8), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    panels: list[Axes] = [axes for row in grid for axes in row]
    for axes, effects in zip(panels, shown, strict=False):
        _draw_panel(axes, effects, board, limits)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"{board.objective} ({'highest' if board.direction == 'max' else 'lowest'} is best)")
    figure.suptitle(
        "Effect of each value: dots are points, bars their mean ± standard deviation.\nOrange: the best point's value.",
        x=0.01,
        ha="left",
        fontsize="medium",
    )
    figure.savefig(path, dpi=DPI)
    return True


def _draw_panel(axes: Axes, effects: Sequence[Effect], board: Leaderboard, limits: tuple[float, float]) -> None:
    key = effects[0].key
    places = _places(axes, effects)
    low, high = limits
    best = board.winner.values.get(key) if board.winner is not None else None
    for place, effect in zip(places, effects, strict=True):
        inside = [mean for mean in effect.means if low <= mean <= high]
        axes.plot([place] * len(inside), inside, "o", color=_DOTS, alpha=0.55, markersize=6, markeredgewidth=0)
        for mean in effect.means:
            if not low <= mean <= high:  # an arrow at the edge, or one that diverged would flatten all others
                edge, mark = (high, "^") if mean > high else (low, "v")
                axes.plot(place, edge, mark, color=_DOTS, markersize=9, clip_on=False)
        if effect.mean is not None and low <= effect.mean <= high:
            color = WINNER if effect.value == best else _MEAN
            axes.errorbar(
                place, effect.mean, yerr=effect.spread, fmt="D", color=color, markersize=7, capsize=5, linewidth=1.8
            )
        notes = [f"{effect.n_failed} failed"] if effect.n_failed else []
        if effect.mean is not None and not low <= effect.mean <= high:
            notes.append(f"mean {effect.mean:.3g}")
        if notes:
            axes.annotate(
                "\n".join(notes),
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -9),
                textcoords="offset points",
                ha="left" if place == places[0] else "right" if place == places[-1] else "center",
                va="top",
                fontsize="small",
            )
    axes.set_ylim(low, high)
    axes.set_title(key.lstrip("+"), loc="left", fontsize="medium")
    axes.grid(visible=True, axis="y", alpha=0.3)


def _bar(effect: Effect) -> list[float]:
    spread = effect.spread or 0.0
    return [] if effect.mean is None else [effect.mean - spread, effect.mean + spread]


def _places(axes: Axes, effects: Sequence[Effect]) -> list[float]:
    """Where the values stand: beside each other, or, where there are many numbers, on an axis of numbers."""
    numbers = [_number(effect.value) for effect in effects]
    if len(effects) > MAX_TICKS and None not in numbers:
        places = [number for number in numbers if number is not None]
        if min(places) > 0 and max(places) / min(places) > 30:
            axes.set_xscale("log")
        return places
    longest = 12 if len(effects) > 3 else 20
    texts = [e.value if len(e.value) <= longest else f"{e.value[: longest - 1]}…" for e in effects]
    is_crowded = sum(map(len, texts)) > 40
    axes.set_xticks(range(len(texts)), texts, rotation=30 if is_crowded else 0, ha="right" if is_crowded else "center")
    axes.set_xlim(-0.5, len(texts) - 0.5)
    return [float(index) for index in range(len(texts))]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
