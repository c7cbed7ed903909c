"""What a training means to do with its learning rates: its length, its schedule, its tape."""

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lrtape.errors import ConfigError
from lrtape.tape import Tape

INTERVALS = ("step", "epoch")
UNSCHEDULED = frozenset({"", "constant"})
"""The kinds of scheduler that are none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a training is, and how it means to change its lr.

    Attributes:
        n_steps: number of optimizer steps altogether; at least 1.
        interval: whether the scheduler is stepped after each optimizer ``step`` or after each ``epoch``.
        steps_per_epoch: optimizer steps of a whole epoch; ``None`` where nobody knows.
        accumulate_grad_batches: number of batches that make one optimizer step.
        scheduler: the scheduler's config: ``_target_``, its arguments, and ``monitor``; shares are numbers already.
            Empty where nobody knows.
        simulated: what this training would record; see `lrtape.simulate`.
        skipped_steps: number of optimizer steps that a GradScaler skipped; ``None`` where nobody knows.
        calls_made: how often the scheduler was stepped before the first one of these steps.
        lr_log10: whether the logarithm of each lr is stored beside it; or nothing is, so that nobody misses it.

    Raises:
        ConfigError: a length is not a whole number >= 1, the interval is unknown, or epochs have no length.
    """

    n_steps: int
    interval: str = "step"
    steps_per_epoch: int | None = None
    accumulate_grad_batches: int = 1
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    simulated: Tape | None = None
    skipped_steps: int | None = None
    calls_made: int = 0
    lr_log10: bool = False

    def __post_init__(self) -> None:
        for name in ("n_steps", "steps_per_epoch", "accumulate_grad_batches"):
            value = getattr(self, name)
            if value is None and name == "steps_per_epoch":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"`{name}` must be a whole number >= 1, but is {value!r} instead. It counts optimizer steps; "
                    "len(loader) * epochs without accumulation."
                )
        if self.interval not in INTERVALS:
            raise ConfigError(f"`interval` must be one of {', '.join(INTERVALS)}, but is {self.interval!r} instead.")
        if self.interval == "epoch" and self.steps_per_epoch is None:
            raise ConfigError(
                "`steps_per_epoch` must be given where `interval` is epoch, but is None instead. It is the number of "
                "optimizer steps of one epoch."
            )

    @property
    def steps_per_call(self) -> int:
        """How many optimizer steps are made between two calls of ``scheduler.step()``."""
        return 1 if self.interval == "step" else self.steps_per_epoch or 1

    @property
    def n_calls(self) -> int:
        """How often the scheduler is stepped; after the last epoch too, if it is cut short."""
        return math.ceil(self.n_steps / self.steps_per_call)

    @property
    def n_epochs(self) -> int | None:
        """Number of epochs, the last one perhaps cut short; ``None`` where nobody knows."""
        return None if self.steps_per_epoch is None else math.ceil(self.n_steps / self.steps_per_epoch)

    def calls_before(self, step: int) -> int:
        """How often the scheduler has been stepped when this optimizer step begins."""
        return step // self.steps_per_call

    @property
    def thaws(self) -> bool:
        """Whether it is known that a group is frozen at first."""
        return self.simulated is not None and any(series.steps[0] for series in self.simulated.values())

    @property
    def kind(self) -> str:
        """See `kind_of`."""
        return kind_of(self.scheduler)

    @property
    def is_scheduled(self) -> bool:
        """Whether it is known that there is a schedule."""
        return self.kind not in UNSCHEDULED


def kind_of(scheduler: Mapping[str, Any]) -> str:
    """What a scheduler is, ``onecyclelr`` for torch's class and for lrtape's function; empty where nobody knows."""
    return label_of(scheduler).replace("_", "").lower()


def label_of(scheduler: Mapping[str, Any]) -> str:
    """The last part of a config's ``_target_``, for people; empty without one."""
    return str(scheduler.get("_target_") or "").rpartition(".")[2]


def parts_of(scheduler: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A scheduler's config and those of all schedulers within it."""
    yield scheduler
    for value in scheduler.values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping) and "_target_" in item:
                yield from parts_of(item)


def scheduler_of_params(params: Mapping[str, str]) -> dict[str, Any]:
    """The scheduler's config out of the params of an MLflow run, where ``scheduler.gamma`` is the text ``0.1``.

    Args:
        params: of the run; those that do not begin with ``scheduler.`` are left out.
    """
    config: dict[str, Any] = {}
    for name, text in params.items():
        root, *path = name.split(".")
        if root == "scheduler" and path:
            node = config
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = _value_of(text)
    return config


def _value_of(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
