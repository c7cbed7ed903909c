"""Where a recorded tape parts from the simulated one, and why: mostly, the scheduler is stepped at other times."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lrtape.checks.case import Case
from lrtape.checks.timings import (
    BEFORE_OPTIMIZER,
    EVERY_EPOCH,
    EVERY_STEP,
    SEVERAL_TIMES,
    TOO_RARELY,
    Explanation,
    Timing,
    timings,
)
from lrtape.plan import Plan
from lrtape.tape import Finding, Series, Tape

NEVER_STEPPED = "scheduler-not-stepped"
STEPS_SKIPPED = "optimizer-steps-skipped"
OTHER_LR = "other-base-lr"
DIFFERS = "differs-from-plan"
TIMING_CODES = (
    NEVER_STEPPED,
    BEFORE_OPTIMIZER,
    EVERY_STEP,
    EVERY_EPOCH,
    SEVERAL_TIMES,
    TOO_RARELY,
    STEPS_SKIPPED,
)
CODES = (*TIMING_CODES, OTHER_LR, DIFFERS)

RELATIVE_TOLERANCE = 1e-9
"""Two machines may differ in the last bits of a cosine."""
ABSOLUTE_TOLERANCE = 1e-15
FEWEST_ROWS = 3
"""A timing that explains fewer steps from the parting on is a coincidence."""
MAX_SKIPPED = 32
"""In a row; a GradScaler that begins at 65,536 halves 16 times until it is 1."""

Row = tuple[float | None, ...]
"""One lr for each group; ``None`` for a group that is frozen, and has none."""


class _Tapes(NamedTuple):
    """Both tapes, row by row.

    Attributes:
        recorded: of each recorded step, in order, the lrs of the groups that both tapes have.
        steps: the index of each of them.
        planned: the simulated lrs of each step, from 0.
        states: the simulated lrs after 0, 1, 2, ... calls of the scheduler.
    """

    recorded: list[Row]
    steps: Sequence[int]
    planned: list[Row]
    states: list[Row]


def compare_with_plan(recorded: Tape, simulated: Tape, plan: Plan | None = None) -> Finding | None:
    """Compare the lrs of a training with those of its simulation.

    Takes some nanoseconds for each step and group where they are equal, and microseconds where they differ.

    Args:
        recorded: of the training; it may be shorter, where it still runs or was killed. Of several records of one step
            the first counts.
        simulated: of the whole training, from step 0.
        plan: its interval and the length of its epochs tell more about the cause; by default the scheduler is stepped
            after each step.

    Returns:
        ``None`` where every recorded lr is as simulated, to within `RELATIVE_TOLERANCE`; else the first step and group
        where they part, with the likely cause.
    """
    recorded, simulated = recorded.lr, simulated.lr
    if not recorded:
        return None
    last_step = max(series.steps[-1] for series in recorded.values())
    keys = [key for key in simulated if key in recorded]
    # A group that is thawed later is not recorded yet.
    missing = [key for key in simulated if key not in recorded and simulated[key].steps[0] <= last_step]
    if missing or not keys:
        return Finding(
            DIFFERS,
            f"the plan has {', '.join(missing or simulated)}, which was not recorded; recorded are "
            f"{', '.join(recorded)}. Compare `param_groups.*` and `optimizer.*` of the two.",
            next(iter(recorded)),
            next(iter(recorded.values())).steps[0],
            "error",
        )
    if all(_begins_with(simulated[key], recorded[key]) for key in keys):
        return None
    plan = plan or Plan(max(series.steps[-1] for series in simulated.values()) + 1)
    tapes = _rows(recorded, simulated, keys, plan)
    parting = next(
        (
            index
            for index, (step, row) in enumerate(zip(tapes.steps, tapes.recorded, strict=True))
            if step < len(tapes.planned) and not _equal(row, tapes.planned[step])
        ),
        None,
    )
    if parting is None:
        return _thawed_otherwise(recorded, simulated, keys)
    step, used, planned = tapes.steps[parting], tapes.recorded[parting], tapes.planned[tapes.steps[parting]]
    column = next(column for column in range(len(keys)) if not _same(used[column], planned[column]))
    explanation = _explain(tapes, parting, plan)
    return Finding(
        explanation.code,
        f"{keys[column]} of step {step} is {used[column]!r}, and by the plan {planned[column]!r}. "
        f"{explanation.sentence}",
        keys[column],
        step,
        explanation.severity,
    )


def find_deviation(case: Case) -> Iterator[Finding]:
    """Where what was recorded parts from what was planned."""
    if case.plan.simulated is not None:
        finding = compare_with_plan(case.tape, case.plan.simulated, case.plan)
        if finding is not None:
            yield finding


def _thawed_otherwise(recorded: Tape, simulated: Tape, keys: Sequence[str]) -> Finding | None:
    first_step = min(recorded[key].steps[0] for key in keys)
    for key in keys:
        begins, planned = recorded[key].steps[0], max(simulated[key].steps[0], first_step)
        if begins != planned:
            return Finding(
                DIFFERS,
                f"{key} begins at step {begins}, and by the plan at step {planned}: its group was thawed at another "
                "time. Compare `param_groups.unfreeze_at_epoch` of the two, and leave the thawing to it.",
                key,
                min(begins, planned),
                "error",
            )
    return None


def _begins_with(planned: Series, recorded: Series) -> bool:
    """Whether all is exactly as planned; this takes next to no time and memory."""
    n_steps = len(recorded)
    return planned.steps[:n_steps] == recorded.steps and planned.values[:n_steps] == recorded.values


def _rows(recorded: Tape, simulated: Tape, keys: Sequence[str], plan: Plan) -> _Tapes:
    first = [dict(zip(reversed(recorded[key].steps), reversed(recorded[key].values), strict=True)) for key in keys]
    steps = sorted(set().union(*first))
    columns = [dict(zip(simulated[key].steps, simulated[key].values, strict=True)) for key in keys]
    n_steps = max(simulated[key].steps[-1] for key in keys) + 1
    planned = [tuple(column.get(step) for column in columns) for step in range(n_steps)]
    return _Tapes(
        [tuple(column.get(step) for column in first) for step in steps], steps, planned, planned[:: plan.steps_per_call]
    )


def _explain(tapes: _Tapes, parting: int, plan: Plan) -> Explanation:
    """The first explanation under which every recorded row is as planned."""
    if _never_change(tapes.recorded) and _equal(tapes.recorded[0], tapes.planned[0]):
        return Explanation(
            NEVER_STEPPED,
            f"No lr ever changes: scheduler.step() is not called. Call it after each {plan.interval} "
            f"(`scheduler.interval={plan.interval}`).",
        )
    if plan.skipped_steps and (skipped := _skipped(tapes)):
        return skipped
    for timing, explanation in timings(plan):
        if _fits(tapes, parting, timing):
            return explanation
    return (
        _skipped(tapes)
        or _other_lr(tapes)
        or Explanation(
            DIFFERS,
            "No other timing of the scheduler explains it: something else sets the lr (a warm-up in the loop, another "
            "scheduler, a loaded state), or `scheduler.*` and `optimizer.*` are not those of the plan.",
        )
    )


def _never_change(rows: Sequence[Row]) -> bool:
    return all(len({lr for lr in column if lr is not None}) == 1 for column in zip(*rows, strict=True))


def _fits(tapes: _Tapes, parting: int, timing: Timing) -> bool:
    """Whether each recorded row is the state of that timing; what lies beyond the simulation is not compared."""
    n_compared = 0
    for index, (step, row) in enumerate(zip(tapes.steps, tapes.recorded, strict=True)):
        calls = timing.calls_before(step)
        if calls >= len(tapes.states):
            break
        if not _equal(row, tapes.states[calls]):
            return False
        n_compared += index >= parting
    return n_compared >= FEWEST_ROWS


def _skips(tapes: _Tapes) -> list[int]:
    """How many steps of the plan are passed over before each recorded one; empty where that explains nothing."""
    offsets = []
    offset = 0
    for step, row in zip(tapes.steps, tapes.recorded, strict=True):
        if step + offset >= len(tapes.planned):
            break
        found = next(
            (
                place
                for place in range(step + offset, min(step + offset + MAX_SKIPPED, len(tapes.planned)))
                if _equal(row, tapes.planned[place])
            ),
            None,
        )
        if found is None:
            return []
        offset = found - step
        offsets.append(offset)
    return offsets


def _skipped(tapes: _Tapes) -> Explanation | None:
    """If a few skips explain each recorded row; with enough of them, any falling schedule could be explained."""
    offsets = _skips(tapes)
    skipped = [
        index for index, (before, offset) in enumerate(zip([0, *offsets], offsets, strict=False)) if before != offset
    ]
    if not 0 < len(skipped) <= max(2, len(offsets) // 10):
        return None
    return Explanation(
        STEPS_SKIPPED,
        f"From step {tapes.steps[skipped[0]]} on the schedule is ahead, in the end by {offsets[-1]} steps: optimizer "
        "steps were skipped, and the scheduler was stepped all the same. Where a GradScaler skips steps "
        "(`trainer.precision=16`), compare scaler.get_scale() before and after scaler.update(), and step the scheduler "
        "only where it did not fall; or use bfloat16.",
        "warning",
    )


def _other_lr(tapes: _Tapes) -> Explanation | None:
    ratios = [
        used / planned
        for step, row in zip(tapes.steps, tapes.recorded, strict=True)
        if step < len(tapes.planned)
        for used, planned in zip(row, tapes.planned[step], strict=True)
        if planned and used  # neither 0 nor frozen
    ]
    if not ratios or not all(math.isclose(ratio, ratios[0], rel_tol=1e-6) for ratio in ratios):
        return None
    return Explanation(
        OTHER_LR,
        f"Every lr is {ratios[0]:.6g} times the planned one, and the schedule is as planned: `optimizer.lr` differs.",
    )


def _equal(one: Row, other: Row) -> bool:
    """Of the groups that move in both: when a group is thawed, no scheduler decides."""
    return one == other or all(map(_same, one, other))


def _same(one: float | None, other: float | None) -> bool:
    return one is None or other is None or is_close(one, other)


def is_close(one: float, other: float) -> bool:
    """Whether two lrs are one; NaN is NaN."""
    return (
        one == other
        or math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        or (math.isnan(one) and math.isnan(other))
    )
