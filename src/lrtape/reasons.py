"""What a scheduler did in one of its calls, in the words of its config."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lrtape.plan import Plan, kind_of, label_of
from lrtape.tape import Series, Tape


class Call(NamedTuple):
    """One call of a scheduler's ``step()``.

    Attributes:
        config: of the scheduler.
        number: of the call; the first is 1.
        plan: of the run.
        rises: whether the lr rose.
        tape: of the run.
        step: index of the optimizer step that used the new lr first.
    """

    config: Mapping[str, Any]
    number: int
    plan: Plan
    rises: bool
    tape: Tape
    step: int

    def get(self, name: str, default: float = 0.0) -> float:
        """A number of the config."""
        value = self.config.get(name)
        return value if isinstance(value, int | float) else default

    @property
    def place(self) -> str:
        """Where it was: ``epoch 6``."""
        return f"{self.plan.interval} {self.number}"

    def of(self, name: str) -> str:
        """How far a length has come: ``epoch 6 of 20 (T_max)``."""
        return f"{self.place} of {self.config.get(name)} ({name})"


def describe(call: Call) -> str:
    """What a scheduler did in a call; empty where it does nothing."""
    tell = _TELL.get(kind_of(call.config))
    text = f"stepped, at {call.place}" if tell is None else tell(call)
    return f"{label_of(call.config)}: {text}" if text else ""


def _step_lr(call: Call) -> str:
    size = call.get("step_size", 1)
    if call.number % size:
        return ""
    gamma = call.get("gamma", 0.1)
    return (
        f"milestone at {call.place}, as after each {size:g} {call.plan.interval}s (step_size {size:g}, gamma {gamma:g})"
    )


def _multi_step_lr(call: Call) -> str:
    is_milestone = call.number in (call.config.get("milestones") or [])
    return f"milestone at {call.place} (gamma {call.get('gamma', 0.1):g})" if is_milestone else ""


def _exponential_lr(call: Call) -> str:
    gamma = call.get("gamma", 0.01 ** (1 / call.get("n", call.plan.n_calls)))
    return f"times gamma {gamma:.6g}, as after each {call.plan.interval}"


def _by_function(call: Call) -> str:
    given = call.config.get("lr_lambda")
    return f"lr_lambda at {call.place}" + (f" ({given})" if isinstance(given, str) else "")


def _constant_lr(call: Call) -> str:
    is_end = call.number == call.get("total_iters", 5)
    return f"the factor {call.get('factor', 1 / 3):.6g} ends at {call.place} (total_iters)" if is_end else ""


def _linear_lr(call: Call) -> str:
    if call.number > call.get("total_iters", 5):
        return ""
    return f"{'warm-up' if call.rises else 'linear decay'}, {call.of('total_iters')}"


def _polynomial_lr(call: Call) -> str:
    return f"decay, {call.of('total_iters')}" if call.number <= call.get("total_iters", 5) else ""


def _cosine(call: Call) -> str:
    horizon = call.get("T_max", call.plan.n_calls)
    if call.number > horizon:
        way = "rises" if (call.number - 1) // horizon % 2 else "falls"
        return f"the cosine {way} again, as it was made for {horizon:g} {call.plan.interval}s (T_max)"
    return f"half a cosine down, {call.of('T_max')}"


def _warm_restarts(call: Call) -> str:
    length, begun, count = int(call.get("T_0", 1)), 0, 0
    while call.number - begun >= length:
        begun += length
        length *= int(call.get("T_mult", 1))
        count += 1
    if call.number == begun:
        return f"restart {count} at {call.place} (T_0 {call.get('T_0'):g})"
    return f"half a cosine down, {call.number - begun} of {length} since restart {count}"


def _one_cycle(call: Call) -> str:
    total = call.get("total_steps", call.get("epochs") * call.get("steps_per_epoch"))
    share = call.get("pct_start", 0.3)
    phase = "warm-up to max_lr" if call.rises else "annealing"
    return f"{phase}, {call.place} of {total:g} (pct_start {share:g})"


def _cyclic(call: Call) -> str:
    size = call.config.get("step_size_up")
    text = f"{'up to max_lr' if call.rises else 'down to base_lr'}, at {call.place}"
    return text if size is None else f"{text} (step_size_up {size})"


def _swa_lr(call: Call) -> str:
    is_over = call.number > call.get("anneal_epochs", 10)
    return "" if is_over else f"annealing to swa_lr, {call.of('anneal_epochs')}"


def _with_warmup(call: Call) -> str:
    if call.number <= call.get("warmup_iters"):
        return f"warm-up, {call.of('warmup_iters')}"
    if call.number > call.get("total_iters", math.inf):
        return ""
    begins = call.get("total_iters") - call.get("decay_iters")
    if kind_of(call.config) == "wsd" and call.number <= begins:
        return ""
    if kind_of(call.config) == "inversesqrt":
        return f"decay with the inverse square root, at {call.place}"
    return f"{'rise' if call.rises else 'decay'}, {call.of('total_iters')}"


def _sequential(call: Call) -> str:
    milestones = list(call.config.get("milestones") or [])
    schedulers = list(call.config.get("schedulers") or [])
    index = bisect_right(milestones, call.number)
    if index >= len(schedulers):
        return ""
    begun = milestones[index - 1] if index else 0
    if index and begun == call.number:
        one, other = label_of(schedulers[index - 1]), label_of(schedulers[index])
        return f"milestone at {call.place}, where {other} follows {one}"
    return describe(call._replace(config=schedulers[index], number=call.number - begun))


def _chained(call: Call) -> str:
    texts = [describe(call._replace(config=config)) for config in call.config.get("schedulers") or []]
    return "; ".join(filter(None, texts))


def _plateau(call: Call) -> str:
    """The schedule's own rule, on what the tape has of its metric."""
    patience, monitor = call.get("patience", 10), str(call.config.get("monitor") or "the metric")
    factor = call.get("factor", 0.1)
    given = call.tape.get(monitor, Series())
    if not given or bisect_left(given.steps, call.step) > call.number:
        # Nobody has recorded what the scheduler was given; of train/loss, which has a value for each step, the mean.
        return f"{monitor} had not improved for more than {patience:g} epochs (patience; factor {factor:g})"
    is_max, threshold = call.config.get("mode") == "max", call.get("threshold", 1e-4)
    best, n_bad, cooldown, reduced = -math.inf if is_max else math.inf, 0, 0.0, False
    since = best
    for step, value in zip(given.steps, given.values, strict=True):
        if step >= call.step:
            break
        if _is_better(value, best, is_max, threshold, call.config.get("threshold_mode") != "abs"):
            best, n_bad = value, 0
        else:
            n_bad += 1
        if cooldown > 0:
            cooldown, n_bad = cooldown - 1, 0
        reduced, since = n_bad > patience, n_bad
        if reduced:
            cooldown, n_bad = call.get("cooldown"), 0
    if not reduced:
        return ""
    return f"{monitor} had not improved on {best:.6g} for {since:g} epochs (patience {patience:g}, factor {factor:g})"


def _is_better(value: float, best: float, is_max: bool, threshold: float, is_relative: bool) -> bool:
    """As torch 2.13 has it."""
    sign = 1.0 if is_max else -1.0
    bound = best * (1.0 + sign * threshold) if is_relative else best + sign * threshold
    return value > bound if is_max else value < bound


_TELL: dict[str, Callable[[Call], str]] = {
    "chainedscheduler": _chained,
    "constant": lambda _: "",
    "constantlr": _constant_lr,
    "cosineannealinglr": _cosine,
    "cosineannealingwarmrestarts": _warm_restarts,
    "cycliclr": _cyclic,
    "exponentiallr": _exponential_lr,
    "inversesqrt": _with_warmup,
    "lambdalr": _by_function,
    "linearlr": _linear_lr,
    "multiplicativelr": _by_function,
    "multisteplr": _multi_step_lr,
    "onecyclelr": _one_cycle,
    "polynomiallr": _polynomial_lr,
    "reducelronplateau": _plateau,
    "sequentiallr": _sequential,
    "steplr": _step_lr,
    "swalr": _swa_lr,
    "warmupcosine": _with_warmup,
    "warmuplinear": _with_warmup,
    "wsd": _with_warmup,
}
"""What each kind of scheduler does; of any other it is known only that it was stepped."""
