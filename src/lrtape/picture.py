"""A tape as a file to look at: PNG, SVG, a page of HTML that needs nothing else, or CSV.

matplotlib, which comes with mlflow, is imported when a PNG is drawn.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.changes import Changes
from lrtape.colors import style_of
from lrtape.curve_page import curve_page
from lrtape.curve_svg import Curve, Scale, curves_alike, draw_svg
from lrtape.errors import ConfigError
from lrtape.lines import format_lr
from lrtape.outline import Outline
from lrtape.tape import Tape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".html", ".csv")
_SIZE_INCHES = (10.0, 5.0)
_DPI = 150


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
            path.write_text(curve_page(curves_of(tape), title, text), encoding="utf-8")
        case ".svg":
            path.write_text(draw_svg(curves_of(tape), title), encoding="utf-8")
        case _:
            _draw(curves_of(tape), title).savefig(path, dpi=_DPI)


def curves_of(tape: Tape) -> list[Curve]:
    """What is drawn of a tape: a curve for each key."""
    found = []
    for key, series in tape.items():
        changes = Changes()
        for step, value in zip(series.steps, series.values, strict=True):
            changes.add(step, value)
        found.append(Curve((key.removeprefix("lr/"),), tuple(Outline.of(series).corners()), tuple(changes.drops)))
    return found


def _draw(curves: Sequence[Curve], title: str) -> "Figure":
    """As `draw_svg` does, for a file of pixels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    curves = curves_alike(curves)
    scale = Scale([lr for curve in curves for _, lr in curve.corners])
    figure = Figure(_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    if scale.is_log:
        axes.set_yscale("log")
    axes.set_ylim(scale.low, scale.high)
    for index, curve in enumerate(curves):
        color, dashes = style_of(index)
        axes.step(
            [step for step, _ in curve.corners],
            [max(lr, scale.low) if scale.is_log else lr for _, lr in curve.corners],
            where="post",
            label=curve.label,
            linestyle=(0, dashes) if dashes else "solid",
            color=color,
            linewidth=1.8,
        )
    axes.yaxis.set_major_locator(FixedLocator(scale.ticks()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda lr, _: format_lr(lr)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("optimizer step, from 0")
    axes.set_ylabel("lr that the step uses")
    axes.grid(visible=True, alpha=0.4)
    axes.margins(x=0.01)
    if len(curves) > 1 or len(curves[0].names) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _write_csv(file: io.TextIOBase | io.TextIOWrapper, tape: Tape) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("key", "step", "value"))
    writer.writerows((key, step, repr(value)) for key, step, _, value in tape.points())
