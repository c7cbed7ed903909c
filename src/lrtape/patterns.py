"""Param groups by regular expressions on the paths of parameters."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Module

from lrtape.errors import ConfigError
from lrtape.groups import Named, ParamGroup, require_rate

_KEYS = ("name", "regex", "lr", "lr_mult", "weight_decay")


def by_pattern(model: Module, lr: float, groups: Sequence[Mapping[str, Any]]) -> list[ParamGroup]:
    r"""One group for each entry, of the parameters whose path its ``regex`` is found in.

    ::

        [{"name": "norms", "regex": r"norm\d*\.", "weight_decay": 0.0}, {"name": "rest", "lr_mult": 0.1}]

    Args:
        model: the model; parameters that need no gradient are left out.
        lr: the optimizer's lr.
        groups: mappings with a ``name``; a ``regex``, which one entry may lack, that gets what no other matches; either
            an ``lr`` or an ``lr_mult`` of the optimizer's; and a ``weight_decay`` where it is not the optimizer's.

    Raises:
        ConfigError: an entry is wrong, matches nothing, or a parameter matches none or several.
    """
    if not isinstance(groups, Sequence) or not groups:
        raise ConfigError(f"`param_groups.groups` must be a list with at least one group, but is {groups!r} instead.")
    patterns = [_pattern(index, entry) for index, entry in enumerate(groups)]
    names = [entry["name"] for entry in groups]
    for what, given in (("name", names), ("regex", ["none" for pattern in patterns if pattern is None])):
        if twice := [item for item in given if given.count(item) > 1]:
            raise ConfigError(
                f"`param_groups.groups` must have each {what} once, but has {twice[0]!r} {len(twice)} times instead."
            )
    members: list[Named] = [[] for _ in groups]
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_owner(path, patterns, names)].append((path, parameter))
    for index, member in enumerate(members):
        if not member:
            paths = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
            raise ConfigError(
                f"`param_groups.groups.{index}` must match a parameter, but {names[index]!r} matches none of {paths}. "
                "Change its `regex`, or leave it out."
            )
    return [_group(entry, lr, member) for entry, member in zip(groups, members, strict=True)]


def _pattern(index: int, entry: Any) -> re.Pattern[str] | None:
    path = f"param_groups.groups.{index}"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ConfigError(f"`{path}` must be a mapping with a `name`, but is {entry!r} instead.")
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"`{path}.{key}` is not a key of a group. Valid there: {', '.join(_KEYS)}.")
    for key in ("lr", "lr_mult", "weight_decay"):
        if entry.get(key) is not None:
            require_rate(f"{path}.{key}", entry[key])
    if entry.get("lr") is not None and entry.get("lr_mult") is not None:
        raise ConfigError(
            f"`{path}` must have an `lr` or an `lr_mult`, but has both, {entry['lr']} and {entry['lr_mult']}. Leave "
            "one out."
        )
    regex = entry.get("regex")
    if regex is None:
        return None
    try:
        return re.compile(regex)
    except (re.error, TypeError) as error:
        raise ConfigError(f"`{path}.regex` must be a regular expression, but is {regex!r} instead: {error}.") from error


def _owner(path: str, patterns: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> int:
    found = [index for index, pattern in enumerate(patterns) if pattern is not None and pattern.search(path)]
    if len(found) > 1:
        raise ConfigError(
            f"the parameter {path!r} must be in one of `param_groups.groups`, but matches "
            f"{' and '.join(repr(names[index]) for index in found)}. Make one `regex` narrower, as with ^ and $."
        )
    if not found:
        found = [index for index, pattern in enumerate(patterns) if pattern is None]
    if not found:
        raise ConfigError(
            f"the parameter {path!r} must be in one of `param_groups.groups`, but matches none of "
            f"{', '.join(map(repr, names))}. Add a group without a `regex`, {{name: rest}}, which gets the others."
        )
    return found[0]


def _group(entry: Mapping[str, Any], lr: float, member: Named) -> ParamGroup:
    own = entry.get("lr")
    mult = entry.get("lr_mult")
    rate = own if own is not None else lr * (1.0 if mult is None else mult)
    group: ParamGroup = {"params": member, "lr": rate, "name": entry["name"]}
    return group if entry.get("weight_decay") is None else {**group, "weight_decay": entry["weight_decay"]}
