"""What a search is going to do: refused as a whole where no trial of it could be trained."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lrtape.app.config import Settings, sentence
from lrtape.app.sweep.grid import Point
from lrtape.app.sweep.optuna_settings import OptunaSettings
from lrtape.app.sweep.planning import SEARCH, Planner, SweepPlan
from lrtape.app.sweep.space import Choice, Space, read_spaces
from lrtape.errors import ConfigError
from lrtape.trials import Trial

MAX_COMBINATIONS = 100
"""Of chosen config groups that are tried beforehand."""
N_DRAWS = 8
"""Points that are tried, at random, where those on the diagonal of a space cannot be built."""


def plan_search(
    settings: Settings, arguments: Sequence[str], planner: Planner, choice: str = ""
) -> tuple[SweepPlan, list[Space]]:
    """Read the spaces, and try a point of each. Takes about 50 ms for each one, and its simulation.

    Args:
        settings: of the search, without what it varies.
        arguments: overrides, as on the command line.
        planner: tries the points.
        choice: which config of the group ``sweep`` was chosen, for people; empty for none.

    Returns:
        A plan without trials, and the spaces.

    Raises:
        ConfigError: no trial of some space could be trained, or nobody measures the objective.
        HydraException: an argument is no override.
    """
    if settings.sweep.grids:
        raise ConfigError(
            "`sweep.grids` must be empty for hydra/sweeper=lrtape_optuna, but is not. Give `sweep.space`, or leave the "
            "sweeper out."
        )
    if settings.sweep.seeds != 1:
        raise ConfigError(
            f"`sweep.seeds` must be 1 in a search, but is {settings.sweep.seeds} instead. Search with one seed, and "
            "repeat what is best in a grid, with sweep.seeds."
        )
    spaces = read_spaces(settings.sweep.space, arguments)
    tried = [_try(part, planner, settings.seed) for space in spaces for part in _parts(space)]
    axes = [[space.name, *(f"{key}={axis!r}" for key, axis in space.axes.items())] for space in spaces]
    # A point of each space, always the same one, stands for whatever else is in the config.
    content = [axes, [trial.id for trial in tried]]
    plan = SweepPlan.of(SEARCH, settings, planner.objective, _swept(spaces), content, choice=choice)
    return plan, spaces


def describe(plan: SweepPlan, spaces: Sequence[Space], settings: OptunaSettings) -> str:
    """The search in the terminal, before it is begun."""
    lines = []
    for space in spaces:
        lines += [f"{space.name}:"] if space.name else []
        lines += [f"  {key}: {axis}" for key, axis in space.axes.items()]
    lines.append(
        f"{plan.title}: {settings.n_trials} trials, suggested by {_name(settings.sampler)}, pruned by "
        f"{_name(settings.pruner)}; best is the {plan.direction} of {plan.objective}. Sweep {plan.id}."
    )
    return "\n".join(lines)


def _name(given: Any) -> Any:
    return given.get("_target_", given) if isinstance(given, dict) else given


def _parts(space: Space) -> Iterator[Space]:
    """One for each combination of the config groups that a space chooses: those decide which keys there are."""
    groups = {key: axis for key, axis in space.axes.items() if isinstance(axis, Choice) and "." not in key}
    combinations = itertools.product(*(axis.texts for axis in groups.values()))
    for combination in itertools.islice(combinations, MAX_COMBINATIONS):
        chosen = {key: Choice((text,)) for key, text in zip(groups, combination, strict=True)}
        yield replace(space, axes={**space.axes, **chosen})


def _try(space: Space, planner: Planner, seed: int) -> Trial:
    problem: Exception | None = None
    for point in _points(space):
        try:
            return planner.plan(point, point.overrides, seed)[0]
        except Exception as error:  # noqa: BLE001 - whatever a user's own classes raise
            problem = problem or error
    assert problem is not None  # noqa: S101 - there is more than one point
    chosen = [key for key, axis in space.axes.items() if isinstance(axis, Choice) and "." not in key]
    hint = " Where that decides which keys there are, give a list of spaces, `sweep.space`." if chosen else ""
    raise ConfigError(f"{sentence(problem)}\nNo trial can be trained {_where(space)}.{hint}") from problem


def _points(space: Space) -> Iterator[Point]:
    yield from map(space.at, (0.5, 0.0, 1.0))
    shares = random.Random(0)  # noqa: S311 - always the same ones
    for _ in range(N_DRAWS):
        yield space.point({key: axis.at(shares.random()) for key, axis in space.axes.items()})


def _where(space: Space) -> str:
    axes = [f"{key} = {axis}" if isinstance(axis, Choice) else f"{key} from {axis}" for key, axis in space.axes.items()]
    return " ".join(filter(None, [space.name, "with", ", ".join(axes)]))


def _swept(spaces: Sequence[Space]) -> dict[str, list[str]]:
    """For people: what is searched, by key."""
    swept: dict[str, list[str]] = {}
    for space in spaces:
        for key, text in space.own.items():
            swept.setdefault(key, []).append(text)
        for key, axis in space.axes.items():
            prefix = f"{space.name}: " if space.name else ""
            swept.setdefault(key, []).append(f"{prefix}{axis}")
    return swept
