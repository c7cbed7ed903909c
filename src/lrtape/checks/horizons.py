"""The lengths in a scheduler's config, held against the length of the run."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from lrtape.checks.case import Case
from lrtape.plan import Plan, kind_of, label_of
from lrtape.tape import Finding

HORIZON_TOO_SHORT = "horizon-too-short"
HORIZON_TOO_LONG = "horizon-too-long"

SEQUENTIAL = "sequentiallr"
CHAINED = "chainedscheduler"

LENGTH_OF = {
    "cosineannealinglr": "T_max",
    "cosineannealingwarmrestarts": "T_0",
    "onecyclelr": "total_steps",
    "cycliclr": "step_size_up",
    "constantlr": "total_iters",
    "linearlr": "total_iters",
    "polynomiallr": "total_iters",
    "warmupcosine": "total_iters",
    "warmuplinear": "total_iters",
    "wsd": "total_iters",
    "inversesqrt": "warmup_iters",
    "steplr": "step_size",
    "swalr": "anneal_epochs",
}
"""What says how long a scheduler goes on, by its kind."""

_ENDS_LOW = frozenset({"polynomiallr", "warmupcosine", "warmuplinear", "wsd"})
"""What is over after its length, and rests where it ended."""


class Part(NamedTuple):
    """One scheduler of a config, and how often it is stepped.

    Attributes:
        config: its own.
        prefix: of its keys, ``scheduler.`` or ``scheduler.schedulers.1.``.
        n_calls: number of its calls in the run, with those that were made before.
    """

    config: Mapping[str, Any]
    prefix: str
    n_calls: int


class Horizon(NamedTuple):
    """A length that does not fit the run.

    Attributes:
        is_short: whether it is too short; else it is too long.
        sentence: that says so, and how to mend it.
        call: of the scheduler, from where on the run is not as meant; 0 for all of it.
        fails: whether the training would be ended by an error.
    """

    is_short: bool
    sentence: str
    call: int = 0
    fails: bool = False


def parts(plan: Plan) -> Iterator[Part]:
    """Every scheduler of the plan that is stepped by itself, those within others too."""
    yield from _parts(plan.scheduler, "scheduler.", plan.calls_made + plan.n_calls)


def _parts(config: Mapping[str, Any], prefix: str, n_calls: int) -> Iterator[Part]:
    yield Part(config, prefix, n_calls)
    inner = [item for item in config.get("schedulers") or [] if isinstance(item, Mapping)]
    if kind_of(config) == SEQUENTIAL:
        bounds = [0, *_numbers(config.get("milestones")), n_calls]
        spans = [max(0, min(end, n_calls) - begin) for begin, end in pairwise(bounds)]
    else:
        spans = [n_calls] * len(inner)
    for index, (item, span) in enumerate(zip(inner, spans, strict=False)):
        yield from _parts(item, f"{prefix}schedulers.{index}.", span)


def find_misfits(case: Case) -> Iterator[Finding]:
    """Horizons that are far from the length of the run."""
    if case.plan.n_steps < case.thresholds.fewest_steps:
        return
    key = next(iter(case.tape))
    for misfit in misfits(case.plan, case.thresholds.horizon_slack, case.thresholds.longest_horizon):
        yield Finding(
            HORIZON_TOO_SHORT if misfit.is_short else HORIZON_TOO_LONG,
            misfit.sentence,
            key,
            min(max(misfit.call - case.plan.calls_made, 0) * case.plan.steps_per_call, case.plan.n_steps - 1),
            "error" if misfit.fails else "warning",
        )


def misfits(plan: Plan, slack: float, longest: float) -> Iterator[Horizon]:
    """Every length of the plan's schedulers that is far from that of the run.

    Args:
        plan: of the run.
        slack: share of the run by which a schedule may be too short.
        longest: how many times as long as the run a schedule may be.
    """
    for part in parts(plan):
        if part.n_calls < 2:
            continue
        kind = kind_of(part.config)
        if kind in {"multisteplr", SEQUENTIAL}:
            yield from _late_milestones(part, plan)
        length = _length(part.config)
        if length is None:
            continue
        said = _Said(part, plan, *length)
        if kind == "onecyclelr" and said.length < part.n_calls:
            yield Horizon(
                True,
                f"{said.opening}, and {label_of(part.config)} raises an error after {said.length} calls of step(). "
                f"{said.fix}",
                said.length,
                fails=True,
            )
        elif kind == "cosineannealinglr" and said.length < (1 - slack) * (part.n_calls - 1):
            yield Horizon(True, f"{said.opening}: after that the cosine rises again. {said.fix}", said.length)
        elif kind in _ENDS_LOW and said.length < (1 - slack) * (part.n_calls - 1):
            yield Horizon(
                True,
                f"{said.opening}: the rest of the run stays at the lowest lr of {label_of(part.config)}. {said.fix}",
                said.length,
            )
        elif kind != "steplr" and said.length > part.n_calls * (1 if kind == "cycliclr" else longest):
            yield Horizon(
                False, f"{said.opening}: only the first {part.n_calls / said.length:.0%} of it is used. {said.fix}"
            )
        warmup = part.config.get("warmup_iters")
        if kind != "inversesqrt" and isinstance(warmup, int) and warmup >= part.n_calls:
            yield Horizon(
                False,
                f"`{part.prefix}warmup_iters` is {warmup}, so that the run of {part.n_calls} {plan.interval}s never "
                f"gets out of its warm-up. Give a share of the run, {part.prefix}warmup_iters=5%.",
            )


class _Said(NamedTuple):
    """The words for one length."""

    part: Part
    plan: Plan
    name: str
    length: int

    @property
    def opening(self) -> str:
        n_calls, unit = self.part.n_calls, self.plan.interval
        where = "is stepped" if self.part.prefix == "scheduler." else "is stepped there"
        return (
            f"`{self.part.prefix}{self.name}` is {self.length}, and {label_of(self.part.config)} {where} {n_calls} "
            f"times, after each {unit}"
        )

    @property
    def fix(self) -> str:
        share = f"Give a share of the run, {self.part.prefix}{self.name}=100%"
        other = {"step": "epoch", "epoch": "step"}[self.plan.interval]
        n_others = self.plan.n_epochs if other == "epoch" else self.plan.n_steps
        if n_others is not None and n_others > 1 and self.length == n_others != self.part.n_calls:
            return (
                f"{self.length} is the number of {other}s: set `scheduler.interval={other}`. Or: "
                f"{share[0].lower()}{share[1:]}."
            )
        return f"{share}, or the number of {self.plan.interval}s."


def _length(config: Mapping[str, Any]) -> tuple[str, int] | None:
    name = LENGTH_OF.get(kind_of(config))
    if name is None:
        return None
    length = config.get(name)
    if name == "total_steps" and length is None:
        name = "epochs"
        factors = _numbers([config.get("epochs"), config.get("steps_per_epoch")])
        length = factors[0] * factors[1] if len(factors) == 2 else None
    if isinstance(length, bool) or not isinstance(length, int | float) or length < 1:
        return None
    return name, int(length)


def _late_milestones(part: Part, plan: Plan) -> Iterator[Horizon]:
    milestones = _numbers(part.config.get("milestones"))
    late = [milestone for milestone in milestones if milestone > part.n_calls]
    if late:
        yield Horizon(
            False,
            f"`{part.prefix}milestones` has {late[0]}, which never comes: the run has {part.n_calls} {plan.interval}s. "
            "Give shares of the run, [50%, 75%].",
        )


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values or [] if isinstance(value, int | float) and not isinstance(value, bool)]
