"""Refreshes the report of a sweep while it goes on."""

import contextlib
import time

from lrtape.errors import TrackingError
from lrtape.report.parent_process import ParentProcess
from lrtape.report.sweep_report import Report, Reporter
from lrtape.trials import RUNNING

PAUSE_S = 10.0
"""Between two looks at the store, at least."""
_PAUSE_PER_WORK = 10
"""A report that takes a second is followed by so many seconds of pause: watching shall cost next to nothing."""


def watch(reporter: Reporter, driver: ParentProcess) -> Report | None:
    """Report whenever a training has ended, until the sweep is over, and then once more.

    A store that does not answer is asked again later.

    Args:
        reporter: of the sweep.
        driver: without which nothing will change any more.

    Returns:
        The last report; ``None`` where the driver died before the sweep was over.
    """
    seen: object = None
    while True:
        began_s = time.monotonic()
        with contextlib.suppress(TrackingError):
            look = reporter.look()
            if look.sweep.status != RUNNING:
                return reporter.report(look)
            if look.ended != seen:
                reporter.report(look)
                seen = look.ended
        worked_s = time.monotonic() - began_s
        if driver.is_dead(max(PAUSE_S, _PAUSE_PER_WORK * worked_s)):
            return None
