"""A tape as a file to look at: PNG, SVG, a page of HTML that needs nothing else, or CSV.

matplotlib, which comes with mlflow, is imported when something is drawn.
"""

import csv
import html
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.errors import ConfigError
from lrtape.lines import format_lr
from lrtape.tape import Series, Tape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".html", ".csv")
MAX_CORNERS = 4_000
"""Of one curve; more cannot be seen."""

_SIZE_INCHES = (10.0, 5.0)
_DPI = 150
_MAX_NAMES = 4
"""Of the keys that share a curve, in its label."""
_DASHES = ("solid", "dashed", "dotted", "dashdot")
"""So that curves that lie upon one another, or are printed in grey, can be told apart."""
_COLORS = 10
"""Of matplotlib, before they begin again."""
_FEWEST_DECADES = 1.0
"""Less of a logarithmic axis is hard to read: it is made so long."""


def check_suffix(path: Path) -> None:
    """See that a file can be written, before there is something to write.

    Raises:
        ConfigError: its kind is unknown, or its folder is not there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"`--save` must end with one of {', '.join(SUFFIXES)}, but is {str(path)!r} instead.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"`--save` must lie in a folder that exists, but there is no {path.absolute().parent}.")


def write_picture(path: Path, tape: Tape, title: str, text: str = "") -> None:
    """Draw every key of a tape over its steps, or write its rows, as the file's suffix says.

    Args:
        path: one of `SUFFIXES`.
        tape: not empty.
        title: above the picture.
        text: for below it, in HTML: lines of fixed width.

    Raises:
        ConfigError: see `check_suffix`.
        OSError: the file cannot be written.
    """
    check_suffix(path)
    match path.suffix.lower():
        case ".csv":
            with path.open("w", newline="") as file:
                _write_csv(file, tape)
        case ".html":
            path.write_text(_page(tape, title, text), encoding="utf-8")
        case suffix:
            _save(draw(tape, title), path, suffix[1:])


def draw(tape: Tape, title: str) -> "Figure":
    """Every key over its steps; a value is drawn up to the next step. Keys with the same values share a curve.

    The axis is logarithmic, unless a value is negative or none is above 0. A value of 0 is drawn at its lower edge.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    finite = [value for series in tape.values() for value in series.values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    is_log = bool(positive) and min(finite) >= 0
    low = high = 0.0
    if is_log:
        low, high = _limits(min(positive), max(positive), has_zero=min(finite) == 0)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
    for index, names in enumerate(_curves(tape)):
        corners = list(corners_of(tape[names[0]]))
        axes.step(
            [step for step, _ in corners],
            [max(lr, low) if is_log else lr for _, lr in corners],
            where="post",
            label=_label(names),
            linestyle=_DASHES[index % len(_DASHES)],
            color=f"C{index % _COLORS}",
            linewidth=1.8,
        )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda lr, _: format_lr(lr)))
    if is_log:
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label(low, high)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("optimizer step, from 0")
    axes.set_ylabel("learning rate that the step uses")
    axes.grid(visible=True, which="major", alpha=0.4)
    axes.grid(visible=True, which="minor", alpha=0.12)
    axes.margins(x=0.01)
    if len(axes.lines) > 1 or len(tape) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _limits(lowest: float, highest: float, has_zero: bool) -> tuple[float, float]:
    """A little more than the values take."""
    decades = math.log10(highest / lowest)
    margin = max(0.05 * decades, (_FEWEST_DECADES - decades) / 2)
    return lowest / 10 ** (margin + (0.3 if has_zero else 0)), highest * 10**margin


def _minor_label(low: float, high: float) -> Callable[[float, int | None], str]:
    """2 and 5 of each decade, where there are few decades."""
    shown = {2, 5} if math.log10(high / low) < 3.5 else set()
    return lambda lr, _: format_lr(lr) if round(lr / 10 ** math.floor(math.log10(lr) + 1e-9)) in shown else ""


def _curves(tape: Tape) -> list[list[str]]:
    """The keys, those together that have the same values."""
    by_curve: dict[tuple[bytes, bytes], list[str]] = {}
    for key, series in tape.items():
        by_curve.setdefault((series.steps.tobytes(), series.values.tobytes()), []).append(key.removeprefix("lr/"))
    return [[f"lr/{name}" if f"lr/{name}" in tape else name for name in names] for names in by_curve.values()]


def _label(keys: Sequence[str]) -> str:
    names = [key.removeprefix("lr/") for key in keys]
    rest = len(names) - _MAX_NAMES
    return "\n".join(names[:_MAX_NAMES]) + (f"\nand {rest} more" if rest > 0 else "")


def corners_of(series: Series, max_corners: int = MAX_CORNERS) -> Iterator[tuple[int, float]]:
    """Where the lr changes, and the end of the last step; where there are many, the extremes of each stretch."""
    n_rows = len(series)
    steps, values = series.steps, series.values
    stretch = max(1, math.ceil(4 * n_rows / max_corners))
    for begin in range(0, n_rows, stretch):
        indices = range(begin, min(begin + stretch, n_rows))
        chosen = {
            indices[0],
            indices[-1],
            min(indices, key=values.__getitem__),
            max(indices, key=values.__getitem__),
        }
        yield from ((steps[index], values[index]) for index in sorted(chosen))
    yield steps[-1] + 1, values[-1]


def _save(figure: "Figure", file: "Path | io.StringIO", kind: str) -> None:
    import matplotlib

    # Text stays text, and the same picture has the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lrtape"}):
        figure.savefig(file, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)


def _write_csv(file: io.TextIOBase | io.TextIOWrapper, tape: Tape) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("key", "step", "value"))
    writer.writerows((key, step, repr(value)) for key, step, _, value in tape.points())


def _page(tape: Tape, title: str, text: str) -> str:
    drawn = io.StringIO()
    _save(draw(tape, title), drawn, "svg")
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
svg {{ width: 100%; height: auto }}
pre {{ overflow-x: auto; line-height: 1.4 }}
</style>
{svg}
<pre>{html.escape(text)}</pre>
</html>
"""
