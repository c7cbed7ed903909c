"""Where a learning rate changes: found while its steps come, and kept as few rows, however long the training is."""

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CHANGES = 10_000
"""That are kept of one param group; a schedule that changes at every step makes one."""
STEEP = 0.2
"""Share of itself to which an lr falls within one step, for a drop where it changes at every step."""


class Change(NamedTuple):
    """Steps that follow one another, each with another lr than the one before it; mostly one step.

    Attributes:
        first_step: the first step that uses another lr than the step before it.
        last_step: the last one of them; the lr is held from there on.
        before: the lr of the step before the first.
        after: the lr of the last step.
    """

    first_step: int
    last_step: int
    before: float
    after: float

    @property
    def is_jump(self) -> bool:
        """Whether the lr was held before, and is held after."""
        return self.first_step == self.last_step


@dataclass(slots=True)
class Changes:
    """The changes of one lr.

    Attributes:
        limit: how many are kept.
        kept: the first of them, in order; `all` has the one that is under way, too.
        n_left_out: how many more there were.
        drops: the steps of the first drops, in order. A drop is a fall of the lr within one step after which it is
            held; or to `STEEP` of itself at most, where it was held before, or where the step before was such a drop.
            The end of a cosine, which falls ever more steeply, is none.
        n_drops: how many there were.
    """

    limit: int = MAX_CHANGES
    kept: list[Change] = field(default_factory=list)
    n_left_out: int = 0
    drops: list[int] = field(default_factory=list)
    n_drops: int = 0
    _step: int = -1
    _value: float | None = None
    _open: Change | None = None
    _was_steep: bool = False

    def add(self, step: int, value: float) -> None:
        """Add the next row, of a larger step; takes about 0.1 microseconds where nothing changes."""
        before = self._value
        if value != before and before is not None and value == value:  # NaN is no change
            self._change(step, before, value)
        elif self._open is not None:
            self._close()
        self._step, self._value = step, value

    def _change(self, step: int, before: float, value: float) -> None:
        if self._open is None or self._open.last_step != self._step:
            self._close()
            self._open = Change(step, step, before, value)
        else:
            self._open = self._open._replace(last_step=step, after=value)
        is_steep = _is_steep(before, value)
        if is_steep and (self._open.is_jump or self._was_steep):
            self._drop(step)
        self._was_steep = is_steep

    def _close(self) -> None:
        if self._open is None:
            return
        change, self._open = self._open, None
        if change.is_jump and change.after < change.before and not _is_steep(change.before, change.after):
            self._drop(change.first_step)
        if len(self.kept) < self.limit:
            self.kept.append(change)
        else:
            self.n_left_out += 1

    def _drop(self, step: int) -> None:
        self.n_drops += 1
        if len(self.drops) < self.limit:
            self.drops.append(step)

    def all(self) -> list[Change]:
        """Those that are kept, and the one that is under way."""
        return [*self.kept, *([self._open] if self._open is not None else [])]


def _is_steep(before: float, after: float) -> bool:
    return 0 < after <= STEEP * before
