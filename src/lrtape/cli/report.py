"""``lrtape report``."""

import os
from pathlib import Path

from lrtape.report.parent_process import ParentProcess

FIRST_LOOK_S = 5.0
"""A sweep's own companion reports nothing before."""
_NICENESS = 10


def report(
    name: str, tracking_uri: str | None, experiment: str | None, folder: Path, is_watched: bool, driver_pid: int | None
) -> int:
    """Make the report of a sweep, put it on the page of its run, and print the leaderboard.

    Args:
        name: the id of its run, or its own, or its title.
        tracking_uri: by default ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the current folder.
        experiment: to look in; by default all.
        folder: where spools are; the files go below it.
        is_watched: whether to make it again whenever a training has ended, until the sweep is over.
        driver_pid: the process that drives the sweep and has started this one, to end with it; ``None`` for a person.

    Raises:
        ConfigError: there is no such sweep, or there are several; or the URI is wrong.
        TrackingError: the store does not answer.
    """
    driver = ParentProcess(driver_pid)
    if driver_pid is not None:
        os.nice(_NICENESS)
        if driver.is_dead(FIRST_LOOK_S):
            return 0
    # Late: mlflow takes a second to import.
    from lrtape.cli.stored import resolve_store
    from lrtape.report.sweep_report import Reporter
    from lrtape.report.watch import watch

    reporter = Reporter(name, resolve_store(tracking_uri), folder, experiment)
    made = watch(reporter, driver) if is_watched else reporter.report()
    if made is not None:
        print(made.text())
        print(f"\nFiles: {made.folder}")
    return 0
