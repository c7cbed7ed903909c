"""From grids and swept overrides to points: what each training of a sweep is given, and what it is called."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lrtape.errors import ConfigError
from lrtape.tracking.uri import mask_credentials

SEED = "seed"
"""The key of the config that makes repetitions of a point differ."""
MAX_POINTS = 10_000

_PLAIN = re.compile(r"[A-Za-z_][\w.\-/]*|\d+(?:\.\d+)?%")
"""What Hydra takes as a string without quotes."""
_NOT_STRINGS = frozenset({"null", "true", "false", "nan", "inf"})

Axes = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of the swept values.

    Attributes:
        overrides: everything that its training is given, as Hydra takes it, but for the seed.
        values: what distinguishes it from the other points: the text of each swept value, by key.
        name: for people: ``gamma=0.1 step_size=2``.
    """

    overrides: tuple[str, ...]
    values: Mapping[str, str]
    name: str


def expand(grids: Sequence[Any], arguments: Sequence[str]) -> tuple[list[Point], list[str]]:
    """Every point of a union of grids, times the values that the command line sweeps.

    A key that the command line sets or sweeps is taken from there, and not from the grids.

    Args:
        grids: each one a mapping from keys of the config to a value, or to a list of values, of which each point takes
            one; the points of all grids together are the sweep's. None at all is one grid without keys.
        arguments: overrides, as on the command line: ``scheduler.gamma=0.1,0.5``.

    Returns:
        The points, each one once, and the values of ``seed`` that the command line gives, as texts.

    Raises:
        ConfigError: a grid is none, a key has no values, or there are too many points.
        HydraException: an override is none.
    """
    own, deleted = _axes_of(arguments)
    seeds = own.pop(SEED, [])
    combinations: list[dict[str, str]] = []
    for number, grid in enumerate(grids or [{}]):
        axes = {**_axes_of_grid(grid, number), **own}
        if SEED in axes:
            raise ConfigError(
                "`sweep.grids` must not sweep `seed`, but does. Use `sweep.seeds=3`, which repeats every point."
            )
        for values in itertools.product(*axes.values()):
            combinations.append(dict(zip(axes, values, strict=True)))
            if len(combinations) > MAX_POINTS:
                raise ConfigError(f"a sweep must have at most {MAX_POINTS:,} points, but has more. Give fewer values.")
    unique = list({tuple(sorted(point.items())): point for point in combinations}.values())
    swept = _swept_keys(unique)
    short = short_names(swept)
    points = []
    for combination in unique:
        shown = {key: mask_credentials(unquoted(combination[key])) for key in swept if key in combination}
        name = " ".join(label(key, text, short[key]) for key, text in shown.items())
        points.append(Point((*deleted, *(f"{key}={text}" for key, text in combination.items())), shown, name))
    return points, seeds


def quote(value: Any) -> str:
    """A value as Hydra's override grammar takes it.

    Raises:
        ConfigError: it is not a plain value.
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            if _PLAIN.fullmatch(value) and value.lower() not in _NOT_STRINGS:
                return value
            # A backslash means something before a quote alone.
            return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + "\\'" * bool(end[2]), value) + "'"
        case list() | tuple():
            return f"[{','.join(map(quote, value))}]"
        case Mapping():
            return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    raise ConfigError(f"a swept value must be a number, a text, a list or a mapping, but is {value!r} instead.")


def _axes_of(arguments: Sequence[str]) -> tuple[Axes, list[str]]:
    """The values of each key, and the overrides that delete one."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    deleted = [override.input_line or "" for override in overrides if override.is_delete()]
    axes = {override.get_key_element(): _values_of(override) for override in overrides if not override.is_delete()}
    return axes, deleted


def _values_of(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"a grid must sweep over values, as in {override.get_key_element()}=0.1,0.5, but has "
            f"{override.input_line!r}, an interval. Use hydra/sweeper=lrtape_optuna for intervals."
        )
    return list(override.sweep_string_iterator())


def _axes_of_grid(grid: Any, number: int) -> Axes:
    where = f"sweep.grids[{number}]"
    if not isinstance(grid, Mapping):
        raise ConfigError(
            f"`{where}` must be a mapping from keys of the config to values, as {{scheduler: steplr, scheduler.gamma: "
            f"[0.1, 0.5]}}, but is {grid!r} instead."
        )
    axes: Axes = {}
    for key, given in grid.items():
        values = given if isinstance(given, list | tuple) else [given]
        if not values:
            raise ConfigError(f"`{where}` must give at least one value for {key}, but gives an empty list instead.")
        axes[str(key)] = [quote(value) for value in values]
    return axes


def _swept_keys(points: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which points differ, in their order; a point without a key differs from one with it."""
    keys: Iterable[str] = dict.fromkeys(key for point in points for key in point)
    return [key for key in keys if len({point.get(key) for point in points}) > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key; the whole key where two end alike."""
    last = {key: key.lstrip("+").rpartition(".")[2] for key in keys}
    # Only the training's own seed is called so.
    is_clear = {key: name != SEED and list(last.values()).count(name) == 1 for key, name in last.items()}
    return {key: name if is_clear[key] else key.lstrip("+") for key, name in last.items()}


def label(key: str, text: str, short: str) -> str:
    """What a value adds to the name of a point."""
    # The choice of a group needs no name: scheduler=steplr is steplr.
    return text if "." not in key and text[:1].isalpha() else f"{short}={text}"


def unquoted(text: str) -> str:
    """A value without the quotes of Hydra's grammar."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].replace(f"\\{text[0]}", text[0]) if is_quoted else text
