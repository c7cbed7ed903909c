"""The steps that a resumed training makes once more: the first record of a step is the one that is kept."""

import math
from collections.abc import Iterable, Mapping

from lrtape.lines import warn
from lrtape.outbox import Outbox
from lrtape.spool import Frame
from lrtape.tape import Finding, Group, GroupLayout, Point, Record

REPLAY_DIFFERS = "replay-differs"
JUMP_ON_RESUME = "jump-on-resume"


class Overlap:
    """What a run has already of the steps that a resumed training makes once more.

    Args:
        points: of those steps, in any order; of several at one key and step, the earliest counts.
        owed_lrs: what the next step of the first optimizer uses according to the checkpoint, by the key of the param
            group; empty where the checkpoint cannot know.
    """

    def __init__(self, points: Iterable[Point] = (), owed_lrs: Mapping[str, float] | None = None) -> None:
        self.owed_lrs = dict(owed_lrs or {})
        self.values: dict[tuple[str, int], float] = {}
        for point in sorted(points, key=lambda point: point.time_ms):
            self.values.setdefault((point.key, point.step), point.value)
        self.last_step = max((step for _, step in self.values), default=-1)


class ReplayOutbox:
    """Keeps what a run has already from being written a second time.

    Beyond the overlap a frame costs a comparison of two numbers more than without.

    Args:
        outbox: where everything else goes.
        overlap: what is there already.

    Attributes:
        findings: what a person should know: an lr that differs from the recorded or the owed one; each kind once.
    """

    def __init__(self, outbox: Outbox, overlap: Overlap) -> None:
        self.findings: list[Finding] = []
        self._write = outbox.write
        self._values = overlap.values
        self._last_step = overlap.last_step
        self._owed_lrs = overlap.owed_lrs
        self._groups: dict[int, tuple[Group, ...]] = {}
        self._differs = False
        self.tend = outbox.tend
        self.end = outbox.end
        self.wait = outbox.wait

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        if isinstance(frame, Record):
            if self._owed_lrs and frame.optimizer_index == 0:
                self._compare_with_owed(frame)
            if frame.step <= self._last_step:
                return self._write_missing(frame)
        elif isinstance(frame, Point):
            if frame.step <= self._last_step and (frame.key, frame.step) in self._values:
                return True
        elif isinstance(frame, GroupLayout):
            self._groups[frame.optimizer_index] = frame.groups
        return self._write(frame)

    def _write_missing(self, record: Record) -> bool:
        """Write what the run has not yet of a step; all of it as it came, where the run has nothing."""
        groups = self._groups[record.optimizer_index]
        points = [
            Point(group.key, record.step, record.time_ms, lr) for group, lr in zip(groups, record.lrs, strict=False)
        ]
        missing = [point for point in points if (point.key, point.step) not in self._values]
        if len(missing) == len(points):
            return self._write(record)
        for point in points:
            if not self._differs and point not in missing:
                self._compare_with_first(point)
        are_safe = [self._write(point) for point in missing]
        return all(are_safe)

    def _compare_with_first(self, point: Point) -> None:
        first = self._values[point.key, point.step]
        if _equal(first, point.value):
            return
        self._differs = True
        self._tell(
            REPLAY_DIFFERS,
            f"{point.key} of step {point.step} was {first!r} before this training was resumed, and is {point.value!r} "
            f"now that the step is made once more. The first record of a step is kept: {first!r}. Compare config, code "
            "and data of then and now, or start a new run.",
            point,
        )

    def _compare_with_owed(self, record: Record) -> None:
        owed_lrs, self._owed_lrs = self._owed_lrs, {}
        for group, used in zip(self._groups[0], record.lrs, strict=False):
            owed = owed_lrs.get(group.key, used)
            if not _equal(owed, used):
                self._tell(
                    JUMP_ON_RESUME,
                    f"{group.key} jumps where the training was resumed: by the checkpoint, step {record.step} was to "
                    f"use {owed!r}, and it used {used!r}. Where that is not meant, resume without changing scheduler, "
                    "optimizer and param groups, and load the scheduler's state.",
                    Point(group.key, record.step, record.time_ms, used),
                )
                return

    def _tell(self, code: str, message: str, where: Point) -> None:
        finding = Finding(code, message, where.key, where.step)
        self.findings.append(finding)
        self._write(finding)
        warn(message)


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
