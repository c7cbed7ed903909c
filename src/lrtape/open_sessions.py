"""The sessions that are open in this process: who records an optimizer, so that no step is recorded twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from lrtape.session import Session


@dataclass(frozen=True, slots=True)
class Attached:
    """A session that `lrtape.attach` has made, and what it was asked for.

    Attributes:
        session: the session.
        keeps: whether it records into a run, here or on rank 0, and does not only print.
        asked: the other arguments.
    """

    session: Session
    keeps: bool
    asked: Mapping[str, Any]


class OpenSessions:
    """Those of `lrtape.attach` and those of `lrtape.autolog`. Forgets what is over."""

    def __init__(self) -> None:
        self._attached: list[Attached] = []
        self._autologged: list[Session] = []

    def attach(self, attached: Attached) -> None:
        """Note a session of `lrtape.attach`."""
        self._attached = [*self._attached_now(), attached]

    def autolog(self, session: Session) -> None:
        """Note a session of `lrtape.autolog`."""
        self._autologged = [*(other for other in self._autologged if not other.is_over), session]

    def attached(self, optimizer: Optimizer) -> list[Attached]:
        """The sessions of `lrtape.attach` that record this optimizer; asked in every step that autolog sees."""
        if not self._attached:
            return []
        return [attached for attached in self._attached_now() if attached.session.is_recording(optimizer)]

    def autologged(self, optimizer: Optimizer) -> list[Session]:
        """The sessions of `lrtape.autolog` that record this optimizer."""
        return [session for session in self._autologged if not session.is_over and session.is_recording(optimizer)]

    def _attached_now(self) -> list[Attached]:
        if any(attached.session.is_over for attached in self._attached):
            self._attached = [attached for attached in self._attached if not attached.session.is_over]
        return self._attached


OPEN_SESSIONS = OpenSessions()
"""Of this process."""
