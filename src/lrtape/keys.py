"""Names of param groups, and the metric keys made from them.

Keys are ``lr/<group>`` for the first optimizer of a session and ``lr/<optimizer>/<group>`` for any later one. They are
unique, legal for MLflow, and never change during a run, whatever is added later.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lrtape.errors import ConfigError
from lrtape.tape import Group

MAX_KEY_CHARACTERS = 250
"""MLflow refuses a longer metric key, and with it the whole batch."""

_ILLEGAL = re.compile(r"[^\w.\-:/ ]")
_HASH_CHARACTERS = 8


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
    """Hands out the metric keys of one session. Called when groups appear, never per step; not thread-safe."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def add(self, name: str, optimizer: str = "", on_duplicate: Literal["refuse", "number"] = "refuse") -> Group:
        """Reserve the key of the group called `name`.

        Args:
            name: the group's name.
            optimizer: name of its optimizer; empty for the first optimizer of the session.
            on_duplicate: what to do when the key is taken. ``"number"`` appends ``_2``, ``_3``, ... to the name, for
                where there is nobody to ask.

        Raises:
            ConfigError: the key is taken and duplicates are refused.
        """
        prefix = f"lr/{optimizer}/" if optimizer else "lr/"
        key = legal_key(prefix + name)
        if key in self._used and on_duplicate == "refuse":
            raise ConfigError(
                f"the names of param groups must differ, but two of them share the metric {key!r} instead. "
                "Give each group a name of its own: {'params': ..., 'name': 'head'}."
            )
        unique, count = name, 1
        while key in self._used:
            count += 1
            unique = f"{name}_{count}"
            key = legal_key(prefix + unique)
        self._used.add(key)
        return Group(unique, key)
