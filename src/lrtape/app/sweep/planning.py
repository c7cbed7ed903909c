"""Looks at every trial of a sweep before anything is started: can it be built, is it one of its own, is it any good?"""

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from omegaconf import DictConfig

from lrtape.app.config import Settings, sentence
from lrtape.app.sweep.grid import SEED, Point, expand, short_names
from lrtape.app.sweep.objective import direction_of, objective_of
from lrtape.app.sweep.rehearsal import Rehearsals, content_of, hash_of
from lrtape.errors import ConfigError
from lrtape.trials import Trial

SWEEP, SEARCH = "sweep", "search"
"""Kinds of plans."""
MAX_TITLE_CHARACTERS = 100

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

    @classmethod
    def of(
        cls,
        kind: str,
        settings: Settings,
        objective: str,
        swept: dict[str, list[str]],
        content: Sequence[Any],
        trials: Sequence[Trial] = (),
        choice: str = "",
    ) -> Self:
        """The plan of a sweep or of a search; both are known by their content, or by the name that a person gives.

        Args:
            kind: ``sweep`` or ``search``: two of the same content are not the same.
            settings: of it.
            objective: the metric that tells which point is best.
            swept: see above.
            content: what tells it from others, beside the experiment, the objective and the direction; plain values.
            trials: see above.
            choice: which config of the group ``sweep`` was chosen, for people; empty for none.
        """
        direction = direction_of(settings.sweep.direction, objective)
        name = settings.sweep.name
        # The ids of sweeps that are in stores already must not change: a search alone has its kind in them.
        identity = [settings.tracking.experiment, *([name] if name else [objective, direction, *content])]
        plan_id = hash_of(identity if kind == SWEEP else [kind, *identity])
        what = choice or " x ".join(short_names(list(swept)).values()) or trials[0].name
        title = name or textwrap.shorten(f"{kind} {what}", MAX_TITLE_CHARACTERS, placeholder=" ...")
        return cls(plan_id, title, objective, direction, tuple(trials), swept)

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
        if trial.id in trials:  # the same config in other words; an id of its own, since it is listed
            trials[f"{trial.id}-{len(trials)}"] = replace(trial, id=f"{trial.id}-{len(trials)}", same_as=trial.id)
            continue
        original = twins.setdefault(twin, trial.id) if twin else trial.id
        trials[trial.id] = replace(trial, same_as=original if original != trial.id else "")
    if refused:
        raise ConfigError(_refusal(refused, len(points)))
    planned = list(trials.values())
    return SweepPlan.of(SWEEP, settings, planner.objective, _swept(planned), sorted(trials), planned, choice)


class Planner:
    """Composes, checks, builds and simulates trials before they are trained.

    Args:
        settings: of the sweep, without the swept values.
        compose: makes the config of a trial.
    """

    def __init__(self, settings: Settings, compose: Compose) -> None:
        self._objective = settings.sweep.objective
        self._compose = compose
        self._rehearse = Rehearsals()
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


def _swept(trials: Sequence[Trial]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for trial in trials for key in trial.values)
    return {key: list(dict.fromkeys(trial.values[key] for trial in trials if key in trial.values)) for key in keys}


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
