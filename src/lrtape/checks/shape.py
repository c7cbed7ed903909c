"""Schedules that have another shape than anybody means: no change, a fall within the first steps, groups that part."""

from collections.abc import Iterator

from lrtape.checks.case import Case, Thresholds, others
from lrtape.checks.horizons import LENGTH_OF, parts
from lrtape.plan import Plan, kind_of, label_of
from lrtape.tape import Finding, Series

NEVER_CHANGES = "never-changes"
DECAYS_TOO_FAST = "decays-too-fast"
RATIO_CHANGES = "ratio-changes"

_SCALES_ALL_GROUPS = frozenset(
    {
        "constant",
        "constantlr",
        "cosineannealinglr",
        "cosineannealingwarmrestarts",
        "exponentiallr",
        "inversesqrt",
        "lambdalr",
        "linearlr",
        "multiplicativelr",
        "multisteplr",
        "polynomiallr",
        "reducelronplateau",
        "steplr",
        "warmupcosine",
        "warmuplinear",
        "wsd",
    }
)


def find_never_changes(case: Case) -> Iterator[Finding]:
    """A schedule that changes nothing."""
    plan = case.plan
    is_whole = max(len(series) for series in case.tape.values()) >= plan.n_steps
    if (
        not plan.is_scheduled
        or plan.kind == "reducelronplateau"
        or not is_whole
        or case.is_trial
        or any(series.values.count(series.values[0]) < len(series) for series in case.tape.values())
        or not any(series.values[0] for series in case.tape.values())
    ):
        return
    if plan.n_calls < 2:
        why = (
            "the run has one epoch, and the scheduler is stepped after it. Set `scheduler.interval=step`, and give "
            "horizons as shares of the run."
        )
    elif any(
        (length := part.config.get("step_size") or min(part.config.get("milestones") or [0])) and length >= part.n_calls
        for part in parts(plan)
    ):
        name = "step_size" if "step_size" in plan.scheduler else "milestones"
        why = (
            f"`scheduler.{name}` is {plan.scheduler.get(name)}, and the run has {plan.n_calls} {plan.interval}s. Give "
            f"a share of the run, scheduler.{name}={'30%' if name == 'step_size' else '[50%,75%]'}."
        )
    else:
        why = (
            "either scheduler.step() is never called, or its arguments change nothing. Call it after each "
            f"{plan.interval}; with no schedule in mind, use scheduler=constant."
        )
    key = next(iter(case.tape))
    yield Finding(
        NEVER_CHANGES,
        f"{key} is {case.tape[key].values[0]!r} in every step, although {label_of(plan.scheduler)} is configured: "
        f"{why}",
        key,
        case.tape[key].steps[0],
        "error",
    )


def find_decays_too_fast(case: Case) -> Iterator[Finding]:
    """An lr that is as good as zero for most of the run."""
    thresholds, n_steps = case.thresholds, case.plan.n_steps
    if case.is_trial:
        return
    found = []
    for key, series in case.finite().items():
        values = series.values
        peak = max(values)
        if peak <= 0 or min(values) < 0 or len(values) < thresholds.decayed_before * n_steps:
            continue
        index = len(values)
        while values[index - 1] < thresholds.decayed * peak:
            index -= 1
        if index < len(values) and series.steps[index] < thresholds.decayed_before * n_steps:
            found.append((key, index, peak))
    if found:
        key, index, peak = found[0]
        step = case.tape[key].steps[index]
        yield Finding(
            DECAYS_TOO_FAST,
            f"{key} falls below {thresholds.decayed:.0%} of its peak {peak:.6g} at step {step} of {n_steps}"
            f"{others(len(found))}, and stays there: {1 - step / n_steps:.0%} of the run trains next to nothing. "
            f"{_slower(case.plan)}",
            key,
            step,
        )


def _slower(plan: Plan) -> str:
    """What to do about a schedule that falls too fast."""
    label, unit, gamma = label_of(plan.scheduler), plan.interval, plan.scheduler.get("gamma")
    length = LENGTH_OF.get(plan.kind)
    if not plan.kind:
        text = "See that the scheduler is stepped as often as it was made for."
    elif plan.kind == "exponentiallr" and isinstance(gamma, float):
        text = (
            f"`scheduler.gamma` is {gamma:.6g}, and {label} is stepped {plan.n_calls} times, after each {unit}: "
            f"scheduler.gamma={0.01 ** (1 / plan.n_calls):.6g} ends at 1 %."
        )
    else:
        text = f"{label} is stepped {plan.n_calls} times, after each {unit}."
        if length in plan.scheduler:
            text += f" Give a share of the run, scheduler.{length}={'30%' if plan.kind == 'steplr' else '100%'}."
    if plan.interval == "step" and plan.n_epochs != 1:
        text += " Or, where its arguments are meant in epochs: `scheduler.interval=epoch`."
    return text


def find_changing_ratios(case: Case) -> Iterator[Finding]:
    """Two groups that a schedule should scale alike, and that it does not."""
    if case.is_trial or not _scales_all_groups(case):
        return
    tapes = case.finite()
    for first, other in zip(tapes, list(tapes)[1:], strict=False):
        step = _ratio_change(tapes[first], tapes[other], case.thresholds)
        if step is not None:
            was, became = (_ratio_at(tapes[first], tapes[other], at) for at in (None, step))
            yield Finding(
                RATIO_CHANGES,
                f"{other} is {was:.4g} times {first} at first, and {became:.4g} times at step {step}, although the "
                f"schedule scales both alike. {_floor(case.plan)}",
                other,
                step,
            )
            return


def _floor(plan: Plan) -> str:
    for name in ("eta_min", "min_lr"):
        if plan.scheduler.get(name):
            return (
                f"`scheduler.{name}` is one floor, {plan.scheduler[name]}, for all groups: set it to 0, or far below "
                "the smallest lr."
            )
    return (
        "Something else sets the lr of one of them: a second scheduler, a warm-up in the loop, a loaded state. Leave "
        "it to `scheduler`."
    )


def _scales_all_groups(case: Case) -> bool:
    configs = [part.config for part in parts(case.plan) if not part.config.get("schedulers")]
    names = ("lr_lambda", "max_lr", "base_lr", "min_lr")
    if any(isinstance(config.get(name), list | tuple) for config in configs for name in names):
        return False
    if case.plan.scheduler and all(
        kind_of(config) in _SCALES_ALL_GROUPS
        # A peak or a floor that is given is one for all groups.
        or (
            kind_of(config) in {"onecyclelr", "cycliclr"}
            and "max_lr" in config
            and config["max_lr"] is None
            and config.get("base_lr") is None
        )
        for config in configs
    ):
        return True
    simulated = case.plan.simulated
    return simulated is not None and not any(
        _ratio_change(simulated[first], simulated[other], case.thresholds) is not None
        for first, other in zip(simulated, list(simulated)[1:], strict=False)
    )


def _ratio_change(first: Series, other: Series, thresholds: Thresholds) -> int | None:
    """The first step at which the ratio of two groups is another than at first, while both are near their peaks."""
    first, other = _together(first, other)
    if first.steps != other.steps or not first or min(first.values) < 0 or min(other.values) < 0:
        return None
    floors = thresholds.ratio_floor * max(first.values), thresholds.ratio_floor * max(other.values)
    if not all(floors):
        return None
    was = None
    for step, one, two in zip(first.steps, first.values, other.values, strict=True):
        if one < floors[0] or two < floors[1]:
            continue
        was = was or two / one
        if not was / thresholds.ratio_change < two / one < was * thresholds.ratio_change:
            return step
    return None


def _together(first: Series, other: Series) -> tuple[Series, Series]:
    """Both from where the later one begins: a group that was frozen at first."""
    begin = max(first.steps[0], other.steps[0])
    return first.since(begin), other.since(begin)


def _ratio_at(first: Series, other: Series, step: int | None) -> float:
    first, other = _together(first, other)
    index = 0 if step is None else first.steps.index(step)
    while not first.values[index]:
        index += 1
    return other.values[index] / first.values[index]
