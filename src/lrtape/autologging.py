"""`autolog`: every optimizer of the process, with one line.

Not ``autolog.py``: a module of that name would hide the function, for whoever imports the module first.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtape.beside import EVERY_N_STEPS, Beside
from lrtape.errors import ConfigError
from lrtape.session import (
    ACTIVE_RUN,
    CLOSE_TIMEOUT_S,
    FOLDER,
    Session,
    check_fsync,
    check_interval,
    default_name,
    open_session,
)

_autolog: "_Autolog | None" = None


def autolog(
    *,
    disable: bool = False,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    keep_spool: bool = False,
    fsync_every_s: float | None = None,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
    also: Iterable[str] = (),
    also_every_n_steps: int = EVERY_N_STEPS,
) -> None:
    """Record every step of every optimizer of this process, whenever it is made, into the active MLflow run.

    Begins with the first step: it joins the run that is active then, or starts one. When another run is active at a
    later step, a new tape begins there; when a nested run has ended, the tape of its parent goes on. While it is on,
    calling it again changes nothing. It installs no signal handler, prints nothing unless asked to, and changes no
    environment variable. If it cannot start at the first step, because the tracking store does not answer say, it warns
    and switches itself off.

    Param groups are named as by `attach`; where two would share a metric, the later one is numbered.

    Args:
        disable: stop, wait until everything is stored, and forget everything.
        print_every_n_steps: see `attach`.
        folder: see `attach`.
        keep_spool: see `attach`.
        fsync_every_s: see `attach`.
        close_timeout_s: see `attach`.
        also: see `attach`.
        also_every_n_steps: see `attach`.

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
    check_fsync(fsync_every_s)
    beside = Beside.of(also, also_every_n_steps)
    if _autolog is not None:
        if _autolog.is_on:
            return
        _autolog.close()

    from lrtape.tracking.mlflow_run import active_run  # late: mlflow takes a second to import

    def open_new() -> Session:
        return open_session(
            *(ACTIVE_RUN, print_every_n_steps, folder, keep_spool, fsync_every_s, close_timeout_s),
            shows_progress=False,
            beside=beside,
        )

    _autolog = _Autolog(active_run, open_new)


class _Autolog:
    """Watches every optimizer of the process, for the thread that makes the first step.

    Args:
        active_run: the id of the active run and of its parent; cheap, for it is called in every step.
        open_new: opens a session on the active run, or on a new one.
    """

    def __init__(
        self, active_run: Callable[[], tuple[str | None, str | None]], open_new: Callable[[], Session]
    ) -> None:
        self._active_run = active_run
        self._open_new = open_new
        self._open: list[_Recording] = []
        """The innermost last: those before it wait for a nested run to end."""
        self._thread = threading.get_ident()
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self._pid = os.getpid()
        self.is_on = True

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        """Runs ahead of the optimizer's own pre-hooks, so that a recorder made here sees this very step."""
        if not self.is_on or os.getpid() != self._pid:
            return  # In a forked child all of this is its parent's.
        try:
            # MLflow's active run is a matter of each thread; a thread that only helps has none.
            if not self._open or threading.get_ident() == self._thread:
                self._follow_active_run()
            self._open[-1].see(optimizer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.is_on = False  # The hook itself stays: torch is just going through all of them.
            _warn(f"lrtape cannot record, and autolog is off: {error}")

    def _follow_active_run(self) -> None:
        run_id, parent_id = self._active_run()
        if self._open and run_id == self._open[-1].run_id:
            return
        while self._open and self._open[-1].run_id not in {run_id, parent_id}:
            self._open.pop().end()
        if self._open and self._open[-1].run_id == run_id:
            self._open[-1].session.resume()  # A nested run is over.
            return
        if self._open:
            self._open[-1].session.pause()
        session = self._open_new()
        self._thread = threading.get_ident()
        self._open.append(_Recording(session, session.run.run_id))

    def close(self) -> None:
        self._hook.remove()
        for recording in reversed(self._open):
            recording.session.close()


class _Recording:
    """One session, and the optimizers that it has."""

    def __init__(self, session: Session, run_id: str) -> None:
        self.session = session
        self.run_id = run_id
        # By identity, and held, so that no other optimizer can have the same id.
        self._seen: dict[int, Optimizer] = {}

    def see(self, optimizer: Optimizer) -> None:
        """Record this optimizer, unless it is recorded already or cannot be."""
        if id(optimizer) in self._seen:
            return
        self._seen[id(optimizer)] = optimizer
        try:
            self.session.add(optimizer, default_name(optimizer, len(self._seen) - 1), numbered=True)
        except ConfigError as error:
            _warn(f"lrtape does not record {type(optimizer).__name__}: {error}")

    def end(self) -> None:
        """Somebody has ended the run; the next step shall not wait until the last rows of it are stored."""
        self.session.stop()
        threading.Thread(target=self.session.close, name="lrtape-close").start()


def _warn(text: str) -> None:
    """Warn; not even where warnings are errors may a step fail."""
    with contextlib.suppress(UserWarning):
        warnings.warn(text, stacklevel=3)
