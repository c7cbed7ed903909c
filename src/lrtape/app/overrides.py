"""What of a resumed training's config comes from its checkpoint, and what from the command line."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lrtape.errors import ConfigError

Tree = dict[str, Any]
Path = tuple[str, ...]

_OF_THE_MACHINE = {
    *("device", "num_workers", "print_every_n_epochs", "print_every_n_steps", "progress_bar"),
    *("resume", "resume_override", "stop_on"),
}
"""Keys of ``trainer`` that say where and how it runs, not what is trained."""
_BESIDE = {"checks", "sweep"}
"""Beside the groups: what is done about a schedule that looks wrong, and which sweep a training is one of."""
_OF_THE_RUN = {"experiment", "run_name"}
"""Keys of ``tracking`` that do not."""
_ABSENT = object()
_MAX_LISTED = 10


def portable(cfg: DictConfig) -> Tree:
    """The config as plain values, without what belongs to the machine: how a training runs, and where it is tracked."""
    tree: Tree = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return {
        **{key: value for key, value in tree.items() if key not in _BESIDE},
        "trainer": {key: value for key, value in tree["trainer"].items() if key not in _OF_THE_MACHINE},
        "tracking": {key: value for key, value in tree["tracking"].items() if key in _OF_THE_RUN},
    }


def merge(saved: Tree, cfg: DictConfig, overrides: Sequence[str], allow: bool) -> DictConfig:
    """The config of a resumed training: the checkpoint's, but for what belongs to the machine.

    Only what the command line names is compared: a key, everything in a group whose choice it names, and the whole
    config where it names something that is not in the config, an experiment say.

    Args:
        saved: the checkpoint's config, `portable`.
        cfg: the command line's, as Hydra composed it.
        overrides: what the user gave there.
        allow: whether a difference is taken over from the command line, instead of being refused.

    Raises:
        ConfigError: there is a difference, and it is not allowed.
    """
    given = portable(cfg)
    named = [_path(override, saved, given) for override in overrides]
    paths = [path for path in named if path is not None]
    differences = sorted({line for path in paths for line in _compare(_get(saved, path), _get(given, path), path)})
    if differences and not allow:
        listed = differences[:_MAX_LISTED]
        if len(differences) > len(listed):
            listed.append(f"and {len(differences) - len(listed)} more")
        raise ConfigError(
            "the command line must not differ from the checkpoint's config, which wins, but does:\n  "
            + "\n  ".join(listed)
            + "\nLeave these out, or change the training in its midst with trainer.resume_override=true."
        )
    merged = copy.deepcopy(saved)
    for path in paths:
        merged = _put(merged, path, _get(given, path))
    whole: Tree = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for group, of_the_checkpoint in (("trainer", given["trainer"]), ("tracking", given["tracking"])):
        machines = {key: value for key, value in whole[group].items() if key not in of_the_checkpoint}
        merged[group] = {**merged.get(group, {}), **machines}
    merged |= {key: whole[key] for key in _BESIDE & whole.keys()}
    return OmegaConf.create(merged)


def _path(override: str, saved: Tree, given: Tree) -> Path | None:
    """What in the config an override names: the empty path, which means everything, where that is not in it, and `None`
    where it belongs to the machine.
    """
    parsed = OverridesParser.create().parse_override(override)
    path = tuple(part for part in re.split(r"[./\[\]]+", parsed.key_or_group) if part)
    if _is_of_the_machine(path):
        return None
    whole: list[str] = []
    trees: list[Any] = [saved, given]
    for part in path:
        trees = [tree[part] for tree in trees if isinstance(tree, dict) and part in tree]
        if not trees:
            # Behind a list, or where one config has something else, the whole of it is compared.
            return tuple(whole)
        whole.append(part)
    return tuple(whole) if parsed.package is None else ()


def _is_of_the_machine(path: Path) -> bool:
    match path:
        case ("trainer", name, *_):
            return name in _OF_THE_MACHINE
        case (name, *_) if name in _BESIDE:
            return True
        case ("tracking",):
            return True  # tracking=off, say: the name of the run follows from other choices
        case ("tracking", name, *_):
            return name not in _OF_THE_RUN
    return False


def _get(tree: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree


def _put(tree: Tree, path: Path, value: Any) -> Tree:
    """`tree` with `value` at `path`; without anything there, if the value is absent."""
    if not path:
        return copy.deepcopy(value)
    inner: Tree = tree
    for part in path[:-1]:
        if not isinstance(inner.get(part), dict):
            if value is _ABSENT:
                return tree
            inner[part] = {}
        inner = inner[part]
    if value is _ABSENT:
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = copy.deepcopy(value)
    return tree


def _compare(saved: Any, given: Any, path: Path) -> list[str]:
    """A line for each value that differs."""
    if isinstance(saved, dict) and isinstance(given, dict):
        keys = [*saved, *(key for key in given if key not in saved)]
        return [
            line
            for key in keys
            for line in _compare(saved.get(key, _ABSENT), given.get(key, _ABSENT), (*path, str(key)))
        ]
    # The text, too: NaN is not equal to itself.
    if saved == given or str(saved) == str(given):
        return []
    return [f"{'.'.join(path)}: checkpoint has {_show(saved)}, command line has {_show(given)}"]


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)
