"""`attach` and `print_lrs`: the library put together, for one training loop."""

import atexit
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch.nn import Module
from torch.optim import Optimizer

from lrtape.errors import ConfigError
from lrtape.keys import Keys, group_names, legal_key
from lrtape.lines import LinePrinter, format_lrs
from lrtape.outbox import NoOutbox, Outbox, ShippedOutbox
from lrtape.recorder import FrameWriter, Recorder
from lrtape.spool import End
from lrtape.tape import Finding, Group, Groups, Point, Record

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import MlflowRun

ACTIVE_RUN = "active"
FOLDER = ".lrtape"
CLOSE_TIMEOUT_S = 60.0


class Session:
    """Records one or several optimizers into one run, from its creation to `close`. Made by `attach`.

    A context manager. Belongs to the training thread; nothing in it waits for a disk, a network or a device before
    `close`. A session that nobody closes is closed at the exit of the process.

    Attributes:
        run: the MLflow run, or ``None``.
    """

    def __init__(
        self,
        recorders: Sequence[Recorder],
        outbox: Outbox,
        writer: FrameWriter,
        run: "MlflowRun | None" = None,
        owns_run: bool = False,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self.run = run
        self._recorders: list[Recorder] = []
        self._outbox = outbox
        self._writer = writer
        self._owns_run = owns_run
        self._close_timeout_s = close_timeout_s
        self._legal_keys: dict[str, str] = {}
        self._status: str | None = None
        self._closed = False
        for recorder in recorders:
            self.add(recorder)
        atexit.register(self._close_at_exit)

    def add(self, recorder: Recorder) -> None:
        """Let one more recorder write into this session."""
        recorder.start(self._writer)
        self._recorders.append(recorder)

    def log(self, key: str, value: float, step: int) -> None:
        """Record any other value, the loss say, beside the learning rates.

        Args:
            key: name of the metric; a character that MLflow does not take becomes ``_``.
            value: a number; NaN and infinity are kept too.
            step: index of the optimizer step that the value belongs to, from 0.
        """
        legal = self._legal_keys.get(key)
        if legal is None:
            legal = self._legal_keys[key] = legal_key(key)
        self._outbox.write(Point(legal, step, time.time_ns() // 1_000_000, float(value)))

    @property
    def steps(self) -> int:
        """How many steps of the first optimizer are recorded."""
        return self._recorders[0].steps

    @property
    def last(self) -> Record | None:
        """The last recorded step of the first optimizer."""
        return self._recorders[0].last

    @property
    def groups(self) -> tuple[Group, ...]:
        """The param groups of the first optimizer."""
        return self._recorders[0].groups

    @property
    def findings(self) -> list[Finding]:
        """What a person should know about what was recorded."""
        return [finding for recorder in self._recorders for finding in recorder.findings]

    def stop(self, status: str = "FINISHED") -> None:
        """Stop recording, without waiting for anything; idempotent. `close` is still to be called.

        Args:
            status: FINISHED, FAILED or KILLED; given to the run if this session started it.
        """
        if self._status is None:
            self._status = status
            for recorder in self._recorders:
                recorder.close()
            self._outbox.end(End(status))

    def close(self, status: str = "FINISHED") -> None:
        """Stop recording, and wait until everything is stored; idempotent.

        Warns, and never raises, about what is still missing after ``close_timeout_s`` and how to rescue it.

        Args:
            status: see `stop`.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        self.stop(status)
        missing = self._outbox.wait(self._close_timeout_s)
        if missing:
            warnings.warn(f"lrtape: {missing}", stacklevel=2)
        if self.run is not None and self._owns_run:
            self.run.finish(self._status or status)

    def _close_at_exit(self) -> None:
        self.close("FAILED" if hasattr(sys, "last_value") else "FINISHED")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(End.after(kind).status)


class _Both:
    """Writes to an outbox and prints."""

    def __init__(self, outbox: Outbox, printer: LinePrinter) -> None:
        self._outbox = outbox
        self._printer = printer

    def write(self, frame: Groups | Record | Finding) -> bool:
        self._printer.write(frame)
        return self._outbox.write(frame)


def attach(
    *optimizers: Optimizer,
    names: Sequence[str] | None = None,
    model: Module | None = None,
    run: "MlflowRun | str | None" = ACTIVE_RUN,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
) -> Session:
    """Record the lr that every step of these optimizers uses, for every param group, until the session is closed.

    ::

        with lrtape.attach(optimizer):
            train()

    Args:
        optimizers: at least one.
        names: one for each optimizer; its metric keys are then ``lr/<name>/<group>``. Without names the first
            optimizer has ``lr/<group>``, and any later one ``lr/<class>_<index>/<group>``.
        model: names the param groups, where they have no names of their own, after the modules they belong to.
        run: ``"active"`` for the active MLflow run of this process, or a new one that ends with the session; the id of
            a run; or ``None``: nothing is kept and MLflow is not needed, for printing.
        print_every_n_steps: print a line with every group's lr every so many steps, the first step included.
        folder: where the spool lives until the tracking store has everything.
        close_timeout_s: how long `Session.close` waits for the tracking store.

    Raises:
        ConfigError: an argument is wrong, or two param groups would share a metric.
        TrackingError: the tracking store cannot be reached.
    """
    if not optimizers:
        raise ConfigError("`attach` needs at least one optimizer, but was given none: lrtape.attach(optimizer).")
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                f"`attach` takes torch optimizers, but was given {type(optimizer).__name__} instead: "
                "lrtape.attach(optimizer, model=model)."
            )
    if names is not None and (len(names) != len(optimizers) or len(set(names)) != len(names) or not all(names)):
        raise ConfigError(f"`names` must name each of {len(optimizers)} optimizers once, but is {list(names)} instead.")
    keys = Keys()
    param_paths = _param_paths(model)
    recorders = [
        Recorder(optimizer, index, keys, names[index] if names else default_name(optimizer, index), param_paths)
        for index, optimizer in enumerate(optimizers)
    ]
    return open_session(recorders, run, print_every_n_steps, folder, close_timeout_s)


def open_session(
    recorders: Sequence[Recorder],
    run: "MlflowRun | str | None",
    print_every_n_steps: int | None,
    folder: str | Path,
    close_timeout_s: float,
) -> Session:
    """Put a session together and start it. The arguments are those of `attach`; raises what `attach` raises."""
    check_interval(print_every_n_steps)
    if run is None:
        return Session(recorders, NoOutbox(), _printing(NoOutbox(), print_every_n_steps))

    from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

    owns_run = not isinstance(run, MlflowRun)
    if not isinstance(run, MlflowRun):
        run = MlflowRun.active() if run == ACTIVE_RUN else MlflowRun.open(None, run)
    outbox = ShippedOutbox(Path(folder), run.run_id, run.tracking_uri)
    return Session(recorders, outbox, _printing(outbox, print_every_n_steps), run, owns_run, close_timeout_s)


def print_lrs(optimizer: Optimizer, model: Module | None = None) -> None:
    """Print one line with the lr that every param group will use in the next step: ``backbone 1e-05  head 0.001``.

    Args:
        optimizer: any torch optimizer.
        model: names the param groups, where they have no names of their own, after the modules they belong to.
    """
    names = group_names(optimizer.param_groups, _param_paths(model))
    print(format_lrs(names, [float(group["lr"]) for group in optimizer.param_groups]), flush=True)  # noqa: T201


def _param_paths(model: Module | None) -> dict[int, str]:
    return {} if model is None else {id(param): path for path, param in model.named_parameters()}


def default_name(optimizer: Optimizer, index: int) -> str:
    """The optimizer's part of its metric keys, where it was given no name: empty for the first one."""
    return f"{type(optimizer).__name__.lower()}_{index}" if index else ""


def check_interval(print_every_n_steps: int | None) -> None:
    """Refuse an interval that is not one.

    Raises:
        ConfigError: it is less than 1.
    """
    if print_every_n_steps is not None and print_every_n_steps < 1:
        raise ConfigError(f"`print_every_n_steps` must be at least 1, but is {print_every_n_steps} instead.")


def _printing(outbox: Outbox, print_every_n_steps: int | None) -> FrameWriter:
    return outbox if print_every_n_steps is None else _Both(outbox, LinePrinter(print_every_n_steps))
