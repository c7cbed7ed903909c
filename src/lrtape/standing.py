"""One point of a sweep: what came of all its seeds."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from lrtape.tape import Status
from lrtape.trials import RUNNING, TrialRun

WAITING = "waiting"
"""Not every seed is begun."""
PRUNED = "pruned"
"""A search has ended it before its last epoch."""
REFUSED = "refused"
"""It will not be trained."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One point of a sweep, the same swept values, with all its seeds.

    Attributes:
        name: for people: ``gamma=0.1 step_size=2``.
        values: the text of each swept value, by key.
        runs: the run that counts of each seed that was begun, in the order of the seeds; where the point equals another
            one, that one's.
        n_trials: how many seeds it is to have.
        rank: from 1; the same for the same mean; 0 where nothing of it is finished.
        same_as: the name of the point that has the same learning rates, and the same config beside; empty for none.
        refusal: why it is not trained; empty where it is.
        warning: what the findings say of its schedule before it is trained.
    """

    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[TrialRun, ...] = ()
    n_trials: int = 0
    rank: int = 0
    same_as: str = ""
    refusal: str = ""
    warning: str = ""

    @property
    def finished(self) -> list[TrialRun]:
        """The runs that can be compared."""
        return [run for run in self.runs if run.is_finished]

    @property
    def scores(self) -> list[float]:
        """The objective of each seed that is finished."""
        return [run.objective for run in self.finished if run.objective is not None]

    @property
    def n(self) -> int:
        """Seeds that are finished."""
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        """Of the seeds; ``None`` where none is finished."""
        return statistics.mean(self.scores) if self.n else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over the seeds; ``None`` for fewer than two."""
        return statistics.stdev(self.scores) if self.n > 1 else None

    @property
    def failures(self) -> list[TrialRun]:
        """The runs that have ended without a result, although nobody has decided that."""
        return [run for run in self.runs if not run.is_finished and not run.is_pruned and run.status != RUNNING]

    @property
    def status(self) -> str:
        """What is to be said first of all its seeds."""
        if self.refusal:
            return REFUSED
        statuses = {run.status for run in self.failures}
        if statuses:
            # FINISHED without an objective has failed, too.
            return Status.KILLED if statuses == {Status.KILLED} else Status.FAILED
        if any(run.status == RUNNING for run in self.runs):
            return RUNNING
        if any(run.is_pruned for run in self.runs):
            return PRUNED
        return Status.FINISHED if self.n >= max(self.n_trials, 1) else WAITING

    @property
    def error(self) -> str:
        """Why there is no result, or not of every seed; empty where there is, or nobody knows."""
        texts = [run.pruned if run.is_pruned else run.error for run in self.runs if not run.is_finished]
        return self.refusal or next(filter(None, texts), "")

    @property
    def verdict(self) -> str:
        """What lrtape thinks of the learning rates: the first seed of which that is not ``ok``."""
        verdicts = [run.verdict for run in self.runs if run.verdict]
        return next((text for text in verdicts if text != "ok"), verdicts[0] if verdicts else self.warning)
