"""Which learning rates of a spool the tracking store gets; the spool itself, and the tape, have every step.

With ``record=every_step`` the store gets all of them. With ``record=changes`` it gets, of each param group, the first
and the last one, both sides of every change, those at a `Mark`, and one now and then, so that a curve grows while it is
level. The straight lines between these rows are the tape: where two neighbours differ, no step lies between them.
Whatever else is recorded, a loss say, is stored as it came.

With ``lr_log10`` the store also gets the logarithm of each lr that it gets, where there is one: of an lr above 0 that
is finite.

Every choice follows from the frames alone, so that a shipper that goes on where another one was killed makes the same.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from lrtape.keys import LR, log10_key
from lrtape.recording_options import CHANGES
from lrtape.spool import End, Frame, Mark, SpoolReader
from lrtape.tape import GroupLayout, Point, Record, Series, Tape

LEVEL_MS = 60_000
"""After so long, in milliseconds, the next step is stored although no lr has changed."""
LEVEL_SHARE = 0.05
"""Or after this share of the time since the first step, if that is more: some 170 rows in a month. MLflow (3.17) draws
all rows of a key only up to 320."""
LOG10_DECIMALS = 9
"""So that every machine comes to the same logarithm, whatever its last bits."""


class Batch(NamedTuple):
    """Points to send, and the offset of the spool in bytes up to which they reach: what to acknowledge afterwards.

    It is full where the next frame may be there already.
    """

    points: list[Point]
    offset: int
    is_full: bool


class Selection:
    """Reads from a spool what the store gets, in order, also while the spool grows.

    Takes a microsecond for each frame that has nothing for the store.

    Args:
        reader: at the beginning of the spool.
        record: by default what the spool's header says.
    """

    def __init__(self, reader: SpoolReader, record: str | None = None) -> None:
        self._reader = reader
        self._has_changes_alone = (record or reader.header.record) == CHANGES
        self._has_log10 = reader.header.lr_log10
        self._tracks: dict[int, _Track] = {}
        self._next: list[Point] = []
        """Of the frame that was read last, where it did not fit into its batch."""

    def skip_to(self, offset: int) -> None:
        """Read up to `offset`, without returning any points: their store has them."""
        if offset <= self._reader.offset:
            return
        for frame in self._reader.frames():
            if self._has_changes_alone:
                self._changes(frame)
            if self._reader.offset >= offset:
                break

    def batch(self, max_points: int) -> Batch:
        """Read on until no other frame fits, or nothing more is there.

        Args:
            max_points: more only where a single frame has more. A few points too many would be a request of their own.
        """
        points, self._next = self._next, []
        offset = self._reader.offset
        if len(points) >= max_points:
            return Batch(points, offset, True)
        for frame in self._reader.frames():
            more = self.of(frame)
            if points and len(points) + len(more) > max_points:
                self._next = more
                return Batch(points, offset, True)
            points += more
            offset = self._reader.offset
            if len(points) >= max_points:
                return Batch(points, offset, True)
        return Batch(points, offset, False)

    def points(self, is_over: bool) -> Iterator[Point]:
        """Read all that is there.

        Args:
            is_over: whether nothing more comes, though the spool may not say so: see `rest`.
        """
        for frame in self._reader.frames():
            yield from self.of(frame)
        if is_over:
            yield from self.rest()

    def of(self, frame: Frame) -> list[Point]:
        """What the store gets now that this frame, the next one, is there: perhaps of an earlier one, too."""
        points = self._changes(frame) if self._has_changes_alone else self._reader.points_of(frame)
        return self._with_log10(points)

    def rest(self) -> list[Point]:
        """The last steps, where the recording is over without a word, and they have not been taken before."""
        return self._with_log10([point for track in self._tracks.values() for point in track.rest()])

    def _with_log10(self, points: list[Point]) -> list[Point]:
        if not self._has_log10:
            return points
        return points + [found for point in points if (found := _log10(point)) is not None]

    def _changes(self, frame: Frame) -> list[Point]:
        if isinstance(frame, Record):
            return self._tracks[frame.optimizer_index].add(frame)
        if isinstance(frame, GroupLayout):
            before = self._tracks.get(frame.optimizer_index)
            self._tracks[frame.optimizer_index] = _Track([group.key for group in frame.groups])
            return before.rest() if before is not None else []
        if isinstance(frame, Mark | End):
            return [point for track in self._tracks.values() for point in track.rest()]
        if isinstance(frame, Point):  # of an lr, where a step was recorded by half: see `ReplayOutbox`
            broken = [track for track in self._tracks.values() if frame.key in track.keys]
            return [point for track in broken for point in track.interrupt()] + [frame]
        return []


class _Track:
    """The learning rates of one optimizer, as long as its groups stay the same."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._last: Record | None = None
        self._is_taken: list[bool] = []
        """For each group, whether its row of `_last` is taken."""
        self._first_ms = 0
        self._whole_ms = 0
        """The time of the last step of which all rows were taken."""

    def add(self, record: Record) -> list[Point]:
        last, self._last = self._last, record
        if last is None:
            self._first_ms = record.time_ms
            return self._take_all(record)
        points = []
        if record.lrs == last.lrs:
            self._is_taken = [False] * len(self.keys)
        else:
            changed = [not _equal(was, now) for was, now in zip(last.lrs, record.lrs, strict=True)]
            points = self._rows(last, [new and not taken for new, taken in zip(changed, self._is_taken, strict=True)])
            self._is_taken = changed
        level_ms = max(LEVEL_MS, LEVEL_SHARE * (record.time_ms - self._first_ms))
        if record.time_ms - self._whole_ms >= level_ms:
            return points + self._take_all(record)
        return points + self._rows(record, self._is_taken) if True in self._is_taken else points

    def rest(self) -> list[Point]:
        """The rows of the last step that are not taken yet."""
        if self._last is None:
            return []
        points = self._rows(self._last, [not taken for taken in self._is_taken])
        self._is_taken = [True] * len(self.keys)
        return points

    def interrupt(self) -> list[Point]:
        """The same; what comes next begins anew."""
        points = self.rest()
        self._last = None
        return points

    def _take_all(self, record: Record) -> list[Point]:
        self._is_taken = [True] * len(self.keys)
        self._whole_ms = record.time_ms
        return self._rows(record, self._is_taken)

    def _rows(self, record: Record, is_wanted: list[bool]) -> list[Point]:
        return [
            Point(key, record.step, record.time_ms, lr)
            for key, lr, wanted in zip(self.keys, record.lrs, is_wanted, strict=True)
            if wanted
        ]


def may_have(tape: Tape, lr_log10: bool) -> Tape:
    """Every row of a tape that the store may have, with the logarithms if it gets those."""
    if not lr_log10:
        return tape
    return Tape.union([tape, Tape(found for point in tape.lr.points() if (found := _log10(point)) is not None)])


def must_have(tape: Tape, record: str, lr_log10: bool) -> Tape:
    """Every row of a tape that the store must have when the recording is over.

    Args:
        tape: of one recording, as it was recorded.
        record: of the recording.
        lr_log10: of the recording.
    """
    if record == CHANGES:
        tape = Tape.of({key: changes(series) if key.startswith(LR) else series for key, series in tape.items()})
    return may_have(tape, lr_log10)


def changes(series: Series) -> Series:
    """The first row, the last one, and both sides of every change."""
    kept = {0, len(series) - 1} if len(series) else set()
    for index, (was, now) in enumerate(pairwise(series.values)):
        if not _equal(was, now):
            kept |= {index, index + 1}
    rows = sorted(kept)
    found = Series()
    found.steps.extend(series.steps[row] for row in rows)
    found.times_ms.extend(series.times_ms[row] for row in rows)
    found.values.extend(series.values[row] for row in rows)
    return found


def _equal(was: float, now: float) -> bool:
    return was == now or (math.isnan(was) and math.isnan(now))


def _log10(point: Point) -> Point | None:
    if not point.key.startswith(LR) or not 0 < point.value < math.inf:
        return None
    return point._replace(key=log10_key(point.key), value=round(math.log10(point.value), LOG10_DECIMALS))
