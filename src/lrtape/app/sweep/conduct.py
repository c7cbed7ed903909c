"""A sweep from its begin to its end, whoever decides what is trained."""

import sys
from typing import Protocol

from lrtape.app.interrupts import Detached
from lrtape.app.sweep.parent import Parent
from lrtape.app.sweep.reporting import companion_of, farewell, report_of
from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.errors import SweepFailedError


class Trainings(Protocol):
    """Of a sweep: those of a grid, or of a search."""

    def run(self) -> None:
        """Train what is not trained yet."""

    def wind_up(self) -> object:
        """See that nobody is RUNNING any more whose process is dead."""

    def summary(self) -> tuple[str, str]:
        """What came of the trials, and a sentence on what has failed, which is empty if nothing has."""


def conduct(trainings: Trainings, parent: Parent, on_interrupt: str) -> None:
    """Train, report, and say how it ended; Ctrl-C, too, leaves nobody RUNNING.

    Args:
        trainings: of the sweep.
        parent: its run.
        on_interrupt: what becomes of jobs in a queue then.

    Raises:
        TrackingError: the store does not answer.
        SweepFailedError: a trial has failed.
        Detached: by a signal; jobs in a queue go on.
        Interrupted: by a signal; nobody trains any more.
    """
    try:
        with companion_of(parent):
            trainings.run()
    except Detached:
        raise
    except KeyboardInterrupt as interruption:
        Backlog(parent.sweep_folder).interrupted(interruption, on_interrupt)
        trainings.wind_up()
        print(farewell(parent), file=sys.stderr, flush=True)  # noqa: T201 - a command
        raise
    trainings.wind_up()
    text, failed = trainings.summary()
    print(f"\n{report_of(parent) or text}\n{parent.how_to_look()}", flush=True)  # noqa: T201 - a command
    if failed:
        raise SweepFailedError(failed)
