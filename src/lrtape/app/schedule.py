"""When the learning rate changes: the length of a training, and the scheduler that is stepped along it."""

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from lrtape.app.build import build, build_optimizer
from lrtape.app.config import SCHEDULER_KEYS, TrainerSettings
from lrtape.app.data import Data
from lrtape.errors import ConfigError
from lrtape.schedules import resolve_shares

_LENGTHS = {"step_size", "T_max", "T_0", "total_steps", "total_iters"}
"""Arguments that torch does not check, and that fail only after the first epochs."""

MAX_REHEARSED_CALLS = 100_000
"""About a second."""


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: passes over the data, the last one perhaps cut short.
        steps: optimizer steps altogether.
    """

    epochs: int
    steps: int

    @classmethod
    def of(cls, data: Data, settings: TrainerSettings) -> "Length":
        """From the size of the data; ``max_steps`` decides where it is set, else ``epochs``."""
        n_batches = math.ceil(len(data.train) / settings.batch_size)  # type: ignore[arg-type]  # it is sized
        per_epoch = math.ceil(n_batches / settings.accumulate_grad_batches)
        if settings.max_steps is None:
            return cls(settings.epochs, settings.epochs * per_epoch)
        return cls(math.ceil(settings.max_steps / per_epoch), settings.max_steps)


class Scheduler(Protocol):
    """What every torch scheduler has."""

    def step(self, *metrics: float) -> None:
        """Set the lr of the next step; some take a metric."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""


class Schedule:
    """A scheduler, and when it is stepped.

    Args:
        scheduler: of the optimizer.
        interval: after each optimizer ``step``, or after each ``epoch``.
        monitor: the metric that it is given, ``val/loss`` say, or ``None``.
    """

    def __init__(self, scheduler: Scheduler, interval: str, monitor: str | None) -> None:
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor

    def n_calls(self, length: Length) -> int:
        """How often a training of this length steps the scheduler."""
        return length.steps if self.interval == "step" else length.epochs

    def after_step(self) -> None:
        """Called after each optimizer step that was made."""
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        """Called after each epoch; a scheduler that takes a metric waits for an epoch that has it."""
        if self.interval == "epoch" and self.monitor is None:
            self.scheduler.step()
        elif self.monitor is not None and self.monitor in metrics:
            self.scheduler.step(metrics[self.monitor])

    def check_monitor(self, metric_names: Sequence[str]) -> None:
        """See that the scheduler gets what it takes, from what the training measures.

        Raises:
            ConfigError: a metric is missing, unknown, or not wanted.
        """
        kind, names = type(self.scheduler).__name__, ", ".join(metric_names)
        # torch's other schedulers take nothing, or an epoch, which a metric must not be mistaken for.
        parameter = next(iter(inspect.signature(self.scheduler.step).parameters.values()), None)
        if self.monitor is None:
            if parameter is not None and parameter.default is parameter.empty:
                raise ConfigError(f"`scheduler.monitor` must be set for {kind}, which takes a metric: one of {names}.")
        elif parameter is None or parameter.name == "epoch":
            raise ConfigError(
                f"`scheduler.monitor` must be null for {kind}, which takes no metric, but is {self.monitor!r} instead."
            )
        elif self.monitor not in metric_names:
            raise ConfigError(f"`scheduler.monitor` must be one of {names}, but is {self.monitor!r} instead.")


def resolve_horizons(cfg: DictConfig, length: Length) -> DictConfig:
    """A copy of the config without interpolations, in which ``30%`` of a run is a number of epochs or steps."""
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    calls = length.steps if cfg.scheduler.get("interval") == "step" else length.epochs
    return OmegaConf.create({**resolved, "scheduler": resolve_shares(resolved["scheduler"], calls)})


def build_schedule(cfg: DictConfig, optimizer: Optimizer) -> Schedule:
    """Build the ``scheduler`` group; shares of the run must be resolved already, see `resolve_horizons`.

    Raises:
        ConfigError: it cannot be built, or a length in it is none.
    """
    for name in cfg.scheduler.keys() & _LENGTHS:
        length = cfg.scheduler[name]
        if name == "total_steps" and length is None:
            continue  # OneCycleLR then takes epochs * steps_per_epoch.
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise ConfigError(
                f"`scheduler.{name}` must be a whole number >= 1, or a share of the run as 30%, but is {length!r} "
                "instead."
            )
    arguments = {key: value for key, value in cfg.scheduler.items() if key not in SCHEDULER_KEYS}
    scheduler: Scheduler = build("scheduler", OmegaConf.create(arguments), optimizer)
    return Schedule(scheduler, cfg.scheduler.get("interval", "epoch"), cfg.scheduler.get("monitor"))


def rehearse(cfg: DictConfig, model: nn.Module, length: Length) -> None:
    """Step a schedule through the whole run, on an optimizer of its own, so that it cannot fail in the middle of it.

    Schedulers that take a metric are left out: nobody knows it yet.

    Args:
        cfg: resolved.
        model: its parameters are not touched.
        length: of the run.

    Raises:
        ConfigError: the scheduler raises, or sets an lr that is negative or not finite.
    """
    if cfg.scheduler.get("monitor") is not None:
        return
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    n_calls = schedule.n_calls(length)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for call in range(min(n_calls, MAX_REHEARSED_CALLS)):
            try:
                schedule.scheduler.step()
            except Exception as error:
                raise ConfigError(
                    f"`scheduler` must stand {n_calls} calls of step(), the length of this run, but fails at call "
                    f"{call + 1}: {type(error).__name__}: {error}. Change `scheduler.*`; a share, 100%, always fits."
                ) from error
            lrs = [float(group["lr"]) for group in optimizer.param_groups]
            if not all(0 <= lr < math.inf for lr in lrs):
                raise ConfigError(
                    f"`scheduler` must set learning rates >= 0, but sets {lrs} at call {call + 1} of {n_calls}. Change "
                    "`scheduler.*`."
                )
