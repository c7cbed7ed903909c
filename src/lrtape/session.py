"""`attach` and `print_lrs`: the library put together, for one training loop."""

import atexit
import multiprocessing.util
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch.nn import Module
from torch.optim import Optimizer

from lrtape.arrivals import CUDA, Arrivals, Devices
from lrtape.beside import EVERY_N_STEPS, Beside
from lrtape.beside_recorder import recorder_class
from lrtape.columns import Columns
from lrtape.errors import ConfigError, LRTapeError
from lrtape.groups import moving_lrs
from lrtape.keys import Keys, group_names, legal_key
from lrtape.lines import format_lrs
from lrtape.outbox import KeepingOutbox, NoOutbox, Outbox, PrintingOutbox, SpoolOutbox
from lrtape.recorder import Recorder
from lrtape.replay import Overlap, ReplayOutbox
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding, Group, Point, Record, Status, now_ms
from lrtape.tracking.no_run import NoRun

if TYPE_CHECKING:
    from torch import Tensor

    from lrtape.tracking.mlflow_run import ActiveRun, MlflowRun
    from lrtape.tracking.planned_run import PlannedRun

ACTIVE_RUN = "active"
FOLDER = ".lrtape"
CLOSE_TIMEOUT_S = 60.0
MAX_STEP = 2**63 - 1

_keys_of_run: dict[str, Keys] = {}
"""So that two sessions in one run, one after the other or side by side, never mix their values under one key."""


class Session:
    """Records one or several optimizers into one run, from its creation to `close`. Made by `attach`.

    A context manager. Belongs to the training thread; nothing in it waits for a disk, a network or a device before
    `close`. A session that nobody closes is closed at the exit of the process.

    Args:
        outbox: takes what is recorded.
        run: where it goes; ended by `close`, if it was started for this session.
        close_timeout_s: how long `close` waits.
        findings: what the outbox finds goes here.
        shows_progress: whether `close` shows how far it is, on a terminal, when it takes long.
        devices: what is not to be waited for.
        beside: what is recorded beside the lr.
    """

    def __init__(
        self,
        outbox: Outbox,
        run: "MlflowRun | PlannedRun | NoRun",
        close_timeout_s: float = CLOSE_TIMEOUT_S,
        findings: list[Finding] | None = None,
        shows_progress: bool = True,
        devices: Devices = CUDA,
        beside: Beside = Beside(),  # noqa: B008 - frozen
    ) -> None:
        self.run = run
        self._outbox = outbox
        self._findings = [] if findings is None else findings
        self._keys = _keys_of_run.setdefault(run.run_id, Keys()) if run.run_id else Keys()
        self._close_timeout_s = close_timeout_s
        self._shows_progress = shows_progress
        self._recorders: list[Recorder] = []
        self._devices = devices
        self._recorder_class = recorder_class(beside)
        self._arrivals = Arrivals()
        self._status: Status | None = None
        self._closed = False
        self._pid = os.getpid()
        atexit.register(self._close_at_exit)
        if multiprocessing.parent_process() is not None:  # Such a child runs no atexit.
            multiprocessing.util.Finalize(self, self._close_at_exit, exitpriority=100)

    def add(
        self,
        optimizer: Optimizer,
        name: str = "",
        param_paths: Mapping[int, str] | None = None,
        numbered: bool = False,
        first_step: int = 0,
    ) -> None:
        """Record one more optimizer from its next step on; the arguments are those of `Recorder`.

        Raises:
            ConfigError: see `Recorder`; also where a session of this process has recorded such keys in the same run,
                unless that session is over and `first_step` says that this one goes on where it ended.
        """
        recorder = self._recorder_class(
            optimizer, len(self._recorders), self._keys, name, param_paths, numbered, first_step, self._devices
        )
        recorder.start(self._outbox)
        self._recorders.append(recorder)

    def pause(self) -> None:
        """Record no more steps, until `resume`."""
        for recorder in self._recorders:
            recorder.stop()

    def resume(self) -> None:
        """Go on after `pause`; steps in between are not counted."""
        for recorder in self._recorders:
            recorder.start(self._outbox)

    def record(self) -> None:
        """Record one step of every optimizer, with the lrs as they are now, where torch calls no hook: call this after
        each replay of a CUDA graph that holds ``optimizer.step()``, before the scheduler is stepped.
        """
        for recorder in self._recorders:
            recorder.record()

    def align(self, step: int) -> None:
        """Go on at this index, where a framework counts the steps: ``steps`` of each optimizer becomes at least `step`.

        Called between two steps; takes less than a microsecond.
        """
        for recorder in self._recorders:
            if recorder.steps < step:
                recorder.steps = step

    def log(self, key: str, value: "float | Tensor", step: int) -> None:
        """Record any other value, the loss say, beside the learning rates.

        What is on a GPU is not waited for: it is copied, and recorded when it has arrived, with the time of this call.
        Until then it is kept in memory, as at most `lrtape.arrivals.MAX_WAITING` values are.

        Args:
            key: name of the metric; a character that MLflow does not take becomes ``_``.
            value: a number, or a tensor of one; NaN and infinity are kept too.
            step: index of the optimizer step that the value belongs to, from 0; any integer, numpy's and torch's too.

        Raises:
            TypeError: the value is not a number, or the step is not an integer.
            ValueError: the step is beyond 64 bits.
        """
        number = index(step)
        if not -MAX_STEP <= number <= MAX_STEP:
            raise ValueError(f"`step` must fit into 64 bits, but is {number} instead.")
        key, time_ms = legal_key(key), now_ms()
        if self._devices.holds(value):
            arrival = self._devices.copy([value])
            self._arrivals.expect(arrival, lambda values: self._write(Point(key, number, time_ms, values[0])))
        else:
            self._write(Point(key, number, time_ms, float(value)))

    def _write(self, point: Point) -> None:
        self._outbox.write(point)

    @property
    def skipped_steps(self) -> int:
        """How many steps a GradScaler has skipped, of all optimizers, since this session began."""
        return sum(recorder.skipped_steps for recorder in self._recorders)

    @property
    def steps(self) -> int:
        """Index of the next step of the first optimizer: how many are recorded, with those of `first_step`."""
        return self._recorders[0].steps

    @property
    def last(self) -> Record | None:
        """The last recorded step of the first optimizer."""
        return self._recorders[0].last

    @property
    def groups(self) -> tuple[Group, ...]:
        """The param groups of the first optimizer, also those that are frozen, which its records leave out."""
        return self._recorders[0].groups

    @property
    def findings(self) -> list[Finding]:
        """What a person should know about what was recorded."""
        return self._findings + [finding for recorder in self._recorders for finding in recorder.findings]

    @property
    def us_per_step(self) -> float | None:
        """What recording one step takes on this thread, in microseconds: the median of samples; ``None`` without."""
        samples = [sample for recorder in self._recorders for sample in recorder.samples_ns]
        return median(samples) / 1000 if samples else None

    def stop(self, status: str = Status.FINISHED) -> None:
        """Stop recording, without waiting for anything; idempotent. `close` is still to be called.

        Args:
            status: FINISHED, FAILED or KILLED; given to the run if it was started for this session.
        """
        if self._status is None and os.getpid() == self._pid:  # A forked child must not end what is its parent's.
            self._status = Status(status)
            self.pause()
            self._receive_all()
            for recorder in self._recorders:
                self._keys.release(recorder.groups)
            self._outbox.end(self._status, self.us_per_step)

    def _receive_all(self) -> None:
        try:
            self._arrivals.receive_all()
        except Exception as error:  # noqa: BLE001 - the device may be what has failed
            _warn(f"lrtape: could not read a value that was logged from the device: {error!r}")

    def close(self, status: str = Status.FINISHED) -> None:
        """Stop recording, and wait until everything is stored; idempotent.

        Warns, and never raises, about what is still missing after ``close_timeout_s`` and how to rescue it.

        Args:
            status: see `stop`.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        self.stop(status)
        try:
            missing = self._outbox.wait(self._close_timeout_s, self._shows_progress)
        except Exception as error:  # noqa: BLE001 - no failure of tracking may fail the training
            missing = f"cannot tell whether everything was stored: {error!r}"
        except BaseException:
            self.run.leave()  # Somebody does not want to wait: the shipper goes on by itself.
            raise
        if missing:
            self.run.leave()  # What has not arrived comes with its status, later.
            _warn(f"lrtape: {missing}")
        else:
            self.run.finish(self._status or Status(status))

    def _close_at_exit(self) -> None:
        # At a prompt the last error may be long past, and says nothing about the training.
        self.close(Status.FINISHED if hasattr(sys, "ps1") else Status.after(getattr(sys, "last_value", None)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(Status.after(error))


def _warn(text: str) -> None:
    try:
        warnings.warn(text, stacklevel=3)
    except UserWarning:  # where warnings are errors
        print(text, file=sys.stderr)  # noqa: T201


def attach(
    *optimizers: Optimizer,
    names: Sequence[str] | None = None,
    model: Module | None = None,
    run: "MlflowRun | PlannedRun | NoRun | ActiveRun | str | None" = ACTIVE_RUN,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    keep_spool: bool = False,
    fsync_every_s: float | None = None,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
    first_step: int = 0,
    also: Iterable[str] = (),
    also_every_n_steps: int = EVERY_N_STEPS,
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
        run: ``"active"`` for the active MLflow run of this process, or a new one that ends with the session; a run of
            MLflow's, or its id, that somebody else ends; or ``None``: nothing is kept and MLflow is not needed, for
            printing.
        print_every_n_steps: print a line with every group's lr every so many steps, the first step included.
        folder: where the spool lives until the tracking store has everything.
        keep_spool: whether it stays there then.
        fsync_every_s: how often the spool is forced to the disk, in seconds, by the shipper process: the training does
            not wait. By default a spool survives the death of this process, but perhaps not a power failure.
        close_timeout_s: how long `Session.close` waits for the tracking store.
        first_step: index of the next step of these optimizers, from 0: where a training is resumed from a checkpoint,
            how many steps it had made. Give the id of the old run as `run`, and its curves go on.
        also: what is recorded beside the lr, for every param group: ``momentum`` (and betas), ``weight_decay``,
            ``grad_norm``, ``update_ratio``, ``effective_lr``; see ``docs/beside_the_lr.md``. For ``update_ratio`` a
            copy of all weights that move is held while such a step runs.
        also_every_n_steps: at each step whose index is a multiple of this. Other steps cost no more than without.

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
    if model is not None and not isinstance(model, Module):
        raise ConfigError(f"`model` must be a torch.nn.Module, but is {type(model).__name__} instead.")
    if names is not None and (len(names) != len(optimizers) or len(set(names)) != len(names) or not all(names)):
        raise ConfigError(
            f"`names` must hold one different, non-empty name for each of the {len(optimizers)} optimizers, but is "
            f"{list(names)} instead."
        )
    check_interval(print_every_n_steps)
    check_fsync(fsync_every_s)
    check_first_step(first_step)
    beside = Beside.of(also, also_every_n_steps)

    names = names or [default_name(optimizer, position) for position, optimizer in enumerate(optimizers)]
    param_paths = _param_paths(model)
    keys = Keys()
    for position, (optimizer, name) in enumerate(zip(optimizers, names, strict=True)):
        recorder_class(beside)(
            optimizer, position, keys, name, param_paths
        )  # refuses what is wrong before there is a run
    joined = _join(run)
    overlap = None
    if first_step and not isinstance(joined, NoRun):
        try:
            overlap = Overlap(joined.points_from(first_step))
        except LRTapeError:
            joined.finish(Status.FAILED)
            raise
    session = open_session(
        joined, print_every_n_steps, folder, keep_spool, fsync_every_s, close_timeout_s, overlap, beside=beside
    )
    try:
        for optimizer, name in zip(optimizers, names, strict=True):
            session.add(optimizer, name, param_paths, first_step=first_step)
    except ConfigError:
        session.close(Status.FAILED)
        raise
    return session


def open_session(
    run: "MlflowRun | PlannedRun | NoRun | ActiveRun | str | None",
    print_every_n_steps: int | None,
    folder: str | Path,
    keep_spool: bool,
    fsync_every_s: float | None,
    close_timeout_s: float,
    overlap: Overlap | None = None,
    shows_progress: bool = True,
    columns: Columns | None = None,
    beside: Beside = Beside(),  # noqa: B008 - frozen
) -> Session:
    """A session that records nothing yet; raises what `attach` raises.

    Args:
        run: see `attach`, as all that follow.
        print_every_n_steps: see there.
        folder: see there.
        keep_spool: see there.
        fsync_every_s: see there.
        close_timeout_s: see there.
        overlap: what the run has already of the steps that are recorded now; it is not written a second time.
        shows_progress: see `Session`.
        columns: keeps what is recorded in memory, too.
        beside: see `Session`.
    """
    check_interval(print_every_n_steps)
    check_fsync(fsync_every_s)
    joined = _join(run)
    outbox: Outbox = NoOutbox()
    if not isinstance(joined, NoRun):
        try:
            outbox = _open_spool(joined, Path(folder), keep_spool, fsync_every_s)
        except LRTapeError:
            joined.finish(Status.FAILED)
            raise
    findings: list[Finding] = []
    if overlap is not None:
        outbox = replay = ReplayOutbox(outbox, overlap)
        findings = replay.findings
    if print_every_n_steps is not None:
        outbox = PrintingOutbox(outbox, print_every_n_steps)
    if columns is not None:
        outbox = KeepingOutbox(outbox, columns)
    return Session(outbox, joined, close_timeout_s, findings, shows_progress, beside=beside)


def _open_spool(run: "MlflowRun | PlannedRun", root: Path, keep: bool, fsync_every_s: float | None) -> SpoolOutbox:
    from lrtape.tracking.planned_run import PlannedRun

    if isinstance(run, PlannedRun):
        return SpoolOutbox(run.folder, "", True, run.tracking_uri, fsync_every_s, keep)
    folder = SpoolFolder.create(root, run.run_id)
    try:
        run.begin_recording(folder.recording_id)
    except LRTapeError:
        folder.remove()
        raise
    return SpoolOutbox(folder, run.run_id, run.is_owned, run.tracking_uri, fsync_every_s, keep)


def _join(run: "MlflowRun | PlannedRun | NoRun | ActiveRun | str | None") -> "MlflowRun | PlannedRun | NoRun":
    if run is None or isinstance(run, NoRun):
        return NoRun()

    # Late: mlflow takes a second to import.
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.planned_run import PlannedRun

    if isinstance(run, MlflowRun | PlannedRun):
        return run
    if run == ACTIVE_RUN:
        return MlflowRun.active_or_new()
    return MlflowRun.join(run if isinstance(run, str) else run.info.run_id)


def print_lrs(optimizer: Optimizer, model: Module | None = None) -> None:
    """Print one line with the lr that every param group will use in the next step: ``backbone 1e-05  head 0.001``.

    A group that does not move, see `lrtape.groups`, is ``frozen``.

    Args:
        optimizer: any torch optimizer.
        model: names the param groups, where they have no names of their own, after the modules they belong to.
    """
    names = group_names(optimizer.param_groups, _param_paths(model))
    print(format_lrs(names, moving_lrs(optimizer.param_groups)), flush=True)  # noqa: T201


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


def check_fsync(fsync_every_s: float | None) -> None:
    """Refuse an interval that is not one.

    Raises:
        ConfigError: it is not above 0.
    """
    if fsync_every_s is not None and not fsync_every_s > 0:
        raise ConfigError(f"`fsync_every_s` must be above 0, but is {fsync_every_s} instead. `None` is for never.")


def check_first_step(first_step: int) -> None:
    """Refuse an index that is none.

    Raises:
        ConfigError: it is not a whole number >= 0.
    """
    if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step < 0:
        raise ConfigError(
            f"`first_step` must be a whole number >= 0, but is {first_step!r} instead. It is the index of the next "
            "step: how many steps the optimizer had made at the checkpoint."
        )
