"""The page of a sweep's run in the MLflow UI: its description, in Markdown."""

import re
import shlex
import textwrap
from collections.abc import Sequence

from lrtape.leaderboard import Leaderboard
from lrtape.report.table import markdown
from lrtape.report.verdict import schedule_verdict, verdict
from lrtape.tracking.find_sweep import REPORT_FOLDER
from lrtape.trials import MAX, SweepRun, TrialRun

MAX_CHARACTERS = 7_800
"""MLflow cuts a tag at 8,000."""
_ROWS = (15, 8, 4, 1)
"""Of the table: as many as there is room for."""
_MAX_LISTED = 8
_MAX_KEYS = 12
_MAX_VALUES_CHARACTERS = 150
_MAX_ERROR_CHARACTERS = 200
_MAX_COMMAND_CHARACTERS = 900
_LINE_CHARACTERS = 100

LR_CURVES, HEATMAP, EFFECTS = "lr_curves.png", "heatmap.png", "effects.png"
"""Pictures among the artifacts."""
_CAPTIONS = {
    LR_CURVES: "Learning rates",
    HEATMAP: "Heat map",
    EFFECTS: "Effect of each value",
}


def page(board: Leaderboard, sweep: SweepRun, command: str, winner: TrialRun | None, pictures: Sequence[str]) -> str:
    """The whole page: its first line is the verdict, as the UI shows little more until it is unfolded.

    Args:
        board: of the sweep.
        sweep: its run.
        command: trains the winner again; empty where nothing does.
        winner: the run that it stands for.
        pictures: names of those among the artifacts.
    """
    for n_rows in _ROWS:
        text = "\n\n".join(filter(None, _sections(board, sweep, command, winner, pictures, n_rows)))
        if len(text) <= MAX_CHARACTERS:
            return text
    return text[:MAX_CHARACTERS]


def _sections(
    board: Leaderboard, sweep: SweepRun, command: str, winner: TrialRun | None, pictures: Sequence[str], n_rows: int
) -> list[str]:
    return [
        _bold_winner(verdict(board, sweep), board),
        schedule_verdict(board),
        _how_to_train_again(board, command, winner),
        "### Leaderboard",
        markdown(board, n_rows),
        *(
            f"![{_CAPTIONS.get(name, name)}](get-artifact?path={REPORT_FOLDER}/{name}&run_uuid={sweep.run_id})"
            for name in pictures
        ),
        _equal(board),
        _failed(board),
        "### What was swept",
        _swept(board),
        f"```\n{_wrapped(sweep.command)}\n```" if sweep.command else "",
        f"Ranked by the {'highest' if board.direction == MAX else 'lowest'} mean of `{board.objective}` over the "
        "seeds. A point of which a seed has failed comes after all others. ± is the sample standard deviation over the "
        f"seeds. More is among the artifacts, in `{REPORT_FOLDER}`.",
    ]


def _bold_winner(text: str, board: Leaderboard) -> str:
    winner = board.winner
    return text.replace(winner.name, f"**{winner.name}**", 1) if winner is not None else text


def _how_to_train_again(board: Leaderboard, command: str, winner: TrialRun | None) -> str:
    if winner is None or not command:
        return ""
    seeds = [run.seed for run in board.winner.finished] if board.winner is not None else []
    others = f"; add `seed={seeds[1]}` for its next seed" if len(seeds) > 1 else ""
    which = f"seed {winner.seed}{others}"
    return f"To train it again, to the last digit on the same kind of machine ({which}):\n\n```\n{command}\n```"


def _wrapped(command: str) -> str:
    """A command in lines that can still be pasted: MLflow makes the page as wide as the longest."""
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:
        words = command.split()
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= _LINE_CHARACTERS:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)[:_MAX_COMMAND_CHARACTERS]


def _swept(board: Leaderboard) -> str:
    lines = [
        f"- `{key.lstrip('+')}`: {textwrap.shorten(', '.join(values), _MAX_VALUES_CHARACTERS, placeholder=' ...')}"
        for key, values in board.swept().items()
    ]
    return "\n".join(lines[:_MAX_KEYS])


def _equal(board: Leaderboard) -> str:
    followers: dict[str, list[str]] = {}
    for point in board.standings:
        if point.same_as:
            followers.setdefault(point.same_as, []).append(point.name)
    if not followers:
        return ""
    lines = [f"- {first}: {_few(names)}" for first, names in list(followers.items())[:_MAX_LISTED]]
    n_left = len(followers) - len(lines)
    more = [f"- and {n_left} more, in leaderboard.csv"] if n_left > 0 else []
    return "\n".join(["### The same learning rates, trained once", "", *lines, *more])


def _few(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _failed(board: Leaderboard) -> str:
    lines = []
    for point in board.standings:
        if point.same_as or not (point.failures or point.refusal):
            continue
        if point.refusal:
            lines.append(f"- **{point.name}** was refused: {_plain(point.refusal)}")
        else:
            lines += [
                f"- **{run.name}** {run.status.lower()}: {_plain(run.error) or 'it left no message'}"
                for run in point.failures
            ]
    if not lines:
        return ""
    n_left = len(lines) - _MAX_LISTED
    more = [f"- and {n_left} more, in leaderboard.csv"] if n_left > 0 else []
    return "\n".join(["### Without a result", "", *lines[:_MAX_LISTED], *more])


def _plain(text: str) -> str:
    """A message as one line, which Markdown leaves as it is."""
    short = textwrap.shorten(text, _MAX_ERROR_CHARACTERS, placeholder=" ...")
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", short)
