"""The lengths in a scheduler's config: epochs, steps, and shares of the run."""

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from lrtape.errors import ConfigError
from lrtape.schedules import resolve_shares, share_of

_LEAST = {
    **dict.fromkeys(("step_size", "step_size_up", "step_size_down", "T_max", "T_0", "total_steps", "total_iters"), 1),
    **dict.fromkeys(("epochs", "steps_per_epoch", "n"), 1),
    **dict.fromkeys(("warmup_iters", "decay_iters", "anneal_epochs", "patience", "cooldown"), 0),
}
"""Arguments that torch does not check, and that fail only after the first epochs."""

_KNOWN = ("torch.", "lrtape.")
"""Whose arguments are known, by the begin of ``_target_``."""
_MAY_BE_NULL = {"step_size_down", "total_steps", "epochs", "steps_per_epoch", "n"}


def resolve_scheduler(scheduler: dict[str, Any], n_calls: int, path: str = "scheduler") -> dict[str, Any]:
    """A copy of a scheduler's config in which every share of the run is a number of epochs or steps.

    Args:
        scheduler: plain.
        n_calls: how often the run steps it.
        path: of the config, for errors.

    Raises:
        ConfigError: milestones do not increase, or a warm-up is longer than the run.
    """
    milestones = scheduler.get("milestones")
    if isinstance(milestones, str):
        raise ConfigError(f"`{path}.milestones` must be a list, as [50%, 75%], but is {milestones!r} instead.")
    if isinstance(milestones, list):
        # Before rounding: in a short run two different shares may well be the same step.
        points = [share_of(point, n_calls) for point in milestones]
        if any(one >= other for one, other in pairwise(points)):
            raise ConfigError(
                f"`{path}.milestones` must increase, but is {milestones} instead, in a run of {n_calls}. Sort them, "
                "and leave out what is there twice."
            )
    resolved = resolve_lengths(scheduler, {*_LEAST, "milestones"}, n_calls, path)
    warmup = resolved.get("warmup_iters")
    if isinstance(warmup, int) and warmup > n_calls:
        raise ConfigError(
            f"`{path}.warmup_iters` must be within the run, which has {n_calls}, but is {scheduler['warmup_iters']!r} "
            f"instead. Give a share of the run: {path}.warmup_iters=5%"
        )
    parts = scheduler.get("schedulers")
    if isinstance(parts, list):
        resolved["schedulers"] = [
            resolve_scheduler(part, n_calls, f"{path}.schedulers.{index}") if isinstance(part, dict) else part
            for index, part in enumerate(parts)
        ]
    return resolved


def resolve_lengths(config: Mapping[str, Any], lengths: Collection[str], n_calls: int, path: str) -> dict[str, Any]:
    """A copy of a config in which every share of the run is a number. Only what is a length may be one.

    Of a class that is neither torch's nor lrtape's nobody knows which arguments are lengths: any may be a share.

    Args:
        config: plain.
        lengths: the names of arguments that are lengths.
        n_calls: the length of the run, in the unit of these.
        path: of the config, for errors.

    Raises:
        ConfigError: something else is a share.
    """
    if not str(config.get("_target_")).startswith(_KNOWN):
        foreign: dict[str, Any] = resolve_shares(dict(config), n_calls)
        return foreign
    resolved = {}
    for name, value in config.items():
        if name in lengths:
            resolved[name] = resolve_shares(value, n_calls)
        elif name not in {"schedulers", "name"} and resolve_shares(value, n_calls) != value:
            raise ConfigError(
                f"`{path}.{name}` must not be a share of the run, for it is no length, but is {value!r} instead. Give "
                "a number: 0.3 for 30%."
            )
        else:
            resolved[name] = value
    return resolved


def check_lengths(path: str, scheduler: Mapping[str, Any]) -> None:
    """See that what is a length is one; shares of the run must be resolved already.

    Raises:
        ConfigError: one is none.
    """
    for name, least in _LEAST.items():
        if name in scheduler and not (scheduler[name] is None and name in _MAY_BE_NULL):
            _check_length(f"{path}.{name}", scheduler[name], least)
    milestones = scheduler.get("milestones", [])
    if not isinstance(milestones, list):
        raise ConfigError(f"`{path}.milestones` must be a list, as [50%, 75%], but is {milestones!r} instead.")
    for index, milestone in enumerate(milestones):
        _check_length(f"{path}.milestones.{index}", milestone, 1)


def _check_length(path: str, length: Any, least: int) -> None:
    if isinstance(length, bool) or not isinstance(length, int) or length < least:
        raise ConfigError(
            f"`{path}` must be a whole number >= {least}, or a share of the run as 30%, but is {length!r} instead."
        )
