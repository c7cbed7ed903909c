"""`autolog`: every optimizer of the process, with one line.

Not ``autolog.py``: a module of that name would hide the function, for whoever imports the module first.
"""

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtape.agreement import COMPARE_EVERY_N_STEPS
from lrtape.beside import EVERY_N_STEPS, Beside
from lrtape.destination import check_compared, check_interval
from lrtape.errors import ConfigError
from lrtape.forks import call_in_forked_children
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.keys import optimizer_name
from lrtape.lines import warn
from lrtape.open_sessions import OPEN_SESSIONS
from lrtape.ranks import these_ranks
from lrtape.recording_options import EVERY_STEP, FOLDER, RecordingOptions
from lrtape.session import CLOSE_TIMEOUT_S, Session, open_session
from lrtape.step_hooks import DYNAMO, keep_compiler_out, watch_grad_scalers
from lrtape.tapes_of_thread import TapesOfThread

if TYPE_CHECKING:
    from lrtape.destination import RunOrId
    from lrtape.recorder import Recorder
    from lrtape.tracking.mlflow_run import ActiveRun

_STEP = Optimizer.profile_hook_step(lambda: None).__code__
"""Calls the hooks and the step of every optimizer."""

_autolog: "_Autolog | None" = None


def autolog(
    *,
    disable: bool = False,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    keep_spool: bool = False,
    fsync_every_s: float | None = None,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
    record: str = EVERY_STEP,
    lr_log10: bool = False,
    also: Iterable[str] = (),
    also_every_n_steps: int = EVERY_N_STEPS,
    compare_ranks_every_n_steps: int | None = COMPARE_EVERY_N_STEPS,
) -> None:
    """Record every step of every optimizer of this process, whenever it is made, into the active MLflow run.

    Begins with the first step, in the run that is active then. When another run is active at a later step, a new tape
    begins there; when nested runs have ended, the tape of the run around them goes on. All steps outside of any run go
    into one that is made for them, and that MLflow does not take for active: whatever the script does with
    ``mlflow.start_run()`` goes on as before. A thread without an active run counts as being in the runs of the thread
    that has called `autolog`.

    A process that is to send what will be recorded is started at once, and imports MLflow: some 230 MB. It ends when it
    has had nothing to do for a minute, or with this process.

    While it is on, calling it again changes nothing. It installs no signal handler, prints nothing unless asked to,
    and changes no environment variable. If it cannot start at the first step, because the tracking store does not
    answer say, it warns and switches itself off.

    Param groups are named as by `attach`; where two would share a metric, the later one is numbered. Left out are an
    optimizer that a session of `attach` records, as long as it does; and one that steps within the step of another one
    which has all its parameters: that is one step. No optimizer is kept alive.

    Args:
        disable: stop, wait until everything is stored, and forget everything.
        print_every_n_steps: see `attach`.
        folder: see `attach`.
        keep_spool: see `attach`.
        fsync_every_s: see `attach`.
        close_timeout_s: see `attach`.
        record: see `attach`.
        lr_log10: see `attach`.
        also: see `attach`.
        also_every_n_steps: see `attach`.
        compare_ranks_every_n_steps: see `attach`. Where another run becomes active on rank 0, the ranks are compared no
            longer, for the others do not know that.

    Raises:
        ConfigError: an argument is wrong.
    """
    global _autolog
    if disable:
        if _autolog is not None:
            _autolog.close()
        _autolog = None
        return
    check_interval(print_every_n_steps)
    options = RecordingOptions(folder, keep_spool, fsync_every_s, record, lr_log10)
    beside = Beside.of(also, also_every_n_steps)
    check_compared(compare_ranks_every_n_steps)
    if _autolog is not None:
        if _autolog.is_on:
            return
        _autolog.close()

    def open_on(run: "RunOrId") -> Session:
        session = open_session(
            *(run, print_every_n_steps, options, close_timeout_s),
            shows_progress=False,
            beside=beside,
            compare_ranks_every_n_steps=compare_ranks_every_n_steps,
        )
        OPEN_SESSIONS.autolog(session)
        return session

    if not these_ranks().records:  # Another one does: no run is looked for here, and mlflow not imported.
        _autolog = _Autolog(lambda _: (), lambda: None, open_on)
        return
    IDLE_COMPANIONS.expect()

    from lrtape.tracking.active_runs import (  # late: mlflow takes a second to import
        active_runs,
        innermost_run,
        start_aside,
        unseen,
    )

    def open_unseen(run: "ActiveRun | None") -> Session:
        if not these_ranks().records:  # There was no process group yet when autolog() was called.
            return open_on(None)
        with unseen():
            return open_on(start_aside() if run is None else run.info.run_id)

    _autolog = _Autolog(active_runs, innermost_run, open_unseen)


class _Autolog:
    """Watches every optimizer of the process, in every thread.

    Args:
        active_runs: the active runs of a thread, the innermost last.
        innermost_run: the innermost one of this thread; cheap, for it is called in every step.
        open_on: opens a session on a run, or on a new one.
    """

    def __init__(
        self,
        active_runs: "Callable[[int], Sequence[ActiveRun]]",
        innermost_run: "Callable[[], ActiveRun | None]",
        open_on: "Callable[[ActiveRun | None], Session]",
    ) -> None:
        self._active_runs = active_runs
        self._innermost_run = innermost_run
        self._open_on = open_on
        self._home = threading.get_ident()
        self._tapes = {self._home: TapesOfThread(open_on)}
        self._left_out: dict[int, weakref.ref[Optimizer]] = {}
        """By id; look whether it is still the same one."""
        self._changing = threading.Lock()
        self._known: dict[int, tuple[Recorder, ActiveRun | None, int]] = {}
        """By the id of an optimizer: what records it in this run, which is the innermost one of this thread."""
        watch_grad_scalers()
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self.is_on = True
        call_in_forked_children(self.switch_off)

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        """Runs ahead of the optimizer's own pre-hooks, so that a recorder made here sees this very step."""
        known = self._known.get(id(optimizer))
        if known is not None:  # In nearly every step nothing has changed: this is all that it costs then.
            recorder, run, thread = known
            is_mine = recorder.is_on and thread == threading.get_ident() and recorder.optimizer is optimizer
            if is_mine and self._innermost_run() is run:
                return
        self._follow(optimizer)

    def _follow(self, optimizer: Optimizer) -> None:
        """See that the step is recorded where it belongs."""
        if DYNAMO in sys.modules:
            keep_compiler_out()
        if not self.is_on:
            return
        try:
            thread = threading.get_ident()
            runs = self._active_runs(thread)
            if not runs and thread != self._home:
                if thread in self._tapes:  # It had a run of its own.
                    self._tapes.pop(thread).end()
                thread = self._home
                runs = self._active_runs(thread)
            tapes = self._tapes.get(thread)
            if tapes is not None and (recorder := tapes.recorder_of(optimizer, runs)) is not None:
                if thread == threading.get_ident():
                    self._known[id(optimizer)] = recorder, runs[-1] if runs else None, thread
                return
            self._known.clear()  # It shall keep nothing of what is over.
            if not self._is_left_out(optimizer):
                with self._changing:
                    self._record(optimizer, runs, thread)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.switch_off()  # The hook itself stays: torch is just going through all of them.
            for tapes in self._tapes.values():  # or the steps of this run would go into the one around it
                tapes.end_all()
            warn(f"lrtape cannot record, and autolog is off: {error}")

    def _is_left_out(self, optimizer: Optimizer) -> bool:
        known = self._left_out.get(id(optimizer))
        if known is not None and known() is optimizer:
            return True
        if any(attached.keeps for attached in OPEN_SESSIONS.attached(optimizer)):
            return True
        if _is_within_step_of_another(optimizer):
            self._leave_out(optimizer)
            return True
        return False

    def _leave_out(self, optimizer: Optimizer) -> None:
        key = id(optimizer)
        self._left_out[key] = weakref.ref(optimizer, lambda _: self._left_out.pop(key, None))

    def _record(self, optimizer: Optimizer, runs: "Sequence[ActiveRun]", thread: int) -> None:
        session = self._tapes.setdefault(thread, TapesOfThread(self._open_on)).follow(runs)
        for other in OPEN_SESSIONS.autologged(optimizer):
            if other is not session:
                other.leave_out(optimizer)  # It has stepped in another run, or thread, before.
        if session.is_recording(optimizer):
            return
        try:
            session.add(optimizer, optimizer_name(optimizer, session.n_optimizers), numbered=True)
        except ConfigError as error:
            self._leave_out(optimizer)
            warn(f"lrtape does not record {type(optimizer).__name__}: {error}")

    def switch_off(self) -> None:
        """Follow no more; of a forked child, where all of this is its parent's, that is all."""
        self.is_on = False
        self._known.clear()

    def close(self) -> None:
        self._hook.remove()
        for tapes in self._tapes.values():
            tapes.close()


def _is_within_step_of_another(optimizer: Optimizer) -> bool:
    """Whether this is a part of a step that is recorded already: of an optimizer that has all parameters of this one.

    Asked when an optimizer is new to a tape, and not in every step: it goes through all frames of this thread.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # Of no other frame: Python 3.11 keeps what it tells of one for as long as that runs.
        if frame.f_code is _STEP:
            outer = frame.f_locals["self"]
            if outer is not optimizer and _is_recorded(outer):
                return _parameters(optimizer) <= _parameters(outer)
        frame = frame.f_back
    return False


def _is_recorded(optimizer: Optimizer) -> bool:
    return bool(OPEN_SESSIONS.autologged(optimizer) or OPEN_SESSIONS.attached(optimizer))


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
