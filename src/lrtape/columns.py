"""What a session writes, kept in memory as a `Tape` too."""

from array import array
from dataclasses import dataclass, field

from lrtape.spool import Frame
from lrtape.tape import Group, GroupLayout, Point, Record, Series, Tape

MAX_ROWS = 1_000_000
"""Steps of an optimizer, and points of a key, that are kept: the first ones."""


@dataclass(slots=True)
class _Block:
    """The steps of one optimizer while its groups stay the same; the lrs of a step lie side by side."""

    groups: tuple[Group, ...]
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    times_ms: "array[int]" = field(default_factory=lambda: array("q"))
    lrs: "array[float]" = field(default_factory=lambda: array("d"))


class Columns:
    """Keeps frames: 16 bytes for each step, and 8 for each of its groups. Used by the training thread alone."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[_Block]] = {}
        self._logged: dict[str, Series] = {}

    def write(self, frame: Frame) -> None:
        """Keep one frame, if it has values. Called within every step; takes less than a microsecond."""
        if isinstance(frame, Record):
            block = self._blocks[frame.optimizer_index][-1]
            if len(block.steps) < MAX_ROWS and len(frame.lrs) == len(block.groups):
                block.steps.append(frame.step)
                block.times_ms.append(frame.time_ms)
                block.lrs.extend(frame.lrs)
        elif isinstance(frame, Point):
            series = self._logged.setdefault(frame.key, Series())
            if len(series) < MAX_ROWS:
                series.steps.append(frame.step)
                series.times_ms.append(frame.time_ms)
                series.values.append(frame.value)
        elif isinstance(frame, GroupLayout):
            self._blocks.setdefault(frame.optimizer_index, []).append(_Block(frame.groups))

    def tape(self) -> Tape:
        """What was written so far. Takes some nanoseconds a value.

        Rows are in the order in which they were written; what is logged under a smaller step later stays behind.
        """
        by_key: dict[str, Series] = {}
        for blocks in self._blocks.values():
            for block in blocks:
                for index, group in enumerate(block.groups):
                    rows = Series(block.steps, block.times_ms, block.lrs[index :: len(block.groups)])
                    before = by_key.get(group.key, Series())
                    by_key[group.key] = Series(
                        before.steps + rows.steps, before.times_ms + rows.times_ms, before.values + rows.values
                    )
        return Tape.of({key: series for key, series in (by_key | self._logged).items() if len(series)})
