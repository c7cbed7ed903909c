"""The nouns of lrtape.

* A *step* is one call of ``optimizer.step()`` that ran and updated, counted from 0 for each optimizer.
* The *lr of a step* is the value the optimizer used in that call, not the one the scheduler set for the next call.
* *Times* are Unix milliseconds, taken once when the step happened, and kept through spool, shipping and replay.
* A *key* is the name of an MLflow metric, as ``lr/<group>`` (see ``keys.py``).
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from operator import le
from time import time_ns
from typing import Literal, NamedTuple, Self

import msgspec

from lrtape.errors import PrunedError, RankKilledError

Severity = Literal["error", "warning", "note"]


def now_ms() -> int:
    """The time, in Unix milliseconds."""
    return time_ns() // 1_000_000


class Status(StrEnum):
    """How a training ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @classmethod
    def after(cls, error: BaseException | None) -> Self:
        """What an exception means: FINISHED for none and for ``sys.exit(0)``, KILLED for Ctrl-C, for a pruned trial and
        where another process of the training was killed, else FAILED.
        """
        if error is None or (isinstance(error, SystemExit) and not error.code):
            return cls.FINISHED
        return cls.KILLED if isinstance(error, KeyboardInterrupt | PrunedError | RankKilledError) else cls.FAILED


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one optimizer step used. Built in every step: a struct is made in half the time of a named tuple.

    Attributes:
        optimizer_index: of the optimizer in its session, from 0.
        step: index of the step of this optimizer, from 0.
        time_ms: Unix time in milliseconds when the step had run.
        lrs: one lr for each param group, in the order of the last `GroupLayout` of this optimizer.
    """

    optimizer_index: int
    step: int
    time_ms: int
    lrs: list[float]


class Point(NamedTuple):
    """One row of a tracking store: the value of one key at one step. ``time_ms`` is Unix time in milliseconds."""

    key: str
    step: int
    time_ms: int
    value: float


@dataclass(frozen=True, slots=True)
class Group:
    """A param group as people see it: ``name`` as it was given or derived, ``key`` as MLflow stores it."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """The param groups of one optimizer from now on; comes before the first `Record` that has their lrs."""

    optimizer_index: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know about a tape. ``docs/findings.md`` has a section for each code.

    Attributes:
        code: stable, as ``lr-zero``.
        message: a sentence that names the cause and the fix.
        key: where it was seen.
        step: where it was seen first; index of the optimizer step, from 0.
        severity: ``error`` where the training is not what was meant, ``warning`` where it is probably not, ``note``
            for what is good to know.
    """

    code: str
    message: str
    key: str
    step: int
    severity: Severity = "warning"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of the learning rates of a whole recording by who knows what was meant.

    Without one, whoever ships the recording judges it by itself.

    Attributes:
        text: ``ok``, or what is wrong most; empty where nobody shall judge.
    """

    text: str


@dataclass(slots=True, eq=False)
class Series:
    """The values of one key: three columns of one length, in ascending order of (step, time)."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    times_ms: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, step: int) -> float | None:
        """The value of a step; of several, the first; ``None`` where there is none."""
        index = bisect_left(self.steps, step)
        return self.values[index] if index < len(self) and self.steps[index] == step else None

    def since(self, step: int) -> "Series":
        """The rows from this step on."""
        begin = bisect_left(self.steps, step)
        return Series(self.steps[begin:], self.times_ms[begin:], self.values[begin:]) if begin else self

    def until(self, step: int) -> "Series":
        """The rows before this step."""
        end = bisect_left(self.steps, step)
        return Series(self.steps[:end], self.times_ms[:end], self.values[:end])

    def __eq__(self, other: object) -> bool:
        """Equal steps, times and values. NaN equals NaN here, or a tape with one would not equal itself."""
        if not isinstance(other, Series):
            return NotImplemented
        return (
            self.steps == other.steps
            and self.times_ms == other.times_ms
            and len(self.values) == len(other.values)
            and all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(self.values, other.values, strict=True))
        )


class Tape(Mapping[str, Series]):
    """Every value of every key of one run: what a spool, MLflow and a simulation all yield.

    A read-only mapping from key to `Series`. Keys are in the order of their first point. Takes 24 bytes a point.
    """

    def __init__(self, points: Iterable[Point] = ()) -> None:
        by_key: dict[str, Series] = {}
        for key, step, time_ms, value in points:
            series = by_key.get(key)
            if series is None:
                series = by_key[key] = Series()
            series.steps.append(step)
            series.times_ms.append(time_ms)
            series.values.append(value)
        self._series = {key: in_order(series) for key, series in by_key.items()}

    @classmethod
    def of(cls, series: Mapping[str, Series]) -> Self:
        """A tape of these columns, which are not copied."""
        tape = cls()
        tape._series = dict(series)
        return tape

    @classmethod
    def union(cls, tapes: Iterable["Tape"]) -> Self:
        """Every row of several tapes, once: a row that two tapes have, with its time and its value, is one row."""
        by_key: dict[str, Series] = {}
        for tape in tapes:
            for key, series in tape.items():
                by_key[key] = _merged(by_key[key], series) if key in by_key else series
        return cls.of(by_key)

    def __getitem__(self, key: str) -> Series:
        return self._series[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        return f"Tape({', '.join(f'{key}: {len(series)} steps' for key, series in self.items())})"

    def points(self) -> Iterator[Point]:
        """Every point, key by key."""
        for key, series in self.items():
            for step, time_ms, value in zip(series.steps, series.times_ms, series.values, strict=True):
                yield Point(key, step, time_ms, value)

    def until(self, step: int) -> "Tape":
        """The rows before this step."""
        return Tape.of({key: cut for key, series in self.items() if (cut := series.until(step))})

    @property
    def lr(self) -> "Tape":
        """The learning rates alone: the keys that begin with ``lr/``."""
        return Tape.of({key: series for key, series in self.items() if key.startswith("lr/")})


def in_order(series: Series) -> Series:
    """The same rows, in ascending order of (step, time); the same object, where they are."""
    rows, next_rows = (zip(series.steps, series.times_ms, strict=True) for _ in range(2))
    if all(map(le, rows, islice(next_rows, 1, None))):
        return series
    return _sorted_series(list(zip(series.steps, series.times_ms, series.values, strict=True)))


def _sorted_series(rows: list[tuple[int, int, float]]) -> Series:
    rows.sort(key=lambda row: row[:2])
    steps, times_ms, values = zip(*rows, strict=True)
    return Series(array("q", steps), array("q", times_ms), array("d", values))


def _merged(first: Series, second: Series) -> Series:
    if first.steps[-1] < second.steps[0]:  # a resumed training; the other way takes many times the memory
        return Series(first.steps + second.steps, first.times_ms + second.times_ms, first.values + second.values)
    # NaN does not equal NaN, so rows are told apart by the text of their value.
    rows = {
        (step, time_ms, repr(value)): (step, time_ms, value)
        for series in (first, second)
        for step, time_ms, value in zip(series.steps, series.times_ms, series.values, strict=True)
    }
    return _sorted_series(list(rows.values()))
