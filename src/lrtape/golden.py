"""Golden learning rates: what a tape is expected to hold, and where the two differ first."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrtape.errors import ConfigError
from lrtape.tape import Series, Tape

Schedule = Callable[[int], float]
Expected = Series | Sequence[float] | Mapping[int, float] | Schedule
Golden = Mapping[str, Expected] | Schedule | str | Path

NEIGHBOURS = 2
"""Steps that are shown before and after the first one that differs."""
MAX_NAMED = 8
"""Steps, or keys, that are named; of more, only how many."""


def write_golden(tape: Tape, path: str | Path) -> None:
    """Write the learning rates of a tape as a small text file, to compare later ones with.

    A ``.csv`` has a line for each step and a column for each key, and shows in a diff at which step something changes;
    a ``.json`` has an object for each key, from step to lr. Both keep every digit.

    Args:
        tape: what is right; keys that do not begin with ``lr/`` are left out.
        path: of the file, which is replaced.

    Raises:
        ConfigError: the name ends in neither ``.csv`` nor ``.json``, or the tape has no lr.
    """
    path = _golden_path(path)
    columns = {key: dict(zip(series.steps, series.values, strict=True)) for key, series in tape.lr.items()}
    if not columns:
        raise ConfigError(
            "`tape` must have learning rates to be golden, but has none instead: record some steps first."
        )
    if path.suffix == ".json":
        path.write_text(json.dumps(columns, indent=1) + "\n")
        return
    steps = sorted({step for column in columns.values() for step in column})
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["step", *columns])
        rows.writerows(
            [step, *(repr(column[step]) if step in column else "" for column in columns.values())] for step in steps
        )


def read_golden(path: str | Path) -> dict[str, dict[int, float]]:
    """What `write_golden` has written: lr by key and step.

    Raises:
        ConfigError: there is no such file, or it is none of these.
    """
    path = _golden_path(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(
            f"`golden` must be a file that is there, but {path} is not. Write it once, and look at it: "
            f"lrtape.testing.write_golden(tape, {str(path)!r})."
        ) from None
    try:
        if path.suffix == ".json":
            columns = {
                key: {int(step): float(lr) for step, lr in rows.items()} for key, rows in json.loads(text).items()
            }
        else:
            first, *rows = list(csv.reader(text.splitlines()))
            columns = {key: {} for key in first[1:]}
            for step, *lrs in rows:
                for key, lr in zip(columns, lrs, strict=True):
                    if lr:
                        columns[key][int(step)] = float(lr)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"`golden` must be a file that write_golden() has written, but {path} is not ({error})."
        ) from error
    return columns


def _golden_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in {".csv", ".json"}:
        raise ConfigError(f"a golden file must end in .csv or .json, but is {path} instead.")
    return path


def differences(tape: Tape, golden: Golden, rel: float) -> str:
    """Where a tape differs from what is expected; empty where it does not. See `lrtape.testing.assert_schedule`.

    Raises:
        ConfigError: `golden` or `rel` is none.
    """
    if isinstance(rel, bool) or not isinstance(rel, int | float) or not 0 <= rel < math.inf:
        raise ConfigError(f"`rel` must be a number >= 0, but is {rel!r} instead.")
    if callable(golden) and not isinstance(golden, Mapping):
        if not tape.lr:
            return "no lr was recorded: no step was made, or not by an optimizer that is on this tape."
        golden = dict.fromkeys(tape.lr, golden)
    wanted = _wanted(golden)
    missing = [key for key in wanted if key not in tape]
    extra = [key for key in tape.lr if key not in wanted]
    texts = []
    if missing:
        texts.append(f"missing: {_named(missing)}; on the tape: {_named(list(tape.lr)) or 'no lr'}.")
    if extra:
        texts.append(f"not expected: {_named(extra)}; expected: {_named(list(wanted))}.")
    texts += [_Column.of(key, tape[key], expected).differences(rel) for key, expected in wanted.items() if key in tape]
    return "\n".join(text for text in texts if text)


def _wanted(golden: Golden) -> Mapping[str, Expected]:
    if isinstance(golden, str | Path):
        return read_golden(golden)
    wanted = golden.lr if isinstance(golden, Tape) else golden
    if not isinstance(wanted, Mapping) or not wanted:
        raise ConfigError(
            "`golden` must be a tape, a mapping from key to lrs, a function of the step, or the path of a golden file, "
            f"but is {golden!r} instead."
        )
    return wanted


@dataclass(frozen=True, slots=True)
class _Column:
    """One key: what its steps used, and what is expected of them."""

    key: str
    used: dict[int, float]
    expected: dict[int, float]

    @classmethod
    def of(cls, key: str, series: Series, expected: Expected) -> "_Column":
        used = dict(zip(series.steps, series.values, strict=True))
        if isinstance(expected, Series):
            return cls(key, used, dict(zip(expected.steps, expected.values, strict=True)))
        if isinstance(expected, Mapping):
            return cls(key, used, {int(step): float(lr) for step, lr in expected.items()})
        if callable(expected):
            first, last = (min(used), max(used)) if used else (0, -1)
            return cls(key, used, {step: float(expected(step)) for step in range(first, last + 1)})
        return cls(key, used, {step: float(lr) for step, lr in enumerate(expected)})

    def differences(self, rel: float) -> str:
        common = [step for step in sorted(self.used) if step in self.expected]
        wrong = [step for step in common if not _agree(self.used[step], self.expected[step], rel)]
        missing = [step for step in sorted(self.expected) if step not in self.used]
        extra = [step for step in sorted(self.used) if step not in self.expected]
        texts = []
        if wrong:
            texts.append(self._first(wrong, common, rel))
        if missing:
            texts.append(f"{self.key}: {_counted(missing)} missing on the tape.")
        if extra:
            texts.append(f"{self.key}: {_counted(extra)} not expected.")
        return "\n".join(texts)

    def _first(self, wrong: list[int], common: list[int], rel: float) -> str:
        step = wrong[0]
        where = common.index(step)
        lines = [
            f"{self.key} differs in {len(wrong)} of {len(common)} steps, first in step {step}: expected "
            f"{self.expected[step]!r}, but the step used {self.used[step]!r}.",
            f"  {'step':>8}  {'expected':<24}used",
        ]
        lines += [
            f"{'>' if near == step else ' '} {near:>8}  {self.expected[near]!r:<24}{self.used[near]!r}"
            for near in common[max(0, where - NEIGHBOURS) : where + NEIGHBOURS + 1]
        ]
        return "\n".join([*lines, *self._shift(rel)])

    def _shift(self, rel: float) -> Iterator[str]:
        """A guess at the usual mistake."""
        for shift, text in (
            (-1, "each step used what is expected of the next one: is the scheduler stepped before the optimizer?"),
            (1, "each step used what is expected of the one before it: is a step of the scheduler missing?"),
        ):
            pairs = [
                (lr, self.expected[step - shift]) for step, lr in self.used.items() if step - shift in self.expected
            ]
            if len(pairs) > 1 and all(_agree(*pair, rel) for pair in pairs):
                yield f"  {text}"


def _agree(used: float, expected: float, rel: float) -> bool:
    if used == expected or (math.isnan(used) and math.isnan(expected)):
        return True
    return math.isfinite(used) and math.isfinite(expected) and abs(used - expected) <= rel * abs(expected)


def _counted(steps: Sequence[int]) -> str:
    return f"{'step' if len(steps) == 1 else 'steps'} {_named(steps)} {'is' if len(steps) == 1 else 'are'}"


def _named(things: Sequence[object]) -> str:
    more = f", and {len(things) - MAX_NAMED} more" if len(things) > MAX_NAMED else ""
    return ", ".join(str(thing) for thing in things[:MAX_NAMED]) + more
