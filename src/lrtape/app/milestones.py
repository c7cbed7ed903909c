"""Where a schedule is at its steps that matter: the first, the peak, each drop, the last."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from lrtape.groups import FROZEN
from lrtape.lines import format_lr
from lrtape.plan import Plan
from lrtape.tape import Series, Tape

MAX_CHANGES = 8
"""Of an lr that changes in few steps; a smooth one is told by the shares of its peak."""
MAX_SHOWN = 4
"""Of an lr that changes in more."""
MAX_CURVES = 8
_ROUNDING = 1e-9
"""Relative: a cosine that comes up again may end a bit above where it began."""
SHARES = (0.5, 0.1, 0.01)
"""Of the peak, below which a smooth lr falls for good."""


class Milestone(NamedTuple):
    """A step that matters.

    Attributes:
        step: its index, from 0.
        lr: that it uses.
        what: happens there.
    """

    step: int
    lr: float
    what: str


def milestones(series: Series) -> list[Milestone]:
    """Those of one lr, in order; at most a dozen."""
    steps, values = series.steps, series.values
    last = len(values) - 1
    changes = [index for index, (one, other) in enumerate(pairwise(values), start=1) if one != other]
    found = {0: ["thawed" if steps[0] else "first"]}
    if not changes:
        found[0].append("and never changed")
    elif len(changes) <= MAX_CHANGES:
        for index in changes:
            found.setdefault(index, []).append(_change(values[index - 1], values[index]))
    elif 2 * len(changes) < len(values):
        for index in changes[:MAX_SHOWN]:
            found.setdefault(index, []).append(_change(values[index - 1], values[index]))
        found.setdefault(last, []).append(f"after {len(changes) - MAX_SHOWN:,} more changes")
    else:
        for index, what in _turns(values):
            found.setdefault(index, []).append(what)
    found.setdefault(last, []).append("last")
    return [Milestone(steps[index], values[index], ", ".join(found[index])) for index in sorted(found)]


def _change(was: float, became: float) -> str:
    if was > 0 and became >= 0:
        return f"{'drops' if became < was else 'rises'} to {became / was:.3g} of it"
    return "drops" if became < was else "rises"


def _turns(values: Sequence[float]) -> Iterator[tuple[int, str]]:
    """The peak of a smooth lr, and where it has fallen from it for good."""
    peak = max(values)
    if not math.isfinite(peak):
        return
    at = next(index for index, value in enumerate(values) if value >= peak * (1 - _ROUNDING))
    if at:
        rises = all(one <= other for one, other in pairwise(values[: at + 1]))
        yield at, "peak, the warm-up ends" if rises and at < len(values) - 1 else "peak"
    leaves = next((index for index in range(at, len(values)) if values[index] < peak * (1 - _ROUNDING)), None)
    if leaves is not None and leaves > at + 1:
        yield leaves, "begins to fall"
    for share in SHARES:
        index = len(values)
        while index and values[index - 1] <= share * peak:
            index -= 1
        if at < index < len(values) - 1:
            yield index, f"{share:.0%} of the peak"


def milestone_table(tape: Tape, plan: Plan, frozen: Sequence[str] = ()) -> str:
    """One row for each milestone of each lr; lrs that are the same at every step have one set of rows.

    Args:
        tape: of the learning rates.
        plan: of the training.
        frozen: the names of groups that never move.

    Returns:
        Lines without a last line break.
    """
    rows = [("group", "step", "epoch", "lr", "")]
    by_values: dict[tuple[int, bytes], list[str]] = {}
    for key, series in tape.items():
        by_values.setdefault((series.steps[0], series.values.tobytes()), []).append(key)
    if frozen:
        rows.append((_some(frozen), "", "", FROZEN, "in every step"))
    for keys in list(by_values.values())[:MAX_CURVES]:
        name = _some([key.removeprefix("lr/") for key in keys])
        if tape[keys[0]].steps[0]:
            rows.append((name, "0", _epoch(0, plan), FROZEN, ""))
            name = ""
        for milestone in milestones(tape[keys[0]]):
            rows.append(
                (name, f"{milestone.step:,}", _epoch(milestone.step, plan), format_lr(milestone.lr), milestone.what)
            )
            name = ""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    if len(by_values) > MAX_CURVES:
        lines.append(f"and {len(by_values) - MAX_CURVES} more curves")
    return "\n".join(lines)


def _epoch(step: int, plan: Plan) -> str:
    """As the training's own lines count: the first one is 1."""
    return "" if plan.steps_per_epoch is None else f"{step // plan.steps_per_epoch + 1}/{plan.n_epochs}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
