"""The last report of a sweep, which its driver makes."""

import os
import warnings

from lrtape.app.sweep.parent import Parent
from lrtape.report.sweep_report import Reporter
from lrtape.tracking.uri import mask_credentials


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
