"""Names of param groups, and the metric keys made from them.

Keys are ``lr/<group>`` for the first optimizer of a session and ``lr/<optimizer>/<group>`` for any later one. They are
unique, legal for MLflow, and never change during a run, whatever is added later.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lrtape.errors import ConfigError
from lrtape.tape import Group

MAX_KEY_CHARACTERS = 250
"""MLflow refuses a longer metric key, and with it the whole batch."""

LR = "lr/"
"""Begins the key of every param group's lr."""
LR_LOG10 = "lr_log10/"
"""Begins the key of its logarithm."""

_ILLEGAL = re.compile(r"[^\w.\-:/ ]")
_HASH_CHARACTERS = 8


@lru_cache(maxsize=1024)
def legal_key(text: str) -> str:
    """Write `text` as a key that MLflow takes: its alphabet, no empty or dotted path component, not too long.

    A key that is legal already comes back as it is. A longer one keeps its beginning and ends in a hash of the whole.
    """
    parts = [part.strip() for part in _ILLEGAL.sub("_", text).split("/")]
    key = "/".join("_" if part in {".", ".."} else part for part in parts if part) or "_"
    if len(key) > MAX_KEY_CHARACTERS:
        digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
        key = f"{key[: MAX_KEY_CHARACTERS - _HASH_CHARACTERS - 1].rstrip('/ ')}-{digest}"
    return key


def log10_key(key: str) -> str:
    """The key of the logarithm of an lr, ``lr_log10/<group>`` for ``lr/<group>``. No two lrs share one."""
    return legal_key(LR_LOG10 + key.removeprefix(LR))


def group_names(param_groups: Sequence[Mapping[str, Any]], param_paths: Mapping[int, str] | None = None) -> list[str]:
    """Name each param group: by its own ``name``, else by what its parameters share, else ``group_00`` by its index.

    Args:
        param_groups: ``optimizer.param_groups``.
        param_paths: dotted path of each parameter by its ``id()``, from ``model.named_parameters()``; for groups that
            carry no ``param_names`` of their own.

    Returns:
        One name for each group, in order. Given names are returned as they are, also when two are equal; a derived
        name that is not unique gives way to the group's index.
    """
    given = [str(group["name"]) if group.get("name") else "" for group in param_groups]
    derived = [_common_module(_paths(group, param_paths or {})) for group in param_groups]
    taken = Counter(own or common for own, common in zip(given, derived, strict=True))
    return [
        own or (common if common and taken[common] == 1 else f"group_{index:02d}")
        for index, (own, common) in enumerate(zip(given, derived, strict=True))
    ]


def optimizer_name(optimizer: object, index: int) -> str:
    """The optimizer's part of its metric keys, where it was given no name: empty for the first one of its session.

    Args:
        optimizer: called by its class.
        index: in its session, from 0.
    """
    return f"{type(optimizer).__name__.lower()}_{index}" if index else ""


def optimizer_names(optimizers: Sequence[object], owner: object = None) -> list[str]:
    """Name several optimizers of one session: by the attribute of `owner` that each is, else by class and index.

    Args:
        optimizers: in the order of their session.
        owner: the model, whose attributes name what it trains with, as ``self.opt_g = Adam(...)``. One optimizer alone
            needs no name, and gets none.

    Returns:
        One name for each, all different; empty for the first one, unless it is an attribute.
    """
    attributes = vars(owner) if owner is not None and len(optimizers) > 1 else {}
    names: list[str] = []
    for index, optimizer in enumerate(optimizers):
        attribute = next((name for name, value in attributes.items() if value is optimizer), None)
        name = attribute or optimizer_name(optimizer, index)
        while name in names:  # an attribute that is called like another one's class and index
            name += "_"
        names.append(name)
    return names


def _paths(group: Mapping[str, Any], param_paths: Mapping[int, str]) -> list[str]:
    own = group.get("param_names")
    if own:
        return [str(path) for path in own]
    paths = [param_paths.get(id(param), "") for param in group["params"]]
    return paths if all(paths) else []


def _common_module(paths: Sequence[str]) -> str:
    """The longest module path that all `paths` of parameters lie under; empty when they share none."""
    if not paths:
        return ""
    modules = [path.split(".")[:-1] for path in paths]
    shared = min(len(module) for module in modules)
    while any(module[:shared] != modules[0][:shared] for module in modules):
        shared -= 1
    return ".".join(modules[0][:shared])


class Keys:
    """The metric keys of one run: no two are equal. Used when groups appear, never per step; not thread-safe."""

    def __init__(self) -> None:
        self._reserved: set[str] = set()
        self._released: set[str] = set()

    def reserve(self, name: str, optimizer_name: str = "") -> Group:
        """Reserve the key of the group called `name`.

        Args:
            name: the group's name.
            optimizer_name: the optimizer's part of the key; empty for none.

        Raises:
            ConfigError: the key is taken.
        """
        group = Group(name, _key(name, optimizer_name))
        if group.key in self._released:
            raise ConfigError(
                f"a run must be recorded into once, but this one has a curve {group.key!r} already, of a training that "
                "is over. Start another run; or give the optimizer a name of its own, names=['finetuning']; or go on "
                "with that curve: first_step=, how many steps it has."
            )
        if group.key in self._reserved:
            raise ConfigError(
                f"the names of param groups must differ, but two of them share the metric {group.key!r} instead. "
                "Give each group a name of its own, {'params': ..., 'name': 'head'}; attach the optimizers of one run "
                "together, lrtape.attach(one, other); or name them, lrtape.attach(other, names=['other'])."
            )
        self._reserved.add(group.key)
        return group

    def release(self, groups: Iterable[Group]) -> None:
        """Note that nothing more is recorded under the keys of `groups`: they may be resumed, and nothing else."""
        self._released |= {group.key for group in groups}

    def resume(self, name: str, optimizer_name: str = "") -> Group:
        """Like `reserve`, for a training that is resumed: it goes on with a key that was released.

        Raises:
            ConfigError: the key is taken, and was not released.
        """
        return self._resumed(name, optimizer_name) or self.reserve(name, optimizer_name)

    def resume_numbered(self, name: str, optimizer_name: str = "") -> Group:
        """Like `resume`, for where there is nobody to ask: see `reserve_numbered`."""
        return self._resumed(name, optimizer_name) or self.reserve_numbered(name, optimizer_name)

    def _resumed(self, name: str, optimizer_name: str) -> Group | None:
        group = Group(name, _key(name, optimizer_name))
        if group.key not in self._released:
            return None
        self._released.remove(group.key)
        return group

    def reserve_numbered(self, name: str, optimizer_name: str = "") -> Group:
        """Like `reserve`, for where there is nobody to ask: ``_2``, ``_3``, ... is appended to a name that is taken."""
        group = Group(name, _key(name, optimizer_name))
        count = 1
        while group.key in self._reserved:
            count += 1
            numbered = f"{name}_{count}"
            group = Group(numbered, _key(numbered, optimizer_name))
        self._reserved.add(group.key)
        return group


def _key(name: str, optimizer_name: str) -> str:
    return legal_key(f"lr/{optimizer_name}/{name}" if optimizer_name else f"lr/{name}")


class GroupNames:
    """The names that the param groups of one optimizer keep through a run.

    A group is known again by its dictionary. ``load_state_dict`` makes new dictionaries: there, a group is known again
    by its index and its parameters. Any other group is new and gets a name of its own.

    Args:
        param_paths: see `group_names`.
    """

    def __init__(self, param_paths: Mapping[int, str] | None = None) -> None:
        self._param_paths = param_paths
        self._known: list[tuple[Mapping[str, Any], Group]] = []

    def assign(self, param_groups: Sequence[Mapping[str, Any]], reserve: Callable[[str], Group]) -> tuple[Group, ...]:
        """Name every group of ``optimizer.param_groups``; `reserve` is called with the name of each new one."""
        before = self._known
        gone = {index for index, (seen, _) in enumerate(before) if not any(seen is group for group in param_groups)}
        now: list[tuple[Mapping[str, Any], Group]] = []
        for index, (param_group, name) in enumerate(
            zip(param_groups, group_names(param_groups, self._param_paths), strict=True)
        ):
            found = next((group for seen, group in before if seen is param_group), None)
            if found is None and index in gone and _same_parameters(before[index][0], param_group):
                found = before[index][1]
                gone.remove(index)
            now.append((param_group, found or reserve(name)))
        # A group that is gone may come back.
        self._known = now + [before[index] for index in sorted(gone)]
        return tuple(group for _, group in now)

    def rename(self, reserve: Callable[[str], Group]) -> list[tuple[Group, Group]]:
        """Name every group once more, by its name; returns each as it was and as it is now."""
        renamed = [(before, reserve(before.name)) for _, before in self._known]
        self._known = [(seen, now) for (seen, _), (_, now) in zip(self._known, renamed, strict=True)]
        return renamed


def _same_parameters(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return [id(param) for param in one["params"]] == [id(param) for param in other["params"]]
