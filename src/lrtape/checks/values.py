"""Learning rates that are wrong by themselves, whatever was meant."""

import math
from collections.abc import Iterator, Sequence

from lrtape.checks.case import ROUNDING, Case, Thresholds, others
from lrtape.checks.horizons import parts
from lrtape.keys import log10_key
from lrtape.plan import kind_of
from lrtape.tape import Finding

NOT_FINITE = "lr-not-finite"
NEGATIVE = "lr-negative"
ZERO = "lr-zero"
SPIKE = "spike"
NEVER_UPDATED = "group-never-updated"
BELOW_AXIS = "lr-below-axis"
AXIS_FLOOR = 1e-6
"""MLflow (3.17) labels every tick below it as 0, on a logarithmic axis too."""

_CYCLIC = frozenset({"cycliclr", "cosineannealingwarmrestarts"})


def find_not_finite(case: Case) -> Iterator[Finding]:
    """NaN and infinity."""
    found = [
        (key, next(index for index, lr in enumerate(series.values) if not math.isfinite(lr)))
        for key, series in case.tape.items()
        if not math.isfinite(sum(series.values)) and any(not math.isfinite(lr) for lr in series.values)
    ]
    if found:
        key, index = min(found, key=lambda pair: pair[1])
        series = case.tape[key]
        yield Finding(
            NOT_FINITE,
            f"{key} is {series.values[index]!r} from step {series.steps[index]} on{others(len(found))}: the update "
            "makes every parameter of the group NaN. Look for a division by zero in a function of "
            "`scheduler.lr_lambda`, or for an lr that is computed from the loss.",
            key,
            series.steps[index],
            "error",
        )


def find_negative(case: Case) -> Iterator[Finding]:
    """An lr below 0: the loss is climbed."""
    least = {key: -ROUNDING * max(series.values) for key, series in case.finite().items()}
    found = [key for key, series in case.finite().items() if min(series.values) < min(least[key], 0)]
    if found:
        series = case.tape[found[0]]
        index = next(index for index, lr in enumerate(series.values) if lr < min(least[found[0]], 0))
        yield Finding(
            NEGATIVE,
            f"{found[0]} is {series.values[index]!r} at step {series.steps[index]}{others(len(found))}: below 0 the "
            "loss is climbed. The schedule goes on after its end: give its horizon as a share of the run, "
            "`scheduler.total_iters=100%`, or stop it with max(..., 0).",
            found[0],
            series.steps[index],
            "error",
        )


def find_zero(case: Case) -> Iterator[Finding]:
    """An lr of 0 where the training goes on."""
    may_be = max(1.0, case.thresholds.zero_share * case.plan.n_steps)
    n_zeros = {key: series.values.count(0.0) for key, series in case.finite().items()}
    found = [key for key, count in n_zeros.items() if count > may_be]
    always = [key for key in found if n_zeros[key] == len(case.tape[key])]
    if always and len(always) < len(case.tape):
        yield Finding(
            ZERO,
            f"{always[0]} is 0 in every step{others(len(always))}: these parameters stay as they are. Where that is "
            "meant, leave them out of the optimizer; else change their factor in `param_groups`.",
            always[0],
            case.tape[always[0]].steps[0],
            "note",
        )
        found = [key for key in found if key not in always]
    if found:
        series = case.tape[found[0]]
        first = series.steps[series.values.index(0.0)]
        yield Finding(
            ZERO,
            f"{found[0]} is 0 in {n_zeros[found[0]]} of {case.plan.n_steps} steps, first at step {first}"
            f"{others(len(found))}: these steps train nothing. "
            + (
                "Set `optimizer.lr` to a number > 0, and see that the schedule does not multiply by 0."
                if always
                else "Give the horizon of the schedule as a share of the run, 100%, and let a warm-up begin above 0 "
                "(`scheduler.start_factor=0.01`)."
            ),
            found[0],
            first,
            # Whoever sets the lr by hand may mean it: a group that is thawed later, two groups that take turns.
            "error" if always else "warning" if case.plan.scheduler or series.values[-1] <= 0 else "note",
        )


def find_spikes(case: Case) -> Iterator[Finding]:
    """One step that is far from both of its neighbours."""
    if case.is_trial or any(kind_of(part.config) in _CYCLIC for part in parts(case.plan)):
        return
    for key, series in case.finite().items():
        index = _spike(series.values, case.thresholds)
        if index is None:
            continue
        before, lr, after = series.values[index - 1 : index + 2]
        step = series.steps[index]
        planned = case.plan.simulated
        if planned and key in planned and planned[key].at(step) == lr:
            continue
        yield Finding(
            SPIKE,
            f"{key} is {lr!r} in step {step} alone, between {before!r} and {after!r}. Something sets the lr for one "
            "step: a loaded optimizer state, a second scheduler, an lr that is set by hand; set it before the "
            "scheduler is made, or leave it to `scheduler`.",
            key,
            step,
        )
        return


def _spike(values: Sequence[float], thresholds: Thresholds) -> int | None:
    near, far = thresholds.spike_neighbours, thresholds.spike
    for index in range(1, len(values) - 1):
        lr, before = values[index], values[index - 1]
        if before / far < lr < before * far:
            continue
        after = values[index + 1]
        if not before > 0 or not before / near <= after <= before * near or after / far < lr < after * far:
            continue
        # The bottom of a cosine lies between two equal neighbours too, but the lr came there by like steps.
        slopes = (before - values[max(index - 2, 0)], values[min(index + 2, len(values) - 1)] - after)
        if abs(lr - before) > thresholds.spike_slope * max(map(abs, slopes)):
            return index
    return None


def find_below_axis(case: Case) -> Iterator[Finding]:
    """An lr that MLflow's axes cannot name."""
    if case.is_trial or case.plan.lr_log10:
        return
    floor = AXIS_FLOOR * (1 - ROUNDING)
    n_below = {key: sum(0 < lr < floor for lr in series.values) for key, series in case.tape.items()}
    found = [key for key, count in n_below.items() if count > case.thresholds.below_axis * len(case.tape[key])]
    if found:
        series = case.tape[found[0]]
        yield Finding(
            BELOW_AXIS,
            f"{found[0]} is below {AXIS_FLOOR:g}, and above 0, in {n_below[found[0]]} of {len(series)} steps"
            f"{others(len(found))}: MLflow labels every tick below {AXIS_FLOOR:g} as 0. `tracking.lr_log10=true`, or "
            f"attach(..., lr_log10=True), stores its logarithm, too, as {log10_key(found[0])}.",
            found[0],
            next(step for step, lr in zip(series.steps, series.values, strict=True) if 0 < lr < floor),
            "note",
        )


def find_never_updated(case: Case) -> Iterator[Finding]:
    """Groups whose lr moves nothing."""
    for key in case.never_updated:
        if key in case.tape:
            yield Finding(
                NEVER_UPDATED,
                f"{key} has an lr, and its parameters never change: they are frozen, or get no gradient. Its curve "
                "says nothing. Leave the group out of `param_groups`; or set requires_grad, and see that the loss "
                "depends on it.",
                key,
                case.tape[key].steps[0],
            )
