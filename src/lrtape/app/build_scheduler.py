"""From a scheduler's config to the scheduler, with the schedulers that it is made of."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LambdaLR, OneCycleLR

from lrtape.app.arguments import check_arguments
from lrtape.app.build import build, find_target
from lrtape.app.config import SCHEDULER_KEYS
from lrtape.app.horizons import check_lengths
from lrtape.errors import ConfigError
from lrtape.keys import group_names

if TYPE_CHECKING:
    from lrtape.app.schedule import Scheduler

_FOR_EACH_GROUP = ("max_lr", "base_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum", "lr_lambda")
"""Arguments that may be lists, one value for each param group."""

_SETS_THE_LR = (LambdaLR, OneCycleLR, CyclicLR, CosineAnnealingWarmRestarts)
"""Have no form that multiplies, as of torch 2.13: within a ChainedScheduler they undo what the others did."""


def build_scheduler(config: Mapping[str, Any], optimizer: Optimizer, path: str = "scheduler") -> "Scheduler":
    """Build a scheduler on an optimizer; those in its ``schedulers`` first, on the same one.

    Args:
        config: plain, with lengths instead of shares, and perhaps with the three keys that are ours.
        optimizer: of the scheduler.
        path: of the config, for errors.

    Raises:
        ConfigError: it cannot be built, or an argument in it is wrong.
    """
    arguments = {key: value for key, value in config.items() if key not in {*SCHEDULER_KEYS, "schedulers"}}
    check_lengths(path, arguments)
    _check_lists(path, arguments, optimizer)
    target = find_target(arguments.get("_target_"))
    if target is not None:
        check_arguments(path, target, arguments)
    if "schedulers" not in config:
        built: Scheduler = build(path, OmegaConf.create(arguments), optimizer)
        return built
    schedulers = _build_parts(config, optimizer, path)
    # SequentialLR(optimizer, schedulers, ...), but ChainedScheduler(schedulers, optimizer).
    names = [] if target is None else list(inspect.signature(target).parameters)
    chained = names[:1] == ["schedulers"]
    if chained:
        _check_chain(schedulers, path)
    composed: Scheduler = build(
        path, OmegaConf.create(arguments), *((schedulers, optimizer) if chained else (optimizer, schedulers))
    )
    return composed


def _build_parts(config: Mapping[str, Any], optimizer: Optimizer, path: str) -> list["Scheduler"]:
    parts, milestones = config["schedulers"], config.get("milestones")
    if not isinstance(parts, list) or not parts:
        raise ConfigError(
            f"`{path}.schedulers` must be a list of configs, each with a `_target_`, but is {parts!r} instead."
        )
    if isinstance(milestones, list) and len(milestones) != len(parts) - 1:
        raise ConfigError(
            f"`{path}.milestones` must be one fewer than `{path}.schedulers`, of which there are {len(parts)}, but is "
            f"{milestones} instead: each but the first scheduler begins at one."
        )
    schedulers = []
    for index, part in enumerate(parts):
        name = f"{path}.schedulers.{index}"
        if not isinstance(part, Mapping):
            raise ConfigError(f"`{name}` must be a config with a `_target_`, but is {part!r} instead.")
        if ours := [key for key in SCHEDULER_KEYS if key in part]:
            raise ConfigError(
                f"`{name}.{ours[0]}` must not be given: a scheduler within another one is stepped when that one is. "
                "Leave it out."
            )
        if "schedulers" in part:
            raise ConfigError(
                f"`{name}` must be one scheduler, but is made of several instead: torch begins them anew, or a step "
                "late. Write the whole as arithmetic, scheduler=lambdalr, or as one list."
            )
        schedulers.append(build_scheduler(part, optimizer, name))
    return schedulers


def _check_chain(schedulers: list["Scheduler"], path: str) -> None:
    for index, scheduler in enumerate(schedulers):
        if len(schedulers) > 1 and isinstance(scheduler, _SETS_THE_LR):
            raise ConfigError(
                f"`{path}.schedulers.{index}` must multiply the lr that is there, but {type(scheduler).__name__} sets "
                "it, whatever the others did. Use MultiplicativeLR, StepLR, ExponentialLR, LinearLR or the like, or "
                "put one after another: scheduler=sequentiallr"
            )


def _check_lists(path: str, arguments: Mapping[str, Any], optimizer: Optimizer) -> None:
    groups = group_names(optimizer.param_groups)
    for name in _FOR_EACH_GROUP:
        values = arguments.get(name)
        if isinstance(values, list) and len(values) != len(groups):
            raise ConfigError(
                f"`{path}.{name}` must be one value, or one for each param group, {groups}, but is {values} instead."
            )
