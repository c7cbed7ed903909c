"""What people do with a scheduler by mistake: the timings at which it is stepped instead of the planned one."""

from collections.abc import Iterator
from typing import NamedTuple

from lrtape.plan import Plan
from lrtape.tape import Severity

BEFORE_OPTIMIZER = "stepped-before-optimizer"
EVERY_STEP = "stepped-every-step"
EVERY_EPOCH = "stepped-every-epoch"
SEVERAL_TIMES = "stepped-several-times"
TOO_RARELY = "stepped-too-rarely"

MAX_FACTOR = 64
"""A scheduler that is stepped more often than that per optimizer step is not recognised."""


class Explanation(NamedTuple):
    """Why a tape parts from its plan: the code of the finding, and the cause and the fix in a sentence or two."""

    code: str
    sentence: str
    severity: Severity = "error"


class Timing(NamedTuple):
    """After each `every` optimizer steps the scheduler is stepped `factor` times; it is `ahead` by so many calls."""

    every: int
    factor: int = 1
    ahead: int = 0

    def calls_before(self, step: int) -> int:
        """How often the scheduler has been stepped when an optimizer step begins."""
        return self.factor * (step // self.every) + self.ahead


def timings(plan: Plan) -> Iterator[tuple[Timing, Explanation]]:
    """What people do with a scheduler by mistake, and what to say about it."""
    every = plan.steps_per_call
    unit = "step" if plan.interval == "step" else f"epoch ({every} steps)"
    yield (
        Timing(every, ahead=1),
        Explanation(
            BEFORE_OPTIMIZER,
            "The scheduler is always one call ahead: the first value of the schedule is never used. Call "
            "scheduler.step() after optimizer.step(), not before it. Where a GradScaler skipped the very first step "
            "(`trainer.precision=16`), step the scheduler only when the optimizer was stepped.",
        ),
    )
    batches = plan.accumulate_grad_batches
    if plan.interval == "epoch" and every > 1:
        for timing, what in (
            (Timing(1), "optimizer step"),
            (Timing(1, batches, batches - 1), f"batch, {batches} times an optimizer step"),
            (Timing(1, batches), f"batch, {batches} times an optimizer step"),
        ):
            yield (
                timing,
                Explanation(
                    EVERY_STEP,
                    f"The scheduler is stepped after each {what}, where the plan steps it after each {unit}. Call "
                    "scheduler.step() once an epoch, outside of the loop over batches; or, where that is meant, set "
                    "`scheduler.interval=step` and give horizons as shares of the run, `scheduler.T_max=100%`.",
                ),
            )
    elif plan.steps_per_epoch is not None and plan.steps_per_epoch > 1:
        yield (
            Timing(plan.steps_per_epoch),
            Explanation(
                EVERY_EPOCH,
                f"The scheduler is stepped after each epoch ({plan.steps_per_epoch} steps), where the plan steps it "
                "after each step. Call scheduler.step() after each optimizer.step(); or, where that is meant, set "
                "`scheduler.interval=epoch` and give horizons as shares of the run, `scheduler.T_max=100%`.",
            ),
        )
    for factor in range(2, MAX_FACTOR + 1):
        often = Explanation(SEVERAL_TIMES, _several_times(factor, unit, batches))
        yield Timing(every, factor), often
        yield Timing(every, factor, factor - 1), often
    for factor in range(2, MAX_FACTOR + 1):
        yield (
            Timing(every * factor),
            Explanation(
                TOO_RARELY,
                f"The scheduler is stepped after each {factor} {plan.interval}s, where the plan steps it after each "
                f"{unit}, so that only 1/{factor} of its schedule is used. Call scheduler.step() after each "
                f"{plan.interval}, or divide the horizons of `scheduler` by {factor}.",
            ),
        )


def _several_times(factor: int, unit: str, batches: int) -> str:
    if factor == batches:
        return (
            f"The scheduler is stepped after each batch, {factor} times an optimizer step: "
            f"`trainer.accumulate_grad_batches={factor}`. Call scheduler.step() only after optimizer.step()."
        )
    return (
        f"The scheduler is stepped {factor} times in each {unit}, so that its schedule ends after 1/{factor} of the "
        "run. Call scheduler.step() once; under Accelerate, which steps it once for each process, do not pass the "
        f"scheduler to prepare(), or multiply the horizons of `scheduler` by {factor}."
    )
