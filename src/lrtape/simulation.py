"""`simulate`: the tape of a training that nobody has run.

The module is not called after the function: whoever imported it would find it where ``lrtape.simulate`` was.
"""

import copy
import inspect
import random
import sys
import warnings
from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from lrtape.errors import ConfigError, LRTapeError
from lrtape.groups import thaw
from lrtape.keys import Keys
from lrtape.plan import Plan
from lrtape.recorder import Recorder
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, Series, Tape

_OF_ANOTHER = (
    "`scheduler` must be a scheduler of this optimizer, but is one of another instead. Where something wraps them (as "
    "Accelerate does), pass the optimizer and the scheduler that it wraps."
)


def simulate(
    optimizer: Optimizer,
    scheduler: Any,
    n_steps: int | Plan,
    *,
    interval: str = "step",
    steps_per_epoch: int | None = None,
    metrics: Sequence[float | None] | None = None,
    model: Module | None = None,
    name: str = "",
) -> Tape:
    """What a training from here on would record, without a model or data: the same keys, steps and values, bit for bit.

    The scheduler is stepped after each optimizer step, or after the last step of each epoch, as torch asks for. It
    works on a copy: optimizer, scheduler, their parameters and the random generators stay as they are, no hook is
    called, and nothing is recorded anywhere else. So hooks that set an lr have no part in it. Only a function of the
    user's that keeps a state of its own (a closure that counts its calls) cannot be copied, and is called.

    A param group that is ``frozen`` has no rows; it is thawed in its epoch (``unfreeze_at_epoch``, see
    `lrtape.groups`), where the length of an epoch is known.

    Takes 5 to 10 microseconds a step.

    ::

        tape = lrtape.simulate(optimizer, scheduler, n_steps=len(loader) * epochs)

    Args:
        optimizer: any torch optimizer.
        scheduler: of the optimizer; at its beginning, or wherever a training has brought it; ``None`` for none.
        n_steps: number of optimizer steps; or a `Plan`, whose interval and length of an epoch then count.
        interval: whether the scheduler is stepped after each ``step`` or after each ``epoch``.
        steps_per_epoch: optimizer steps of an epoch; needed where `interval` is epoch. Epochs are counted from here.
        metrics: what a scheduler that takes a metric (ReduceLROnPlateau) is given: one value for each of its calls, in
            order; ``None`` for an epoch that measures nothing, after which it is not stepped.
        model: names the param groups; see `lrtape.attach`.
        name: the optimizer's part of its keys; see `lrtape.attach`.

    Returns:
        A tape with the steps 0 to ``n_steps - 1`` of each param group, but for those in which it is frozen. The time of
        a step is its index, in ms.

    Raises:
        ConfigError: an argument is wrong, metrics are missing or not wanted, or the scheduler cannot be copied or fails
            before the end.
    """
    plan = n_steps if isinstance(n_steps, Plan) else Plan(n_steps, interval, steps_per_epoch)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"`optimizer` must be a torch optimizer, but is {type(optimizer).__name__} instead.")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ConfigError(_OF_ANOTHER)
    takes_metric = _takes_metric(scheduler)
    _check_metrics(scheduler, takes_metric, metrics, plan)
    paths = {} if model is None else {id(param): path for path, param in model.named_parameters()}
    Recorder(optimizer, 0, Keys(), name, paths)  # refuses what cannot be recorded, in the words of `attach`

    stand_in, twins = _stand_in_for(optimizer)
    columns = _Columns()
    twin_paths = {id(twins[param]): path for param, path in paths.items() if param in twins}
    recorder = Recorder(stand_in, 0, Keys(), name, twin_paths)
    with _quiet_and_without_chance():
        scheduler = _copy_of(scheduler, optimizer, stand_in, twins)
        recorder.start(columns)
        _run(stand_in, scheduler, plan, metrics if takes_metric else None)
    return columns.tape()


def _run(stand_in: "_StandIn", scheduler: Any, plan: Plan, metrics: Sequence[float | None] | None) -> None:
    steps_per_call, steps_per_epoch = plan.steps_per_call, plan.steps_per_epoch
    for call in range(plan.n_calls):
        for step in range(call * steps_per_call, min((call + 1) * steps_per_call, plan.n_steps)):
            if steps_per_epoch is not None and step % steps_per_epoch == 0:
                thaw(stand_in.param_groups, step // steps_per_epoch)
            stand_in.step()
        try:
            if metrics is not None and (metric := metrics[call]) is not None:
                scheduler.step(metric)
            elif metrics is None and scheduler is not None:
                scheduler.step()
        except LRTapeError:
            raise
        except Exception as error:
            raise ConfigError(
                f"`scheduler` must stand {plan.n_calls} calls of step(), the length of this run, but fails at call "
                f"{call + 1}: {type(error).__name__}: {error}. Change `scheduler.*`; a share, 100%, always fits."
            ) from error


def describe_scheduler(scheduler: Any) -> dict[str, Any]:
    """A scheduler as a config, for `Plan`: its class, and as many of its arguments as it still knows."""
    kind = type(scheduler)
    config: dict[str, Any] = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
    known: dict[str, Any] = getattr(scheduler, "__dict__", {})
    for argument in inspect.signature(kind).parameters:
        if argument == "last_epoch":
            continue  # where it is, not how it was made
        value = known.get(argument, known.get(f"_{argument}"))
        if argument == "schedulers" and value is not None:
            config[argument] = [describe_scheduler(part) for part in value]
        elif isinstance(value, Counter):  # the milestones of MultiStepLR
            config[argument] = sorted(value.elements())
        elif isinstance(value, bool | int | float | str | list | tuple):
            config[argument] = list(value) if isinstance(value, tuple) else value
    return config


def plan_of(
    optimizer: Optimizer,
    scheduler: Any,
    n_steps: int,
    *,
    interval: str = "step",
    steps_per_epoch: int | None = None,
    accumulate_grad_batches: int = 1,
    metrics: Sequence[float | None] | None = None,
    model: Module | None = None,
) -> Plan:
    """A plan of a training from here on, simulated; the arguments are those of `simulate` and of `Plan`.

    Without the metrics that a scheduler needs, the plan has no simulated tape.

    Raises:
        ConfigError: see `simulate`.
    """
    config = {} if scheduler is None else describe_scheduler(scheduler)
    length = Plan(n_steps, interval, steps_per_epoch, accumulate_grad_batches)
    simulated = None
    if metrics is not None or not _takes_metric(scheduler):
        simulated = simulate(optimizer, scheduler, length, metrics=metrics, model=model)
    made = max(0, getattr(scheduler, "last_epoch", 0))
    return Plan(n_steps, interval, steps_per_epoch, accumulate_grad_batches, config, simulated, calls_made=made)


def _takes_metric(scheduler: Any) -> bool:
    """Whether its ``step`` has an argument that must be given."""
    if scheduler is None:
        return False
    parameter = next(iter(inspect.signature(scheduler.step).parameters.values()), None)
    return parameter is not None and parameter.default is parameter.empty and parameter.kind not in _VARIADIC


_VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _check_metrics(scheduler: Any, takes_metric: bool, metrics: Sequence[float | None] | None, plan: Plan) -> None:
    kind = type(scheduler).__name__
    if not takes_metric and metrics is not None:
        raise ConfigError(f"`metrics` must be None for {kind}, which takes no metric, but has {len(metrics)} instead.")
    if takes_metric and (metrics is None or len(metrics) != plan.n_calls):
        given = "None" if metrics is None else f"{len(metrics)} values"
        raise ConfigError(
            f"`metrics` must have {plan.n_calls} values for {kind}, one for each {plan.interval} of this run, but is "
            f"{given} instead. Give what `scheduler.monitor` measured, or made-up values."
        )


class _StandIn(Optimizer):
    """An optimizer that updates nothing: what a copied scheduler works on. Global hooks are not called: somebody
    else's recording listens there.
    """

    def __init__(self, param_groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
        # Not torch's: it would patch `step` with the hooks of the process.
        self.defaults = defaults
        self.state = defaultdict(dict)
        self.param_groups = param_groups
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._opt_called = True  # schedulers warn otherwise

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Call the hooks of the recorder."""
        for before in self._optimizer_step_pre_hooks.values():
            before(self, (), {})
        for after in self._optimizer_step_post_hooks.values():
            after(self, (), {})

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # or a scheduler would warn, and patch it


def _stand_in_for(optimizer: Optimizer) -> tuple[_StandIn, dict[int, Parameter]]:
    """An optimizer with the same param groups, and the empty parameter that stands for each one, by its ``id()``."""
    twins = {
        id(param): Parameter(torch.empty(0), requires_grad=False)
        for group in optimizer.param_groups
        for param in group["params"]
    }
    memo: dict[int, Any] = dict(twins)
    groups = [
        {
            key: [twins[id(param)] for param in value] if key == "params" else copy.deepcopy(value, memo)
            for key, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    kind = type(type(optimizer).__name__, (_StandIn,), {})  # for texts that name the class
    return kind(groups, copy.deepcopy(optimizer.defaults, memo)), twins


def _copy_of(scheduler: Any, optimizer: Optimizer, stand_in: Optimizer, twins: Mapping[int, Parameter]) -> Any:
    memo: dict[int, Any] = {id(optimizer): stand_in, **twins}
    try:
        made = copy.deepcopy(scheduler, memo)
    except Exception as error:
        raise ConfigError(
            f"`scheduler` must be something that can be copied, but {type(scheduler).__name__} is not: "
            f"{type(error).__name__}: {error}. Keep files, locks and generators out of it."
        ) from error
    if any(isinstance(copied, Optimizer) and copied is not stand_in for copied in memo.values()):
        raise ConfigError(_OF_ANOTHER)  # the lrs of that one would change, and nobody would see it
    return made


@contextmanager
def _quiet_and_without_chance() -> Iterator[None]:
    """Without warnings, and with all random generators as before in the end: a schedule may draw from them."""
    numpy = sys.modules.get("numpy")
    drawn = random.getstate()
    numpy_drawn = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn)
        if numpy is not None:
            numpy.random.set_state(numpy_drawn)


class _Columns:
    """Keeps what the recorder writes, in columns."""

    def __init__(self) -> None:
        self._groups: tuple[Group, ...] = ()
        self._steps: dict[str, array[int]] = {}
        self._lrs: dict[str, array[float]] = {}

    def write(self, frame: GroupLayout | Record | Point | Finding) -> bool:
        """See `lrtape.recorder.FrameWriter`."""
        if isinstance(frame, Record):
            for group, lr in zip(self._groups, frame.lrs, strict=True):
                self._steps[group.key].append(frame.step)
                self._lrs[group.key].append(lr)
        elif isinstance(frame, GroupLayout):
            self._groups = frame.groups
            for group in frame.groups:
                self._steps.setdefault(group.key, array("q"))
                self._lrs.setdefault(group.key, array("d"))
        return True

    def tend(self) -> None:
        """See `lrtape.recorder.FrameWriter`."""

    def tape(self) -> Tape:
        """What was written."""
        return Tape.of({key: Series(steps, steps[:], self._lrs[key]) for key, steps in self._steps.items() if steps})
