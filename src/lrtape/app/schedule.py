"""When the learning rate changes: the length of a training, and the scheduler that is stepped along it."""

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from lrtape.app.build import build_optimizer
from lrtape.app.build_scheduler import build_scheduler
from lrtape.app.config import TrainerSettings
from lrtape.app.data import Data
from lrtape.app.horizons import resolve_lengths, resolve_scheduler
from lrtape.checks.case import ROUNDING
from lrtape.errors import ConfigError, LRTapeError
from lrtape.plan import Plan
from lrtape.simulation import simulate

MAX_SIMULATED_STEPS = 1_000_000
"""About ten seconds."""


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: passes over the data, the last one perhaps cut short.
        steps: optimizer steps altogether.
    """

    epochs: int
    steps: int

    @classmethod
    def of(cls, data: Data, settings: TrainerSettings, n_ranks: int = 1) -> "Length":
        """From the size of the data; ``max_steps`` decides where it is set, else ``epochs``."""
        per_epoch = steps_per_epoch(data, settings, n_ranks)
        if settings.max_steps is None:
            return cls(settings.epochs, settings.epochs * per_epoch)
        return cls(math.ceil(settings.max_steps / per_epoch), settings.max_steps)


def steps_per_epoch(data: Data, settings: TrainerSettings, n_ranks: int = 1) -> int:
    """Optimizer steps of a whole epoch, the last one perhaps on fewer samples; each rank has batches of its own."""
    n_batches = math.ceil(len(data.train) / (settings.batch_size * n_ranks))  # type: ignore[arg-type]  # it is sized
    return math.ceil(n_batches / settings.accumulate_grad_batches)


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

    Attributes:
        calls: how often it was stepped.
    """

    def __init__(self, scheduler: Scheduler, interval: str, monitor: str | None) -> None:
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor
        self.calls = 0

    def n_calls(self, length: Length) -> int:
        """How often a training of this length steps the scheduler."""
        return length.steps if self.interval == "step" else length.epochs

    def after_step(self) -> None:
        """Called after each optimizer step that was made."""
        if self.interval == "step":
            self._step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        """Called after each epoch; a scheduler that takes a metric waits for an epoch that has it."""
        if self.interval == "epoch" and self.monitor is None:
            self._step()
        elif self.monitor is not None and self.monitor in metrics:
            self._step(metrics[self.monitor])

    def fast_forward(self, calls: int) -> None:
        """Step a new scheduler `calls` times, as if it had been there from the beginning."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for _ in range(calls):
                self._step()

    def _step(self, *metrics: float) -> None:
        self.scheduler.step(*metrics)
        self.calls += 1

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
    """A copy of the config without interpolations, in which ``30%`` of a run is a number of epochs or steps.

    Raises:
        ConfigError: a length in it cannot be one of this run.
    """
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    calls = length.steps if cfg.scheduler.get("interval") == "step" else length.epochs
    scheduler = resolve_scheduler(resolved["scheduler"], calls)
    param_groups = resolve_lengths(resolved["param_groups"], {"unfreeze_at_epoch"}, length.epochs, "param_groups")
    return OmegaConf.create({**resolved, "scheduler": scheduler, "param_groups": param_groups})


def build_schedule(cfg: DictConfig, optimizer: Optimizer) -> Schedule:
    """Build the ``scheduler`` group; shares of the run must be resolved already, see `resolve_horizons`.

    Raises:
        ConfigError: it cannot be built, or a length in it is none.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg.scheduler, resolve=True)  # type: ignore[assignment]
    scheduler = build_scheduler(config, optimizer)
    return Schedule(scheduler, cfg.scheduler.get("interval", "epoch"), cfg.scheduler.get("monitor"))


def plan_training(
    cfg: DictConfig,
    model: nn.Module,
    length: Length,
    epoch_steps: int,
    metrics: Sequence[float | None] | None = None,
) -> Plan:
    """Step a schedule through the whole run, on an optimizer of its own, so that it cannot fail in the middle of it.

    Takes some 10 microseconds a step.

    Args:
        cfg: resolved.
        model: its parameters are not touched.
        length: of the run.
        epoch_steps: optimizer steps of a whole epoch; see `steps_per_epoch`.
        metrics: what a scheduler with a `monitor` is given: one value for each epoch, ``None`` where it has none.

    Returns:
        The plan, with what its first `MAX_SIMULATED_STEPS` will use; without that, where a scheduler takes a metric
        and nobody knows it yet.

    Raises:
        ConfigError: the scheduler raises, or sets an lr that is negative or not finite.
    """
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    n_steps = min(length.steps, MAX_SIMULATED_STEPS)
    config: dict[str, Any] = OmegaConf.to_container(cfg.scheduler, resolve=True)  # type: ignore[assignment]
    plan = Plan(
        *(length.steps, schedule.interval, epoch_steps, cfg.trainer.accumulate_grad_batches, config),
        lr_log10=_has_readable_lrs(cfg),
    )
    simulated = None
    if schedule.monitor is None:
        watched = _Watched(schedule.scheduler, optimizer, plan.n_calls)
        simulated = simulate(optimizer, watched, replace(plan, n_steps=n_steps))
    elif metrics is not None:
        simulated = simulate(optimizer, schedule.scheduler, replace(plan, n_steps=n_steps), metrics=metrics)
    return replace(plan, simulated=simulated)


def _has_readable_lrs(cfg: DictConfig) -> bool:
    tracking = cfg.get("tracking") or {}
    return bool(tracking.get("lr_log10", False)) or not tracking.get("enabled", True)


class _Watched:
    """A scheduler that may set no lr which no optimizer should use.

    Raises:
        ConfigError: the lr of the first step is one; or the one after a call of `step`.
    """

    def __init__(self, scheduler: Scheduler, optimizer: Optimizer, n_calls: int) -> None:
        self.optimizer = optimizer
        self._scheduler = scheduler
        self._n_calls = n_calls
        self._call = 0
        self._peak = 0.0
        self._check("for the first step")

    def step(self) -> None:
        """One call."""
        self._call += 1
        try:
            self._scheduler.step()
        except LRTapeError:
            raise
        except Exception as error:
            raise ConfigError(
                f"`scheduler` must stand {self._n_calls} calls of step(), the length of this run, but fails at call "
                f"{self._call}: {type(error).__name__}: {error}. Change `scheduler.*`; a share, 100%, always fits."
            ) from error
        if self._call < self._n_calls:  # What the last one sets, no step uses.
            self._check(f"at call {self._call} of {self._n_calls}")

    def _check(self, when: str) -> None:
        lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._peak = max([self._peak, *lrs])
        if not all(-ROUNDING * self._peak <= lr < math.inf for lr in lrs):
            raise ConfigError(
                f"`scheduler` must set learning rates >= 0, but sets {lrs} {when}. Change `scheduler.*`: a horizon of "
                "100% of the run, and an end that is not below 0."
            )
