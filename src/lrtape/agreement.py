"""Whether all ranks of a training use the same learning rates: rank 0 records, and the others compare.

Every so many steps rank 0 leaves its lrs as a note for the others. When they come there themselves, they read it, and
the first difference that one of them sees is a note for rank 0, which makes a `Finding` of it. So a comparison costs
each rank one or two requests to the store of the process group, however many ranks there are, and nobody waits.
"""

import contextlib
import itertools
import math
import time
from collections import deque
from typing import Protocol

import msgspec

from lrtape.lines import warn
from lrtape.outbox import Outbox
from lrtape.ranks import Board
from lrtape.spool import Frame
from lrtape.tape import Finding, Group, GroupLayout, Record, Status

RANKS_DIFFER = "ranks-differ"
COMPARE_EVERY_N_STEPS = 100
KEPT_STEPS = 4
"""How many steps that are compared a rank remembers: by as many intervals may another one lag behind."""
SETTLE_S = 5.0
"""How long one rank waits at its end for the others, to compare the last step too."""
POLL_S = 0.01

TOPIC = "agreement"
_RUN, _LRS, _END, _DIFFERENCE, _N_JOINED, _N_DONE = "run", "lrs", "end", "difference", "joined", "done"

_session_numbers = itertools.count(1)
"""Of the sessions of rank 0, so that a note of one is not taken for one of the next."""
_numbers_met: set[int] = set()
"""Which of them a session of this rank has been compared with: each with one."""

Row = tuple[str, int, float]
"""A key, a step, and the lr that the step used."""


class _Difference(msgspec.Struct):
    rank: int
    key: str
    step: int
    lr: float
    lr_of_rank_0: float


class _Used(msgspec.Struct):
    """What rank 0 has used in its session of this number."""

    session: int
    rows: list[Row]


class Agreement(Protocol):
    """What a session asks about the other ranks."""

    @property
    def run_id(self) -> str:
        """Of the run that rank 0 has opened; empty while that is not known here. One request; does not wait."""

    def settle(self, status: Status) -> None:
        """The session is about to end: compare the last step. Waits for the others, at most `SETTLE_S`."""


class NoAgreement:
    """Of a process that trains alone."""

    run_id = ""

    def settle(self, status: Status) -> None:
        """There is nobody to ask."""


class _Steps:
    """The lrs of the last steps that are compared, and of the last step at all, of every optimizer."""

    def __init__(self, every_n_steps: int | None) -> None:
        self._every_n_steps = every_n_steps
        self._groups: dict[int, tuple[Group, ...]] = {}
        self._last: dict[int, Record] = {}
        self._kept: dict[int, deque[Record]] = {}

    def see(self, frame: Frame) -> bool:
        """Look at what is recorded; says whether it is a step that is to be compared."""
        if isinstance(frame, Record):
            self._last[frame.optimizer_index] = frame
            if self._every_n_steps is None or frame.step % self._every_n_steps:
                return False
            self._kept.setdefault(frame.optimizer_index, deque(maxlen=KEPT_STEPS)).append(frame)
            return True
        if isinstance(frame, GroupLayout):
            self._groups[frame.optimizer_index] = frame.groups
            # What was kept is of the groups of then.
            self._kept.pop(frame.optimizer_index, None)
            self._last.pop(frame.optimizer_index, None)
        return False

    def rows(self, with_last: bool = False) -> list[Row]:
        records = [record for kept in self._kept.values() for record in kept]
        if with_last:
            records += [record for record in self._last.values() if record not in records]
        return [
            (group.key, record.step, lr)
            for record in records
            for group, lr in zip(self._groups.get(record.optimizer_index, ()), record.lrs, strict=False)
        ]


class _Ranks:
    """What both kinds of rank have: a board, and the will to do without it.

    Args:
        outbox: where everything goes.
        every_n_steps: how often the ranks are compared; ``None`` for never.
    """

    def __init__(self, outbox: Outbox, every_n_steps: int | None) -> None:
        self._board: Board | None = None
        self._is_on = every_n_steps is not None
        self._steps = _Steps(every_n_steps)
        self._write = outbox.write
        self.tend = outbox.tend
        self.end = outbox.end
        self.wait = outbox.wait

    def _find_board(self) -> Board | None:
        """The board, once there is a process group; it stays where the group is destroyed."""
        if self._board is None and (board := Board.find(TOPIC)) is not None:
            self._board = board
            self._on_board(board)
        return self._board

    def _on_board(self, board: Board) -> None:
        """Called once, when there is a board."""


class LeadingOutbox(_Ranks):
    """Of rank 0, which records: leaves notes of what it uses, and tells what the others have found.

    Adds a look at the step's number to every step, and two requests to every n-th. Fails never: where the store does,
    it warns once and compares no more.

    Args:
        outbox: where everything goes.
        run_id: of the run; the other ranks may ask for it.
        findings: what is found goes here, too.
        every_n_steps: how often the ranks are compared; ``None`` for never.
    """

    def __init__(self, outbox: Outbox, run_id: str, findings: list[Finding], every_n_steps: int | None) -> None:
        super().__init__(outbox, every_n_steps)
        self._id = run_id
        self._session = next(_session_numbers)
        self._findings = findings
        with contextlib.suppress(Exception):  # It is tried again.
            self._find_board()

    @property
    def run_id(self) -> str:
        """See `Agreement.run_id`."""
        return self._id

    def _switch_off(self, error: Exception) -> None:
        self._is_on = False
        why = (str(error).splitlines() or [""])[0]
        warn(
            f"lrtape compares the learning rates of the ranks no longer, as their store fails ({type(error).__name__}: "
            f"{why[:200]}); everything else goes on."
        )

    def _on_board(self, board: Board) -> None:
        if self._id:  # A session that only prints, beside another one, has none to tell.
            board.put(_RUN, self._id.encode())
        self._put(board, _LRS, [])
        self._put(board, _END, [])

    def _put(self, board: Board, key: str, rows: list[Row]) -> None:
        board.put(key, msgspec.msgpack.encode(_Used(self._session, rows)))

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        is_safe = self._write(frame)
        if self._steps.see(frame) and self._is_on:
            try:
                board = self._find_board()
                if board is not None:
                    self._put(board, _LRS, self._steps.rows())
                    self._look_for_difference(board)
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                self._switch_off(error)
        return is_safe

    def settle(self, status: Status) -> None:
        """See `Agreement.settle`. Where the training has failed, nobody is waited for."""
        if not self._is_on:
            return
        try:
            board = self._find_board()
            if board is None:
                return
            self._put(board, _END, self._steps.rows(with_last=True))
            deadline = time.monotonic() + (SETTLE_S if status == Status.FINISHED else 0.0)
            done, joined = f"{_N_DONE}/{self._session}", f"{_N_JOINED}/{self._session}"
            while board.count(done) < board.count(joined) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            self._look_for_difference(board)
        except Exception as error:  # noqa: BLE001 - it is no reason to fail a training
            self._switch_off(error)

    def _look_for_difference(self, board: Board) -> None:
        note = board.read(f"{_DIFFERENCE}/{self._session}")
        if note is None:
            return
        self._is_on = False  # Once is enough.
        found = msgspec.msgpack.decode(note, type=_Difference)
        finding = Finding(
            RANKS_DIFFER,
            f"{found.key} of step {found.step} is {found.lr_of_rank_0!r} on rank 0, which records, and {found.lr!r} on "
            f"rank {found.rank}: the ranks train with different learning rates, and so each has other weights by now. "
            "Give the scheduler the same on every rank: the same arguments, as many calls of step(), and the same "
            "metric, reduced over the ranks.",
            found.key,
            found.step,
            "error",
        )
        self._findings.append(finding)
        self._write(finding)
        warn(finding.message)


class FollowingOutbox(_Ranks):
    """Of every other rank, which records nothing: compares what it uses with the notes of rank 0.

    Args:
        outbox: where everything goes: nowhere, mostly.
        rank: of this process.
        every_n_steps: how often the ranks are compared; ``None`` for never.
    """

    def __init__(self, outbox: Outbox, rank: int, every_n_steps: int | None) -> None:
        super().__init__(outbox, every_n_steps)
        self._rank = rank
        self._session = 0
        """Of rank 0, with which this one is compared; 0 as long as that has not begun."""

    @property
    def run_id(self) -> str:
        """See `Agreement.run_id`."""
        with contextlib.suppress(Exception):  # Then it is not known.
            board = self._find_board()
            note = board.read(_RUN) if board is not None else None
            return (note or b"").decode()
        return ""

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        if self._steps.see(frame) and self._is_on:
            try:
                board = self._find_board()
                if board is not None and (used := self._read(board, _LRS)) is not None:
                    self._compare(board, used, self._steps.rows())
            except Exception:  # noqa: BLE001 - whatever it is, the training goes on; rank 0 says so
                self._is_on = False
        return self._write(frame)

    def settle(self, status: Status) -> None:
        """See `Agreement.settle`."""
        board = self._board
        if not self._is_on or board is None or not self._session:
            return
        try:
            deadline = time.monotonic() + (SETTLE_S if status == Status.FINISHED else 0.0)
            while (used := self._read(board, _END)) is not None:
                if used.rows:
                    self._compare(board, used, self._steps.rows(with_last=True))
                if used.rows or time.monotonic() >= deadline:
                    break
                time.sleep(POLL_S)
            if self._is_on:
                board.count(f"{_N_DONE}/{self._session}", one_more=True)
        except Exception:  # noqa: BLE001 - it is no reason to fail a training
            self._is_on = False

    def _read(self, board: Board, key: str) -> _Used | None:
        """A note of rank 0; ``None`` where its session has not begun, or is over."""
        note = board.read(key)
        if note is None:
            return None
        used = msgspec.msgpack.decode(note, type=_Used)
        if not self._session and used.session not in _numbers_met:
            self._session = used.session
            _numbers_met.add(used.session)
            board.count(f"{_N_JOINED}/{self._session}", one_more=True)
        return used if used.session == self._session else None

    def _compare(self, board: Board, used: _Used, rows: list[Row]) -> None:
        """Compare what both ranks have by now; of a difference, the first step counts."""
        lead = {(key, step): lr for key, step, lr in used.rows}
        for key, step, lr in sorted(rows, key=lambda row: row[1]):
            of_rank_0 = lead.get((key, step), lr)
            if lr != of_rank_0 and not (math.isnan(lr) and math.isnan(of_rank_0)):
                difference = _Difference(self._rank, key, step, lr, of_rank_0)
                board.put(f"{_DIFFERENCE}/{self._session}", msgspec.msgpack.encode(difference))
                self._is_on = False  # Once is enough.
                board.count(f"{_N_DONE}/{self._session}", one_more=True)
                return
