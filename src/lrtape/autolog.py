"""`autolog`: every optimizer of the process, with one line."""

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.session import ACTIVE_RUN, CLOSE_TIMEOUT_S, FOLDER, Session, check_interval, default_name, open_session

_autolog: "_Autolog | None" = None


def autolog(
    *,
    disable: bool = False,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
) -> None:
    """Record every step of every optimizer of this process, whenever it is made, into the active MLflow run.

    Begins with the first step: it joins the run that is active then, or starts one. When another run is active at a
    later step, a new tape begins there. While it is on, calling it again changes nothing. It installs no signal
    handler, prints nothing unless asked to, and changes no environment variable. If it cannot start at the first step,
    because the tracking store does not answer say, it warns and switches itself off.

    Param groups are named as by `attach`; where two would share a metric, the later one is numbered.

    Args:
        disable: stop, wait until everything is stored, and forget everything.
        print_every_n_steps: see `attach`.
        folder: see `attach`.
        close_timeout_s: see `attach`.

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
    if _autolog is not None and _autolog.is_on:
        return

    from lrtape.tracking.mlflow_run import active_run_id  # late: mlflow takes a second to import

    def open_new() -> Session:
        return open_session(ACTIVE_RUN, print_every_n_steps, folder, close_timeout_s)

    _autolog = _Autolog(active_run_id, open_new)


class _Autolog:
    """Watches every optimizer of the process. Belongs to the training thread.

    Args:
        active_run_id: cheap, for it is called in every step.
        open_new: opens a session on the active run, or on a new one.
    """

    def __init__(self, active_run_id: Callable[[], str | None], open_new: Callable[[], Session]) -> None:
        self._active_run_id = active_run_id
        self._open_new = open_new
        self._session: Session | None = None
        self._run_id: str | None = None
        self._keys = Keys()
        # By identity; a recorder holds its optimizer, so that no other one can have its id.
        self._recorders: dict[int, Recorder] = {}
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self.is_on = True

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        """Runs ahead of the optimizer's own pre-hooks, so that a recorder made here sees this very step."""
        try:
            if self._session is None or self._run_id != self._active_run_id():
                self._session = self._begin_session()
            if id(optimizer) not in self._recorders:
                index = len(self._recorders)
                recorder = Recorder(optimizer, index, self._keys, default_name(optimizer, index), numbered=True)
                self._session.add(recorder)
                self._recorders[id(optimizer)] = recorder
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._hook.remove()
            self.is_on = False
            warnings.warn(f"lrtape cannot record, and autolog is off: {error}", stacklevel=2)

    def _begin_session(self) -> Session:
        if self._session is not None:
            self._session.stop()
            # Somebody has ended the old run; the next step shall not wait until the last rows of it are stored.
            threading.Thread(target=self._session.close, name="lrtape-close").start()
        self._keys, self._recorders = Keys(), {}
        session = self._open_new()
        self._run_id = self._active_run_id()
        return session

    def close(self) -> None:
        self._hook.remove()
        if self._session is not None:
            self._session.close()
