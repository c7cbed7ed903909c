"""The tapes of one thread under autolog: one for each of its active runs in which a step was made."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from lrtape.session import Session

if TYPE_CHECKING:
    from lrtape.recorder import Recorder
    from lrtape.tracking.mlflow_run import ActiveRun


class TapesOfThread:
    """The open sessions of a thread, as deep as its runs are nested, and one more for steps outside of any run.

    A session is ended when its run is found to be over: at the next step that is not within it.

    Args:
        open_on: opens a session on a run, or on a new one that is made for it.
    """

    def __init__(self, open_on: "Callable[[ActiveRun | None], Session]") -> None:
        self._open_on = open_on
        self._outside: Session | None = None
        self._open: list[Session] = []
        """The innermost last."""
        self._current: Session | None = None
        self._ending: list[threading.Thread] = []
        self._innermost: ActiveRun | None = None

    def recorder_of(self, optimizer: Optimizer, runs: "Sequence[ActiveRun]") -> "Recorder | None":
        """What records a step of this optimizer where it belongs, if nothing has changed."""
        # The runs around the innermost one cannot change as long as it is the same object.
        if self._current is None or self._innermost is not (runs[-1] if runs else None):
            return None
        return self._current.recorder_of(optimizer)

    def follow(self, runs: "Sequence[ActiveRun]") -> Session:
        """The session that a step is to be recorded by.

        Args:
            runs: that are active now, the innermost last.
        """
        innermost = runs[-1] if runs else None
        if self._current is None or self._innermost is not innermost:
            self._current = self._follow(innermost, [run.info.run_id for run in runs])
            self._innermost = innermost
        return self._current

    def _follow(self, innermost: "ActiveRun | None", run_ids: list[str]) -> Session:
        while self._open and self._open[-1].own_run_id not in run_ids:
            self._end(self._open.pop())
        if innermost is None:
            self._outside = self._outside or self._open_on(None)
            return self._outside
        for session in (*self._open[-1:], self._outside):
            if session is not None and session.own_run_id == run_ids[-1]:
                return session
        self._open.append(self._open_on(innermost))
        return self._open[-1]

    def end(self) -> None:
        """End every session, without waiting until what it has recorded is stored."""
        while self._open:
            self._end(self._open.pop())

    def end_all(self) -> None:
        """Like `end`, with the one for steps outside of any run."""
        self.end()
        if self._outside is not None:
            self._end(self._outside)
        self._outside = self._current = self._innermost = None

    def close(self) -> None:
        """Close every session, and wait for those that were ended before."""
        for session in (*reversed(self._open), self._outside):
            if session is not None:
                session.close()
        for thread in self._ending:
            thread.join()

    def _end(self, session: Session) -> None:
        """Somebody has ended the run; the next step shall not wait until the last rows of it are stored."""
        session.stop()
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        self._ending.append(threading.Thread(target=session.close, name="lrtape-close"))
        self._ending[-1].start()
