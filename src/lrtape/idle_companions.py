"""The companions of this process that have nothing to do now."""

import atexit
import contextlib
import multiprocessing
import os
import threading

from lrtape.companion_process import CompanionProcess


class IdleCompanions:
    """The companions of this process that have nothing to do: one is started before there is a recording, and they are
    kept for the next one. A companion ends by itself when it has been idle for `IDLE_S`.

    Used by all threads. A forked child has none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[CompanionProcess] = []
        self._is_registered = False

    def expect(self) -> None:
        """See that there is one: a recording is about to begin. Takes a millisecond. Does not raise.

        Not in a child of `multiprocessing`, which seldom trains, and imports what its parent has imported.
        """
        if multiprocessing.parent_process() is not None:
            return
        with self._lock, contextlib.suppress(OSError):
            self._idle = [companion for companion in self._idle if companion.exit_code is None]
            if not self._idle:
                self._keep(CompanionProcess())

    def take(self, tracking_uri: str) -> CompanionProcess:
        """One that is idle and fit for a recording into this store, or else a new one.

        Raises:
            OSError: none can be started.
        """
        with self._lock:
            while self._idle:
                companion = self._idle.pop()
                if companion.can_take(tracking_uri):
                    return companion
                companion.kill()
            return CompanionProcess()

    def give_back(self, companion: CompanionProcess, tracking_uri: str) -> None:
        """Keep one that has answered, after a recording into this store."""
        companion.rest(tracking_uri)
        with self._lock:
            self._keep(companion)

    def reset(self) -> None:
        """End them."""
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def _keep(self, companion: CompanionProcess) -> None:
        if not self._is_registered:
            self._is_registered = True
            os.register_at_fork(after_in_child=self._forget)
            atexit.register(self._let_go)
        self._idle.append(companion)

    def _let_go(self) -> None:
        """They end by themselves, as soon as they hear no more: one of them may have a run to end."""
        with self._lock:
            while self._idle:
                self._idle.pop().forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._let_go()


IDLE_COMPANIONS = IdleCompanions()
