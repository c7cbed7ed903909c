"""`why`: the reason for which an lr changed at a step, in a sentence."""

import math
from bisect import bisect_left

from lrtape.checks.deviation import TIMING_CODES, compare_with_plan, is_close
from lrtape.errors import ConfigError
from lrtape.lines import format_lr
from lrtape.plan import Plan, label_of
from lrtape.reasons import Call, describe
from lrtape.tape import Tape


def why(tape: Tape, key: str, step: int, plan: Plan) -> str:
    """Say why the lr of a group changed at a step, or since when it has not.

    Args:
        tape: recorded or simulated; for ReduceLROnPlateau, with the metric that it watched (``monitor``).
        key: of the group, ``lr/all``.
        step: index of the optimizer step, from 0.
        plan: its ``scheduler`` config tells the reason; its ``simulated`` tape tells a change of the scheduler's from
            one that somebody else made. Epochs and steps are counted from 0.

    Raises:
        ConfigError: the tape has no such key or step.
    """
    series = tape.get(key)
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
            return f"{key} begins with {begins} at step {first}."
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
    if step % plan.steps_per_call:
        return (
            f"changed outside the scheduler: {label} is stepped after each epoch of {plan.steps_per_call} steps, and "
            f"step {step} is not the first of an epoch"
        )
    call = Call(
        plan.scheduler, plan.calls_before(step), plan, series.values[index] > series.values[index - 1], tape, step
    )
    return describe(call) or f"changed outside the scheduler: {label} changes nothing at {plan.interval} {call.number}"


def _outside(tape: Tape, key: str, index: int, plan: Plan) -> str:
    """What to say if the recorded change is not the simulated one; empty if it is, or nobody knows."""
    if plan.simulated is None or key not in plan.simulated:
        return ""
    planned = plan.simulated[key]
    recorded = tape[key]
    was, became = (planned.at(recorded.steps[at]) for at in (index - 1, index))
    if was is None or became is None:
        return ""
    if is_close(was, recorded.values[index - 1]) and is_close(became, recorded.values[index]):
        return ""
    finding = compare_with_plan(tape, plan.simulated, plan)
    if finding is not None and finding.code in TIMING_CODES:
        return f"not as planned. {finding.message.rstrip('.')}"
    if is_close(was, became):
        return f"changed outside the scheduler: by the plan it stays at {format_lr(was)}"
    return f"changed outside the scheduler: by the plan it goes from {format_lr(was)} to {format_lr(became)}"
