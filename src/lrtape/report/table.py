"""The leaderboard as a table: for a file, for the page of the run, and for a terminal."""

import csv
import json
import textwrap
from pathlib import Path
from typing import Any

from lrtape.leaderboard import Leaderboard
from lrtape.markdown import table as markdown_table
from lrtape.report.verdict import result
from lrtape.standing import Standing
from lrtape.tape import Status

MAX_NOTE_CHARACTERS = 100
MAX_LINES = 40
"""On a terminal."""


def columns_of(board: Leaderboard) -> list[str]:
    """What the files tell of each point; the objective has the mean of its seeds."""
    swept = [key.lstrip("+") for key in board.swept()]
    of_the_point = ["rank", "name", *swept, board.objective, "spread", "n", "n_trials", "status"]
    return [*of_the_point, "lr_verdict", "error", "same_as", "seeds", "scores", "run_ids"]


def rows_of(board: Leaderboard) -> list[list[Any]]:
    """A row for each point, best first; ``None`` where there is nothing to tell."""
    return [_row(point, board) for point in board.standings]


def write_csv(path: Path, board: Leaderboard) -> None:
    """Write every point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns_of(board))
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows_of(board))


def write_json(path: Path, board: Leaderboard) -> None:
    """Write every point as ``mlflow.log_table`` does, which MLflow shows as a table."""
    path.write_text(json.dumps({"columns": columns_of(board), "data": rows_of(board)}), encoding="utf-8")


def markdown(board: Leaderboard, max_rows: int) -> str:
    """The best points, and as many of the others as there is room for; without those that equal another one."""
    points = [point for point in board.standings if not point.same_as]
    rows = [("#", "point", board.objective, "seeds", "")]
    for point in points[:max_rows]:
        name = f"**{point.name}**" if point.rank == 1 else point.name
        rows.append((place(point), name, result(point), _seeds(point), note(point)))
    lines = markdown_table(rows, "|---:|:---|:---|:---|:---|")
    if len(points) > max_rows:
        lines.append(f"\n{len(points) - max_rows} more points are in leaderboard.csv.")
    return "\n".join(lines)


def text(board: Leaderboard) -> str:
    """For a terminal. Lines without a last line break."""
    # What has failed is shown in any case.
    shown = [point for index, point in enumerate(board.standings) if index < MAX_LINES or point.error]
    shown = shown[: 2 * MAX_LINES]
    head = ("#", "point", f"{board.objective} ({board.direction} is best)", "seeds", "")
    rows = [head, *((place(p), p.name, result(p), _seeds(p), note(p)) for p in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].rjust(widths[0]), *(cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    if len(board.standings) > len(shown):
        lines.append(f"and {len(board.standings) - len(shown)} more, in leaderboard.csv")
    return "\n".join(lines)


def place(point: Standing) -> str:
    """Its rank; that of the point that it equals has an equals sign before it."""
    if not point.rank:
        return "-"
    return f"={point.rank}" if point.same_as else str(point.rank)


def note(point: Standing, max_characters: int = MAX_NOTE_CHARACTERS) -> str:
    """What else is to be known of a point; empty where all is well."""
    if point.same_as:
        return f"same learning rates as {point.same_as}: not trained again"
    if point.status != Status.FINISHED:
        parts = [
            f"{len(point.failures)} of {point.n_trials}" if point.n and point.failures else "",
            point.status.lower(),
        ]
        said = " ".join(filter(None, parts)) + (f": {point.error}" if point.error else "")
    else:
        said = "" if point.verdict in {"", "ok"} else point.verdict
    return textwrap.shorten(said, max_characters, placeholder=" ...")


def _seeds(point: Standing) -> str:
    return str(point.n) if point.n == point.n_trials else f"{point.n} of {point.n_trials}"


def _row(point: Standing, board: Leaderboard) -> list[Any]:
    return [
        point.rank or None,
        point.name,
        *(point.values.get(key) for key in board.swept()),
        point.mean,
        point.spread,
        point.n,
        point.n_trials,
        "equal" if point.same_as else point.status.lower(),
        point.verdict or None,
        point.error or None,
        point.same_as or None,
        " ".join(str(run.seed) for run in point.runs),
        " ".join("" if run.objective is None else repr(run.objective) for run in point.runs),
        " ".join(run.run_id for run in point.runs),
    ]
