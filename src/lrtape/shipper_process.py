"""The shipping of one recording, as the training process sees it."""

import contextlib
import logging
import os
import time
from collections.abc import Callable

from lrtape.companion_process import LOOK_S, CompanionProcess
from lrtape.companion_words import EXIT_AGAIN, Answer
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.spool import End
from lrtape.spool_folder import SpoolFolder

RESTART_PAUSE_S = 10.0
"""Before the first restart while training; each further pause is twice as long, up to the cap."""
RESTART_PAUSE_CAP_S = 600.0
MAX_RESTARTS_AT_END = 3

_log = logging.getLogger(__name__)


class ShipperProcess:
    """Has a companion ship one spool, and another one when that has crashed or was killed.

    Belongs to the training thread. It does not raise: without a shipper the spool grows, for ``lrtape recover``.

    Args:
        folder: holds the spool.
        tracking_uri: absolute.
        fsync_every_s: how often the spool is forced to the disk; ``None`` leaves that to the operating system.
    """

    def __init__(self, folder: SpoolFolder, tracking_uri: str, fsync_every_s: float | None) -> None:
        self._folder = folder
        self._tracking_uri = tracking_uri
        self._fsync_every_s = fsync_every_s
        self._writer_pid = os.getpid()
        self._end: End | None = None
        self._pause_s = RESTART_PAUSE_S
        self._companion: CompanionProcess | None = None
        self._companion = self._start()

    def tend(self) -> None:
        """See that the shipper is alive: takes a microsecond, and some milliseconds when it is not."""
        if self._has_crashed() and (self._wants_another() or time.monotonic() >= self._started_s + self._pause_s):
            self._pause_s = min(2 * self._pause_s, RESTART_PAUSE_CAP_S)
            self._companion = self._start()

    def end(self, end: End) -> None:
        """Tell the shipper that the spool has ended, so that it need not look, or if the spool itself cannot say so."""
        self._end = end
        if self._companion is not None:
            self._companion.end(end)

    def wait(self, timeout_s: float, show: Callable[[], object] = lambda: None) -> Answer | None:
        """Wait until the shipper is done; call `end` before.

        Args:
            timeout_s: seconds.
            show: called some times a second, for a person who waits.

        Returns:
            What it has said in the end; ``None`` if not everything is stored.
        """
        deadline = time.monotonic() + timeout_s
        n_restarts = 0
        while True:
            if self._companion is not None:
                # It may have been killed after it has answered.
                answer = self._companion.answer(max(0.0, min(LOOK_S, deadline - time.monotonic())))
                if answer is not None:
                    if not answer.is_last:
                        IDLE_COMPANIONS.give_back(self._companion, self._tracking_uri)
                    return answer if answer.is_complete else None
            if time.monotonic() >= deadline:
                return None
            if self._has_crashed():
                if n_restarts == MAX_RESTARTS_AT_END:
                    self._keep_complaints()
                    return None
                n_restarts += not self._wants_another()
                self._companion = self._start()
            show()

    def _has_crashed(self) -> bool:
        if os.getpid() != self._writer_pid:
            return False  # a forked child, whose parent looks after it
        return self._companion is None or self._companion.exit_code is not None

    def _wants_another(self) -> bool:
        return self._companion is not None and self._companion.exit_code == EXIT_AGAIN

    def _start(self) -> CompanionProcess | None:
        self._started_s = time.monotonic()
        self._keep_complaints()
        try:
            companion = IDLE_COMPANIONS.take(self._tracking_uri)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            _log.info("cannot start the shipper of %s: %s", self._folder.path, error)
            return None
        companion.begin(self._folder.path, self._tracking_uri, self._fsync_every_s)
        if self._end is not None:
            companion.end(self._end)
        return companion

    def _keep_complaints(self) -> None:
        """Put what a companion that has crashed had to say into the folder's log."""
        if self._companion is None or not (complaints := self._companion.complaints):
            return
        with contextlib.suppress(OSError), self._folder.log.open("ab") as log:
            log.write(complaints)
