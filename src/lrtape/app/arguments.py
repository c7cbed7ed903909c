"""What is given for an argument, against what its function or class says that it takes."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor
from torch.optim import Optimizer

from lrtape.errors import ConfigError

_KNOWN = {**vars(collections.abc), **vars(typing), "Optimizer": Optimizer}
"""Names that torch 2.13 imports for type checkers alone."""


def check_arguments(path: str, target: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant, before it fails somewhere within.

    Only plain values are looked at, and only where the annotation says what they must be.

    Args:
        path: of the config, ``scheduler`` say.
        target: what the arguments are for.
        given: the arguments.

    Raises:
        ConfigError: one is of a wrong type.
    """
    hints = _hints(target)
    for name, value in given.items():
        if name in hints and not _accepts(hints[name], value):
            raise ConfigError(f"`{path}.{name}` must be {_text(hints[name])}, but is {value!r} instead.")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """By argument; a function that wraps a class takes what the class takes, where it says nothing of its own."""
    wrapped = inspect.unwrap(target)
    try:
        described = wrapped.__init__ if inspect.isclass(wrapped) else wrapped
        hints = typing.get_type_hints(described, localns=_KNOWN)
        if wrapped is not target:
            hints |= typing.get_type_hints(target, localns=_KNOWN)
        parameters = [*inspect.signature(target).parameters.values()]
        own = [*inspect.signature(target, follow_wrapped=False).parameters.values()]
    except (NameError, TypeError, ValueError):
        return {}  # Annotations for type checkers alone.
    for parameter in parameters:
        if parameter.default is None and parameter.name in hints:
            hints[parameter.name] = hints[parameter.name] | None
    # Arguments that are collected have a hint for each, and no name.
    collected = {item.name for item in [*parameters, *own] if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD}}
    return {name: hint for name, hint in hints.items() if name not in collected | {"return"}}


def _accepts(hint: Any, value: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint is Tensor:
        return False
    if kind is Literal:
        return value in parts
    if kind in {Union, types.UnionType}:
        return any(_accepts(part, value) for part in parts)
    if kind in {list, Sequence} or (kind is tuple and parts[1:] == (Ellipsis,)):
        return isinstance(value, list | tuple) and all(_accepts(parts[0], item) for item in value)
    if kind is tuple:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(parts)
            and all(_accepts(part, item) for part, item in zip(parts, value, strict=True))
        )
    if kind is Mapping or kind is dict:
        return isinstance(value, Mapping) and all(
            _accepts(parts[0], key) and _accepts(parts[1], item) for key, item in value.items()
        )
    if kind is Callable:
        return callable(value) or (isinstance(value, Mapping) and "_target_" in value)
    return True


def _text(hint: Any, plural: bool = False) -> str:
    kind, parts = get_origin(hint), get_args(hint)
    plain = {
        type(None): ("null", "null"),
        bool: ("true or false", "true or false"),
        int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"),
        str: ("a text", "texts"),
    }
    if hint in plain:
        return plain[hint][plural]
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind in {Union, types.UnionType}:
        return " or ".join(dict.fromkeys(_text(part, plural) for part in parts if part is not Tensor))
    if kind is tuple and parts[1:] != (Ellipsis,):
        items = [_text(part) for part in parts]
        return f"a list of {len(parts)}: {', '.join(items)}"
    if kind in {list, tuple, Sequence}:
        return f"a list of {_text(parts[0], plural=True)}"
    if kind is Mapping or kind is dict:
        return f"a mapping to {_text(parts[1], plural=True)}"
    if kind is Callable:
        return "functions" if plural else "a function, {_target_: ...}"
    return getattr(hint, "__name__", str(hint))
