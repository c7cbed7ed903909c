"""What a search may vary: spaces of hyperparameters, from the command line and from ``sweep.space``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lrtape.app.sweep.grid import SEED, Point, label, quote, short_names, unquoted
from lrtape.errors import ConfigError

Number = int | float

_KEYS_OF_RANGE = frozenset({"low", "high", "log", "step"})
_LOG = "log"
_EXAMPLE = "scheduler.gamma=interval(0.1,0.9)"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both inclusive; whole ones where both are.

    Attributes:
        low: the lowest.
        high: the highest.
        is_log: whether their logarithms are drawn evenly.
        step: between two neighbours; ``None`` for 1 between whole numbers, and for any value between others.
    """

    low: Number
    high: Number
    is_log: bool = False
    step: Number | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: float) -> Number:
        """The number at a share of the way from `low` to `high`, from 0 to 1."""
        value = self.low * (self.high / self.low) ** share if self.is_log else self.low + (self.high - self.low) * share
        if self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
        return min(max(round(value) if self.is_whole else float(value), self.low), self.high)

    def __str__(self) -> str:
        notes = [*(["log"] if self.is_log else []), *([f"step {self.step}"] if self.step is not None else [])]
        return f"{self.low} to {self.high}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """Any of some values, as texts that Hydra takes."""

    texts: tuple[str, ...]

    def at(self, share: float) -> str:
        """The one at a share of the way through the list, from 0 to 1."""
        return self.texts[min(int(share * len(self.texts)), len(self.texts) - 1)]

    def __str__(self) -> str:
        return ", ".join(self.texts)


Axis = Range | Choice


@dataclass(frozen=True, slots=True)
class Space:
    """Hyperparameters that exist together; which of several spaces a trial is in is one more category.

    Attributes:
        name: what distinguishes it from the others; empty where it is the only one.
        fixed: what all of its trials are given, by key, as Hydra takes it.
        axes: what its trials differ in, by key.
        deleted: overrides that delete something.
        own: what of `fixed` other spaces do not have, by key, without quotes.
    """

    name: str
    fixed: Mapping[str, str]
    axes: Mapping[str, Axis]
    deleted: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)

    def point(self, values: Mapping[str, Number | str]) -> Point:
        """What is trained with these values of the axes."""
        texts = {key: value if isinstance(value, str) else repr(value) for key, value in values.items()}
        shown = {key: value if isinstance(value, str) else f"{value:.4g}" for key, value in values.items()}
        short = short_names(list(self.axes))
        parts = [label(key, unquoted(text), short[key]) for key, text in shown.items()]
        named = {**self.own, **{key: unquoted(text) for key, text in texts.items()}}
        given = (f"{key}={text}" for key, text in {**self.fixed, **texts}.items())
        return Point((*self.deleted, *given), named, " ".join(filter(None, [self.name, *parts])))

    def at(self, share: float) -> Point:
        """The point at a share of the way along each axis."""
        return self.point({key: axis.at(share) for key, axis in self.axes.items()})


def read_spaces(given: Any, arguments: Sequence[str]) -> list[Space]:
    """The spaces of a search.

    A key that the command line sets or sweeps is taken from there, and not from ``sweep.space``.

    Args:
        given: ``sweep.space``: a mapping from keys of the config to a value, to a list of values, or to
            ``{low, high}``; a list of such mappings, each one a space of its own; or nothing.
        arguments: overrides, as on the command line: ``scheduler.gamma=interval(0.1,0.9)``.

    Raises:
        ConfigError: a space is none, or nothing is varied.
        HydraException: an override is none.
    """
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    deleted = tuple(override.input_line or "" for override in overrides if override.is_delete())
    own = {override.get_key_element(): _read_override(override) for override in overrides if not override.is_delete()}
    mappings = given if isinstance(given, list) else [given or {}]
    spaces = []
    for number, mapping in enumerate(mappings):
        where = f"sweep.space[{number}]" if isinstance(given, list) else "sweep.space"
        values = {**_read_mapping(mapping, where), **own}
        fixed = {key: value for key, value in values.items() if isinstance(value, str)}
        axes = {key: value for key, value in values.items() if not isinstance(value, str)}
        if SEED in axes:
            raise ConfigError("a search must have one seed, but varies `seed`. Give one: seed=0")
        spaces.append(Space("", fixed, axes, deleted))
    if not any(space.axes for space in spaces):
        raise ConfigError(
            f"a search must have something to vary, but nothing is. Give a range, as {_EXAMPLE}, or `sweep.space`."
        )
    return spaces if len(spaces) == 1 else _distinguish(spaces)


def _distinguish(spaces: Sequence[Space]) -> list[Space]:
    """With names after what they fix differently, ``steplr`` say, and numbers where that is nothing."""
    keys = dict.fromkeys(key for space in spaces for key in space.fixed)
    differing = [key for key in keys if len({space.fixed.get(key) for space in spaces}) > 1]
    short = short_names(differing)
    owns = [{key: unquoted(space.fixed[key]) for key in differing if key in space.fixed} for space in spaces]
    names = [" ".join(label(key, text, short[key]) for key, text in own.items()) for own in owns]
    return [
        replace(space, name=name if name and names.count(name) == 1 else f"{name} space {number}".strip(), own=own)
        for number, (name, own, space) in enumerate(zip(names, owns, spaces, strict=True))
    ]


def _read_override(override: Override) -> str | Axis:
    value, line = override.value(), override.input_line
    if isinstance(value, IntervalSweep):
        _check_tags(value.tags, line)
        return _range(f"`{override.get_key_element()}`", value.start, value.end, _LOG in value.tags, None)
    if isinstance(value, RangeSweep):
        _check_tags(value.tags, line)
        numbers = list(value.range())
        if not numbers:
            raise ConfigError(f"a range must have a value, but {line!r} has none. Hydra's ranges end before their end.")
        if len(numbers) == 1:
            return Choice((repr(numbers[0]),))
        step = None if all(isinstance(number, int) for number in numbers) and value.step in {1, -1} else abs(value.step)
        low, high = min(numbers), max(numbers)
        if step is not None:  # without the dust of adding floats
            high = type(low)(Decimal(str(low)) + (len(numbers) - 1) * Decimal(str(step)))
        return _range(f"`{override.get_key_element()}`", low, high, _LOG in value.tags, step)
    if override.is_sweep_override():
        return Choice(tuple(dict.fromkeys(override.sweep_string_iterator())))
    return override.get_value_element_as_str()


def _check_tags(tags: set[str], line: str | None) -> None:
    if tags - {_LOG}:
        raise ConfigError(
            f"a range must have no tag but log, as tag(log,interval(1e-4,1e-1)), but {line!r} has "
            f"{', '.join(sorted(tags - {_LOG}))}."
        )


def _read_mapping(mapping: Any, where: str) -> dict[str, str | Axis]:
    if not isinstance(mapping, Mapping):
        raise ConfigError(
            f"`{where}` must be a mapping from keys of the config to values, as {{scheduler.gamma: {{low: 0.1, high: "
            f"0.9}}}}, but is {mapping!r} instead."
        )
    values: dict[str, str | Axis] = {}
    for key, value in mapping.items():
        name = f"`{where}`: {key}"
        if isinstance(value, Mapping) and {"low", "high"} & value.keys():
            unknown = value.keys() - _KEYS_OF_RANGE
            if unknown:
                raise ConfigError(f"{name} must have only low, high, log and step, but has {sorted(unknown)}.")
            is_log = value.get("log", False)
            if not isinstance(is_log, bool):
                raise ConfigError(f"{name} must have true or false as log, but has {is_log!r} instead.")
            values[str(key)] = _range(name, value.get("low"), value.get("high"), is_log, value.get("step"))
        elif isinstance(value, list | tuple):
            if not value:
                raise ConfigError(f"{name} must have at least one value, but has an empty list instead.")
            values[str(key)] = Choice(tuple(dict.fromkeys(map(quote, value))))
        else:
            values[str(key)] = quote(value)
    return values


def _range(name: str, low: Any, high: Any, is_log: bool, step: Any) -> Range:
    for what, number in (("low", low), ("high", high), ("step", step)):
        if number is None and what == "step":
            continue
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ConfigError(f"{name} must have a number as {what}, but has {number!r} instead.")
    if not low < high:
        raise ConfigError(f"{name} must go from a lower to a higher number, but goes from {low} to {high} instead.")
    if is_log and not low > 0:
        raise ConfigError(f"{name} must begin above 0 to be drawn by its logarithm, but begins at {low} instead.")
    if is_log and step is not None:
        raise ConfigError(f"{name} must have no step where its logarithm is drawn, but has {step} instead.")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{name} must have a step above 0 and within its range, but has {step} instead.")
    if step is not None and (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)) != 0:
        raise ConfigError(f"{name} must be a whole number of steps wide, but goes from {low} to {high} by {step}.")
    if isinstance(low, int) and isinstance(high, int):
        if step is not None and not isinstance(step, int):
            raise ConfigError(f"{name} must have a whole step between whole numbers, but has {step}. Write {low}.0.")
        return Range(low, high, is_log, step)
    return Range(float(low), float(high), is_log, None if step is None else float(step))
