"""What a sweep compares."""

from collections.abc import Sequence

from lrtape.errors import ConfigError
from lrtape.trials import MAX, MIN

_DEFAULTS = ("val/loss", "train/loss")
"""The first one that is measured."""


def objective_of(given: str | None, metrics: Sequence[str]) -> str:
    """The metric that tells which point is best.

    Args:
        given: ``sweep.objective``.
        metrics: what a training measures.

    Raises:
        ConfigError: it does not measure the one that is given.
    """
    if given is None:
        return next((name for name in _DEFAULTS if name in metrics), metrics[0])
    if given not in metrics:
        raise ConfigError(f"`sweep.objective` must be one of {', '.join(metrics)}, but is {given!r} instead.")
    return given


def direction_of(given: str | None, objective: str) -> str:
    """Whether the lowest or the highest objective is best.

    Raises:
        ConfigError: that is not given, and does not follow from the name of the objective.
    """
    if given is not None:
        return given
    name = objective.rpartition("/")[2]
    if "loss" in name:
        return MIN
    if name.startswith("acc"):
        return MAX
    raise ConfigError(f"`sweep.direction` must be min or max for the objective {objective!r}, but is null instead.")
