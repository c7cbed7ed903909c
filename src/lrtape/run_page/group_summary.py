"""What the page of a run tells of one param group."""

from dataclasses import dataclass, field

from lrtape.changes import Changes
from lrtape.outline import Outline

MAX_CORNERS = 1_200
"""Of one curve in a picture that is less than a thousand pixels wide."""


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

    def add(self, step: int, lr: float) -> None:
        """Add a step; one that is there already keeps its first record. Takes about a microsecond."""
        if step <= self.last_step:
            return
        if not self.n_steps:
            self.first_step, self.first, self.peak = step, lr, lr
        elif lr > self.peak:
            self.peak = lr
        self.n_steps += 1
        self.last_step, self.last = step, lr
        self.outline.add(step, lr)
        self.changes.add(step, lr)
