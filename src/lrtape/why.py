"""`why`: the reason for which an lr changed at a step, in a sentence."""

import math
from bisect import bisect_left

from lrtape.checks.deviation import TIMING_CODES, compare_with_plan, is_close
from lrtape.errors import ConfigError
from lrtape.lines import format_lr
from lrtape.plan import Plan, label_of
from lrtape.reasons import Call, describe
from lrtape.tape import Series, Tape

_SAME_FACTOR = 1e-6
_FROZEN = "frozen/"


def frozen_keys(tape: Tape, step: int) -> list[str]:
    """The keys of the groups that do not move in a recorded step, as the tape says by ``frozen/<group>``."""
    if all(series.at(step) is None for series in tape.lr.values()):
        return []
    said = {key: series.until(step + 1).values for key, series in tape.items() if key.startswith(_FROZEN)}
    return [f"lr/{key.removeprefix(_FROZEN)}" for key, values in said.items() if values and values[-1]]


def why(tape: Tape, key: str, step: int, plan: Plan) -> str:
    """Say why the lr of a group changed at a step, or since when it has not.

    Args:
        tape: recorded or simulated; for ReduceLROnPlateau, with the metric that it watched (``monitor``).
        key: of the group, ``lr/all``.
        step: index of the optimizer step, from 0. Of a group that is frozen then, according to the tape
            (``frozen/<group>``), it says so.
        plan: its ``scheduler`` config tells the reason; its ``simulated`` tape tells a change of the scheduler's from
            one that somebody else made. Epochs and steps are counted from 0.

    Raises:
        ConfigError: the tape has no such key or step.
    """
    series = tape.get(key)
    if key in frozen_keys(tape, step):
        text = f"{key} is frozen at step {step}: no lr moves its group."
        return text if series is None or series.steps[-1] < step else f"{text} It begins at step {series.steps[0]}."
    if series is None:
        raise ConfigError(f"`key` must be one of {', '.join(tape.lr) or '(no key)'}, but is {key!r} instead.")
    index = bisect_left(series.steps, step)
    if index == len(series) or series.steps[index] != step:
        raise ConfigError(
            f"`step` must be a recorded step of {key}, from {series.steps[0]} to {series.steps[-1]}, but is {step} "
            "instead."
        )
    changed = index
    while changed and _same(series.values[changed], series.values[changed - 1]):
        changed -= 1
    if not changed:
        first, begins = series.steps[0], format_lr(series.values[0])
        if not index:
            thawed = ", where it was thawed" if key in frozen_keys(tape, first - 1) else ""
            return f"{key} begins with {begins} at step {first}{thawed}."
        return f"{key} did not change at step {step}: it has been {begins} since step {first}, its first one."
    change = (
        f"from {format_lr(series.values[changed - 1])} to {format_lr(series.values[changed])}: "
        f"{_reason(tape, key, changed, plan)}."
    )
    if changed == index:
        return f"{key} changed at step {step} {change}"
    return f"{key} did not change at step {step}; it changed last at step {series.steps[changed]} {change}"


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _reason(tape: Tape, key: str, index: int, plan: Plan) -> str:
    series = tape[key]
    step = series.steps[index]
    outside = _outside(tape, key, index, plan)
    if outside:
        return outside
    if not plan.scheduler:
        return "the scheduler's config is not known" + (", and its plan has the same change" if plan.simulated else "")
    label = label_of(plan.scheduler)
    call = Call(
        plan.scheduler, plan.calls_before(step), plan, series.values[index] > series.values[index - 1], tape, step
    )
    said = "" if step % plan.steps_per_call else describe(call)
    if said:
        return said
    if _planned(tape, key, index, plan) is not None:
        return (
            f"as planned, but not by the config that the run began with: {label} changes nothing there. The training "
            "was resumed with another one"
        )
    if step % plan.steps_per_call:
        return (
            f"changed outside the scheduler: {label} is stepped after each epoch of {plan.steps_per_call} steps, and "
            f"step {step} is not the first of an epoch"
        )
    return f"changed outside the scheduler: {label} changes nothing at {plan.interval} {call.number}"


def _planned(tape: Tape, key: str, index: int, plan: Plan) -> tuple[float, float] | None:
    """What the plan has before and after a recorded change; ``None`` where nobody knows."""
    if plan.simulated is None or key not in plan.simulated:
        return None
    was, became = (plan.simulated[key].at(tape[key].steps[at]) for at in (index - 1, index))
    return None if was is None or became is None else (was, became)


def _outside(tape: Tape, key: str, index: int, plan: Plan) -> str:
    """What to say if the recorded change is not the simulated one; empty if it is, or nobody knows."""
    planned = _planned(tape, key, index, plan)
    if planned is None or plan.simulated is None:
        return ""
    recorded = tape[key]
    was, became = planned
    if is_close(was, recorded.values[index - 1]) and is_close(became, recorded.values[index]):
        return ""
    finding = compare_with_plan(tape, plan.simulated, plan)
    if finding is not None and finding.code in TIMING_CODES:
        return f"not as planned. {finding.message.rstrip('.')}"
    if is_close(was, became):
        return f"changed outside the scheduler: by the plan it stays at {format_lr(was)}"
    by_plan = f"by the plan it goes from {format_lr(was)} to {format_lr(became)}"
    if is_close(was, recorded.values[index - 1]):
        return f"changed outside the scheduler: {by_plan}"
    if _is_alike(recorded.values[index - 1], recorded.values[index], was, became):
        return ""
    return f"not as planned: {by_plan}, and they had parted before, at step {_parting(recorded, plan.simulated[key])}"


def _is_alike(was: float, became: float, planned_was: float, planned_became: float) -> bool:
    """Whether both change by the same factor: then the scheduler did it, on an lr that somebody else had changed."""
    return bool(was and planned_was) and math.isclose(became / was, planned_became / planned_was, rel_tol=_SAME_FACTOR)


def _parting(recorded: Series, planned: Series) -> int:
    pairs = ((step, lr, planned.at(step)) for step, lr in zip(recorded.steps, recorded.values, strict=True))
    return next(step for step, lr, by_plan in pairs if by_plan is not None and not is_close(lr, by_plan))
