"""What can be known of a training before it is made: whether it can be built, what it is, and how its schedule goes."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lrtape.app.build import build_data, build_on_meta
from lrtape.app.config import OFF, STRICT, check
from lrtape.app.data import Data
from lrtape.app.lr_range import LOWEST_LOSS
from lrtape.app.overrides import portable
from lrtape.app.schedule import (
    MAX_SIMULATED_STEPS,
    Length,
    build_schedule,
    plan_training,
    resolve_horizons,
    steps_per_epoch,
)
from lrtape.app.sweep.grid import SEED, Point
from lrtape.app.trainer import metric_names
from lrtape.checks.registry import check as check_tape
from lrtape.errors import ConfigError
from lrtape.plan import Plan, kind_of, parts_of
from lrtape.tape import Tape

MAX_STEPS_OF_ALL = 5_000_000
"""Optimizer steps that are simulated for all points of a sweep together; about a minute."""
HASH_CHARACTERS = 12

_CYCLES_MOMENTUM = frozenset({"onecyclelr", "cycliclr"})


class Rehearsal(NamedTuple):
    """What is known of a point before it is trained.

    Attributes:
        n_steps: optimizer steps; 0 where nobody knows.
        metrics: what it will measure.
        warning: see `Trial`.
        refusal: see `Trial`.
        twin: equal for points that would train alike; empty where nobody knows.
    """

    n_steps: int
    metrics: list[str]
    warning: str = ""
    refusal: str = ""
    twin: tuple[str, str] | tuple[()] = ()


class Rehearsals:
    """Builds and simulates points, each one once, whatever its seeds.

    Attributes:
        n_epochs: of the longest one so far.
    """

    def __init__(self) -> None:
        self._data: dict[str, Data] = {}
        self._made: dict[tuple[str, ...], Rehearsal] = {}
        self._steps_left = MAX_STEPS_OF_ALL
        self.n_epochs = 0

    def __call__(self, cfg: DictConfig, point: Point) -> Rehearsal:
        """Of a point, with its config; raises whatever that raises where it cannot be built."""
        if point.overrides not in self._made:
            self._made[point.overrides] = self._rehearse(cfg)
        return self._made[point.overrides]

    def _rehearse(self, cfg: DictConfig) -> Rehearsal:
        settings = check(cfg, Path.cwd())
        if settings.trainer.resume is not None:
            raise ConfigError(
                f"`trainer.resume` must be null in a sweep, but is {settings.trainer.resume!r} instead. The same "
                "command goes on with a sweep, and trains anew what was cut off."
            )
        key = OmegaConf.to_yaml(cfg.data, resolve=True)
        if key not in self._data:
            self._data[key] = build_data(cfg)
        data = self._data[key]
        length, epoch_steps = Length.of(data, settings.trainer), steps_per_epoch(data, settings.trainer)
        self.n_epochs = max(self.n_epochs, length.epochs)
        cfg = resolve_horizons(cfg, length)
        model, optimizer = build_on_meta(cfg, data)
        if settings.range is not None:
            return Rehearsal(settings.range.n_steps, [LOWEST_LOSS])
        schedule = build_schedule(cfg, optimizer)
        names = metric_names(data)
        schedule.check_monitor(names)
        if length.steps > self._steps_left:
            return Rehearsal(length.steps, names)
        self._steps_left -= length.steps
        plan = plan_training(cfg, model, length, epoch_steps)
        serious = [found for found in check_tape(plan.simulated or Tape(), plan) if found.severity != "note"]
        worst = f"{serious[0].code}: {serious[0].message}" if serious and settings.checks != OFF else ""
        is_refused = settings.checks == STRICT
        return Rehearsal(
            length.steps, names, "" if is_refused else worst, worst if is_refused else "", _twin(cfg, plan)
        )


def content_of(cfg: DictConfig) -> dict[str, Any]:
    """What a training computes from: its config, without the machine, the tracking, and labels for people."""
    content = portable(cfg)
    content.pop("tracking")
    # Of any other group, `name` is an argument.
    content["scheduler"] = {key: value for key, value in content["scheduler"].items() if key != "name"}
    return content


def hash_of(value: Any) -> str:
    """Of plain values; the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


def _twin(cfg: DictConfig, plan: Plan) -> tuple[str, str] | tuple[()]:
    """What two trainings share that cannot differ; nothing where that is not known for sure."""
    if plan.simulated is None or plan.n_steps > MAX_SIMULATED_STEPS:
        return ()
    for part in parts_of(plan.scheduler):
        target = str(part.get("_target_"))
        if not target.startswith(("torch.optim.lr_scheduler.", "lrtape.schedules.")):
            return ()  # who knows what else it sets
        if kind_of(part) in _CYCLES_MOMENTUM and part.get("cycle_momentum", True):
            return ()  # sets the momentum, too
    lrs = hashlib.sha256()
    for key, series in plan.simulated.items():
        lrs.update(f"{key} {len(series)} ".encode() + series.values.tobytes())
    beside = {key: value for key, value in content_of(cfg).items() if key not in {"scheduler", SEED}}
    return hash_of(beside), lrs.hexdigest()
