"""The report of a sweep, as its driver sees to it: beside it while it goes on, and the last one."""

import os
import warnings

from lrtape.app.program import typed_command
from lrtape.app.sweep.parent import Parent
from lrtape.report.companion import ReportCompanion
from lrtape.report.sweep_report import Reporter
from lrtape.tracking.uri import mask_credentials


def companion_of(parent: Parent) -> ReportCompanion:
    """Refreshes the report of a sweep as long as it goes on; a context manager."""
    return ReportCompanion(parent.run_id, parent.tracking_uri, parent.folder, parent.sweep_folder)


def farewell(parent: Parent) -> str:
    """The report of a sweep that a signal has ended, and how to go on with it."""
    return f"\n{report_of(parent)}\nTo go on:   {typed_command()}"


def report_of(parent: Parent) -> str:
    """Put the report on the page of the sweep's run; returns the leaderboard for a terminal.

    A failure is warned about, and costs the sweep nothing: the text is empty then.
    """
    # MLflow draws a progress bar for each file that is downloaded.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        reporter = Reporter(parent.run_id, parent.tracking_uri, parent.folder)
        return reporter.report(is_over=True).text()
    except Exception as error:  # noqa: BLE001 - the sweep is what counts; `lrtape report` makes it later
        warnings.warn(
            f"lrtape could not report the sweep: {mask_credentials(str(error))}\n"
            f"`lrtape report {parent.run_id}` tries again.",
            stacklevel=2,
        )
        return ""
