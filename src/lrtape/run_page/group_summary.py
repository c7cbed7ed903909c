"""What the page of a run tells of one param group."""

from dataclasses import dataclass, field

from lrtape.changes import MAX_CHANGES, Changes
from lrtape.outline import Outline

MAX_CORNERS, ALL_CORNERS = 1_200, 60_000
"""Of one curve, in a picture that is less than a thousand pixels wide, and of all curves together."""
ALL_CHANGES = 100_000
"""That are kept of all groups together."""
_FEWEST = 40
"""Of either, of one group, however many there are."""


@dataclass(slots=True)
class GroupSummary:
    """The lr of one param group, step after step, in memory that does not grow with their number.

    Attributes:
        name: of the group: its key without ``lr/``.
        first_step: index of its first step, from 0.
        last_step: of its last one.
        n_steps: how many there are.
        first: lr of the first step.
        peak: the largest.
        last: of the last step.
        is_frozen: whether it does not move now, or when the recording ended.
        outline: for a picture.
        changes: of its lr.
    """

    name: str
    first_step: int = -1
    last_step: int = -1
    n_steps: int = 0
    first: float = 0.0
    peak: float = 0.0
    last: float = 0.0
    is_frozen: bool = False
    outline: Outline = field(default_factory=lambda: Outline(MAX_CORNERS))
    changes: Changes = field(default_factory=Changes)

    @classmethod
    def one_of(cls, n_groups: int, name: str) -> "GroupSummary":
        """A new one, which keeps the less the more groups there are."""
        corners, changes = (max(_FEWEST, limit // n_groups) for limit in (ALL_CORNERS, ALL_CHANGES))
        return cls(name, outline=Outline(min(corners, MAX_CORNERS)), changes=Changes(min(changes, MAX_CHANGES)))

    def add(self, step: int, lr: float) -> None:
        """Add a step; one that is there already keeps its first record. Takes about a microsecond."""
        if step <= self.last_step:
            return
        if not self.n_steps:
            self.first_step, self.first, self.peak = step, lr, lr
        elif lr > self.peak or self.peak != self.peak:  # which is NaN
            self.peak = lr
        self.n_steps += 1
        self.last_step, self.last = step, lr
        self.outline.add(step, lr)
        self.changes.add(step, lr)
