import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

from lrtape.app.arguments import _hints, check_arguments
from lrtape.errors import ConfigError
from lrtape.schedules import cyclic_lr, one_cycle_lr


def takes(
    whole: int,
    number: float,
    text: str,
    flag: bool,
    word: Literal["a", "b"],
    either: float | list[float] | None,
    pair: tuple[float, int],
    several: Sequence[int],
    named: Mapping[str, float],
    function: Callable[[int], float],
    tensor: float | torch.Tensor,
    other: torch.device,
    missing: int = None,  # type: ignore[assignment] # noqa: RUF013 - people write it so
    free: Any = 3,
    **others: int,
) -> None: ...


RIGHT: dict[str, list[Any]] = {
    "whole": [3, -1],
    "number": [3, 0.5, float("nan")],
    "text": ["", "x"],
    "flag": [True, False],
    "word": ["a"],
    "either": [1, 0.5, [0.5, 1], [], None],
    "pair": [[0.5, 1], (1, 1)],
    "several": [[], [1, 2], (1,)],
    "named": [{}, {"a": 1}],
    "function": [len, {"_target_": "my.function"}],
    "tensor": [0.1],
    "other": ["cpu", 3, None],
    "missing": [3, None],
    "free": ["x", None],
    "unknown": ["x"],
    "others": ["x"],
}

WRONG: dict[str, list[tuple[Any, str]]] = {
    "whole": [
        (0.5, "a whole number, but is 0.5"),
        (True, "a whole number"),
        ("3", "but is '3'"),
        (None, "but is None"),
    ],
    "number": [("0.1", "a number, but is '0.1'"), (False, "a number"), ([1], "a number")],
    "text": [(3, "a text, but is 3")],
    "flag": [(1, "true or false, but is 1"), ("true", "true or false")],
    "word": [("c", "one of a, b, but is 'c'"), (["a"], "one of a, b")],
    "either": [("x", "a number or a list of numbers or null, but is 'x'"), ([1, "x"], "or null"), ({}, "or null")],
    "pair": [([0.5], "a list of 2: a number, a whole number"), ([1, 0.5], "a list of 2"), (0.5, "a list of 2")],
    "several": [(3, "a list of whole numbers, but is 3"), ([0.5], "a list of whole numbers"), ("123", "'123'")],
    "named": [([1], "a mapping to numbers, but is [1]"), ({"a": "b"}, "a mapping to numbers")],
    "function": [("len", "a function, {_target_: ...}, but is 'len'"), ({"a": 1}, "a function")],
    "tensor": [("0.1", "a number, but is '0.1'")],
    "missing": [("x", "a whole number or null, but is 'x'")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_fits_is_accepted(name: str) -> None:
    """So is everything that an annotation does not tell about, and an argument that there is not."""
    for value in RIGHT[name]:
        check_arguments("group", takes, {name: value})


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    """With the key, what it must be, and what it is."""
    for value, said in WRONG[name]:
        with pytest.raises(ConfigError) as refusal:
            check_arguments("group", takes, {name: value})
        assert str(refusal.value).startswith(f"`group.{name}` must be ")
        assert said in str(refusal.value)
        assert str(refusal.value).endswith(f"but is {value!r} instead.")


TORCHS = [
    found
    for module, base in ((lr_scheduler, lr_scheduler.LRScheduler), (torch.optim, torch.optim.Optimizer))
    for name, found in vars(module).items()
    if inspect.isclass(found) and issubclass(found, base) and not name.startswith("_")
]


@pytest.mark.parametrize("target", [*TORCHS, swa_utils.SWALR], ids=lambda target: target.__name__)
def test_what_torch_says_of_its_arguments_is_understood(target: Callable[..., Any]) -> None:
    """Its annotations are read, although some of their names are imported for type checkers alone; defaults fit."""
    described = {
        name: parameter.default
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.annotation is not parameter.empty
    }
    assert described
    assert described.keys() <= _hints(target).keys()
    check_arguments("x", target, {name: value for name, value in described.items() if value is not inspect._empty})


@pytest.mark.parametrize("target", [cyclic_lr, one_cycle_lr])
def test_a_function_around_a_class_takes_what_the_class_takes(target: Callable[..., Any]) -> None:
    """What it says of its own goes first."""
    check_arguments("x", target, {"max_lr": None})
    with pytest.raises(ConfigError, match=r"`x.cycle_momentum` must be true or false, but is 3 instead"):
        check_arguments("x", target, {"cycle_momentum": 3})


def test_annotations_that_cannot_be_read_are_no_obstacle() -> None:
    """A name that exists for type checkers alone, and what has no signature, leave every argument free."""

    def unreadable(number: "NoSuchName") -> None:  # type: ignore[name-defined] # noqa: F821
        ...

    check_arguments("x", unreadable, {"number": "x"})
    check_arguments("x", dict, {"number": "x"})
    with pytest.raises(NameError):
        typing.get_type_hints(unreadable)
