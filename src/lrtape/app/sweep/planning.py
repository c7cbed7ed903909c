"""Looks at every trial of a sweep before anything is started: can it be built, is it one of its own, is it any good?"""

import hashlib
import itertools
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lrtape.app.build import build_data, build_on_meta
from lrtape.app.config import OFF, STRICT, Settings, check, sentence
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
from lrtape.app.sweep.grid import SEED, Point, expand, short_names
from lrtape.app.sweep.objective import direction_of, objective_of
from lrtape.app.trainer import metric_names
from lrtape.checks.registry import check as check_tape
from lrtape.errors import ConfigError
from lrtape.plan import Plan, kind_of, parts_of
from lrtape.tape import Tape
from lrtape.trials import Trial

MAX_STEPS_OF_ALL = 5_000_000
"""Optimizer steps that are simulated for all points of a sweep together; about a minute."""
MAX_TITLE_CHARACTERS = 100
HASH_CHARACTERS = 12

_CYCLES_MOMENTUM = frozenset({"onecyclelr", "cycliclr"})
_MAX_LISTED = 5

Compose = Callable[[Sequence[str]], DictConfig]
"""From overrides to the config of a training, without Hydra's own node."""
Twin = tuple[str, ...]
"""What trials have in common that would train alike; empty where nobody knows."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What a sweep is going to do.

    Attributes:
        id: the same for the same experiment and the same trials; or a hash of its name.
        title: of its run.
        objective: the metric that tells which point is best.
        direction: whether that is the lowest (``min``) or the highest (``max``).
        trials: all of them, in order.
        swept: the texts of all values, by swept key.
    """

    id: str
    title: str
    objective: str
    direction: str
    trials: tuple[Trial, ...]
    swept: dict[str, list[str]]

    @property
    def n_steps(self) -> int:
        """Optimizer steps of all trials that are to be trained."""
        return sum(trial.n_steps for trial in self.trials if trial.is_trained)


def plan_sweep(settings: Settings, arguments: Sequence[str], compose: Compose, choice: str = "") -> SweepPlan:
    """Compose, check, build and simulate every trial; nothing is trained, and no data are loaded that need not be.

    Takes about 100 ms for a trial, most of which Hydra composes, and 10 microseconds for each step of a point.

    Args:
        settings: of the sweep, without the swept values.
        arguments: overrides, as on the command line.
        compose: makes the config of a trial.
        choice: which config of the group ``sweep`` was chosen, for people; empty for none.

    Raises:
        ConfigError: some trial cannot be built, or nobody measures the objective.
        HydraException: an argument is no override.
    """
    if settings.sweep.space:
        raise ConfigError(
            "`sweep.space` must be empty for a grid, but is not. Add hydra/sweeper=lrtape_optuna, which searches it."
        )
    points, given_seeds = expand(settings.sweep.grids, arguments)
    seeds = _seeds(settings, given_seeds)
    planner = Planner(settings, compose)
    refused: dict[str, str] = {}
    trials: dict[str, Trial] = {}
    twins: dict[Twin, str] = {}
    for point, seed in itertools.product(points, seeds):
        if point.name in refused:
            continue
        overrides = (*point.overrides, *([f"{SEED}={seed}"] if given_seeds or len(seeds) > 1 else []))
        try:
            trial, twin = planner.plan(point, overrides, seed, f"{SEED}={seed}" if len(seeds) > 1 else "")
        except Exception as error:  # noqa: BLE001 - whatever a user's own classes raise
            refused[point.name] = sentence(error)
            continue
        original = twins.setdefault(twin, trial.id) if twin else trial.id
        trials.setdefault(trial.id, replace(trial, same_as=original if original != trial.id else ""))
    if refused:
        raise ConfigError(_refusal(refused, len(points)))
    return _plan(settings, planner.objective, tuple(trials.values()), choice)


class Planner:
    """Composes, checks, builds and simulates trials before they are trained.

    Args:
        settings: of the sweep, without the swept values.
        compose: makes the config of a trial.
    """

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self._objective = settings.sweep.objective
        self._compose = compose
        self._rehearse = _Rehearsals()
        self._objectives: set[str] = set()

    def plan(self, point: Point, overrides: tuple[str, ...], seed: int, suffix: str = "") -> tuple[Trial, Twin]:
        """Make the trial of a point.

        Args:
            point: with the swept values.
            overrides: everything that the training is given.
            seed: of the training.
            suffix: of its name.

        Returns:
            The trial, and what it shares with trials that would train alike; nothing where nobody knows.

        Raises:
            Exception: whatever a config raises that cannot be composed or built.
        """
        cfg = self._compose(overrides)
        rehearsal = self._rehearse(cfg, point)
        self._objectives.add(objective_of(self._objective, rehearsal.metrics))
        trial_id = hash_of(content_of(cfg))
        name = " ".join(filter(None, [point.name, suffix])) or str(cfg.tracking.run_name or trial_id)
        trial = Trial(
            trial_id,
            name,
            overrides,
            point.values,
            seed,
            rehearsal.n_steps,
            rehearsal.warning,
            rehearsal.refusal,
        )
        return trial, (*rehearsal.twin, str(seed)) if rehearsal.twin else ()

    @property
    def objective(self) -> str:
        """The metric that all planned trials are compared by.

        Raises:
            ConfigError: they measure different ones.
        """
        if len(self._objectives) != 1:
            raise ConfigError(
                "`sweep.objective` must be set where points measure different metrics, of "
                f"{', '.join(sorted(self._objectives))}."
            )
        return next(iter(self._objectives))

    @property
    def n_epochs(self) -> int:
        """Of the longest trial that was planned."""
        return self._rehearse.n_epochs


def _plan(settings: Settings, objective: str, trials: tuple[Trial, ...], choice: str) -> SweepPlan:
    keys = dict.fromkeys(key for trial in trials for key in trial.values)
    swept = {key: list(dict.fromkeys(trial.values[key] for trial in trials if key in trial.values)) for key in keys}
    direction = direction_of(settings.sweep.direction, objective)
    name = settings.sweep.name
    identity = [name] if name else [objective, direction, *sorted(trial.id for trial in trials)]
    what = choice or " x ".join(short_names(list(swept)).values()) or trials[0].name
    title = name or textwrap.shorten(f"sweep {what}", MAX_TITLE_CHARACTERS, placeholder=" ...")
    return SweepPlan(hash_of([settings.tracking.experiment, *identity]), title, objective, direction, trials, swept)


def _seeds(settings: Settings, given: Sequence[str]) -> list[int]:
    n_seeds = settings.sweep.seeds
    if len(given) > 1 and n_seeds > 1:
        raise ConfigError(
            f"`sweep.seeds` must be 1 where `seed` is swept, but is {n_seeds}. Give one of the two: seed=0,1,2 or "
            "sweep.seeds=3."
        )
    try:
        first = [int(seed) for seed in given] or [settings.seed]
    except ValueError:
        raise ConfigError(f"`seed` must be swept over whole numbers, but is swept over {', '.join(given)}.") from None
    return first if len(first) > 1 else [first[0] + index for index in range(n_seeds)]


def _refusal(refused: Mapping[str, str], n_points: int) -> str:
    if len(refused) == n_points and len(set(refused.values())) == 1:
        return next(iter(refused.values()))
    listed = [f"  {name or 'one without swept values'}: {text}" for name, text in list(refused.items())[:_MAX_LISTED]]
    if len(refused) > len(listed):
        listed.append(f"  and {len(refused) - len(listed)} more")
    return f"{len(refused)} of the {n_points} points cannot be trained, and none was started:\n" + "\n".join(listed)


def content_of(cfg: DictConfig) -> dict[str, Any]:
    """What a training computes from: its config, without the machine, the tracking, and labels for people."""
    content = portable(cfg)
    content.pop("tracking")
    return {key: _unlabelled(value) for key, value in content.items()}


def _unlabelled(group: Any) -> Any:
    return {key: value for key, value in group.items() if key != "name"} if isinstance(group, dict) else group


def hash_of(value: Any) -> str:
    """Of plain values; the same in every process."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]


class _Rehearsal(NamedTuple):
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


class _Rehearsals:
    """Builds and simulates points, each one once, whatever its seeds."""

    def __init__(self) -> None:
        self._data: dict[str, Data] = {}
        self._made: dict[tuple[str, ...], _Rehearsal] = {}
        self._steps_left = MAX_STEPS_OF_ALL
        self.n_epochs = 0

    def __call__(self, cfg: DictConfig, point: Point) -> _Rehearsal:
        if point.overrides not in self._made:
            self._made[point.overrides] = self._rehearse(cfg)
        return self._made[point.overrides]

    def _rehearse(self, cfg: DictConfig) -> _Rehearsal:
        settings = check(cfg, Path.cwd())
        if settings.trainer.resume is not None:
            raise ConfigError(
                f"`trainer.resume` must be null in a sweep, but is {settings.trainer.resume!r} instead. The same "
                "command goes on with a sweep, and trains anew what was cut off."
            )
        data = self._data.setdefault(OmegaConf.to_yaml(cfg.data, resolve=True), build_data(cfg))
        length, epoch_steps = Length.of(data, settings.trainer), steps_per_epoch(data, settings.trainer)
        self.n_epochs = max(self.n_epochs, length.epochs)
        cfg = resolve_horizons(cfg, length)
        model, optimizer = build_on_meta(cfg, data)
        if settings.range is not None:
            return _Rehearsal(settings.range.n_steps, [LOWEST_LOSS])
        schedule = build_schedule(cfg, optimizer)
        names = metric_names(data)
        schedule.check_monitor(names)
        if length.steps > self._steps_left:
            return _Rehearsal(length.steps, names)
        self._steps_left -= length.steps
        plan = plan_training(cfg, model, length, epoch_steps)
        serious = [found for found in check_tape(plan.simulated or Tape(), plan) if found.severity != "note"]
        worst = f"{serious[0].code}: {serious[0].message}" if serious and settings.checks != OFF else ""
        is_refused = settings.checks == STRICT
        return _Rehearsal(
            length.steps, names, "" if is_refused else worst, worst if is_refused else "", _twin(cfg, plan)
        )


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
