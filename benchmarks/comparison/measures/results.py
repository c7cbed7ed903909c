"""What was measured. Whatever was not is ``None``."""

from dataclasses import dataclass

N_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Block:
    """One training, in microseconds a step.

    Attributes:
        outside_us: of the median step, CPU time of the training thread outside of forward and backward pass and the
            arithmetic of the update.
        cpu_us: of the mean step, all CPU time of that thread.
        wall_us: of the mean step, what a person waits.
    """

    outside_us: float
    cpu_us: float
    wall_us: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two trainings, one right after the other."""

    off: Block
    on: Block


@dataclass(frozen=True, slots=True)
class Arrival:
    """What had arrived when trainings had come to their normal end.

    Attributes:
        landed: rows, each step and group once.
        expected: one for each step and each of the four groups.
        doubled: rows beyond those, of a step and a group that had one.
        wrong: rows whose value is not what the step used that they stand for.
        groups: of how many of the four there was any row.
    """

    landed: int
    expected: int
    doubled: int
    wrong: int
    groups: int

    def __add__(self, other: "Arrival") -> "Arrival":
        """Of several trainings."""
        return Arrival(
            self.landed + other.landed,
            self.expected + other.expected,
            self.doubled + other.doubled,
            self.wrong + other.wrong,
            min(self.groups, other.groups),
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Trainings with and without recording, in alternation.

    Attributes:
        n_steps: of each.
        pairs: what they took.
        landing_s: from the last update of each one with recording until its last row was in the store; ``None`` where
            some never came.
        arrival: of all of them together; ``None`` where nothing is recorded into MLflow.
    """

    n_steps: int
    pairs: list[Pair]
    landing_s: list[float | None]
    arrival: Arrival | None


@dataclass(frozen=True, slots=True)
class Death:
    """A SIGKILL.

    Attributes:
        finished: steps that were over by then.
        lost: rows of those that never arrived, of the groups that the loop records.
        wrong: see `Arrival`.
        status: of the run, when nothing of the training was left.
        over_s: how long after the SIGKILL nothing was.
    """

    finished: int
    lost: int
    wrong: int
    status: str
    over_s: float


@dataclass(frozen=True, slots=True)
class Absence:
    """A training under which the server was away for a while.

    Attributes:
        longest_s: the longest step.
        finished: steps that were made.
        lost: rows of those that were not there after the end, of the groups that the loop records.
        error: what the training died of; empty where it came to its end.
        status: of the run after it.
    """

    longest_s: float
    finished: int
    lost: int
    error: str
    status: str


@dataclass(slots=True)
class Result:
    """Of one loop and one store.

    Attributes:
        name: of the loop.
        store: ``sqlite`` or ``http``.
    """

    name: str
    store: str
    cost: Cost | None = None
    death: Death | None = None
    absence: Absence | None = None
    failed: str = ""
    """Why it could not be measured."""
