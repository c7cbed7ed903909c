"""The session: what records the optimizers of one training into one run."""

import atexit
import copy
import multiprocessing.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from operator import index
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor
from torch.optim import Optimizer

from lrtape.agreement import COMPARE_EVERY_N_STEPS
from lrtape.arrivals import CUDA, Arrivals, Devices, is_capturing
from lrtape.beside import Beside
from lrtape.beside_recorder import recorder_class
from lrtape.columns import Columns
from lrtape.destination import Destination, open_destination
from lrtape.keys import Keys, legal_key
from lrtape.lines import warn
from lrtape.outbox import NoOutbox
from lrtape.recorder import Recorder
from lrtape.recording_options import RecordingOptions
from lrtape.replay import Overlap
from lrtape.spool import Frame, Mark
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, Status, Verdict, now_ms
from lrtape.tracking.tags import error_text

if TYPE_CHECKING:
    from lrtape.destination import Run, RunOrId

CLOSE_TIMEOUT_S = 60.0
MAX_STEP = 2**63 - 1

_keys_of_run: dict[str, Keys] = {}
"""So that two sessions in one run, one after the other or side by side, never mix their values under one key."""


def keys_taken(run_id: str | None) -> Keys:
    """A copy of the keys of a run, to try what would be refused."""
    return copy.deepcopy(_keys_of_run[run_id]) if run_id in _keys_of_run else Keys()


class Session:
    """Records one or several optimizers into one run, from its creation to `close`. Made by `attach`.

    A context manager: where ``with`` blocks on it are nested, the outermost closes it. Belongs to the training thread;
    nothing in it waits for a disk, a network or a device before `close`, except where it binds to its run. A session
    that nobody closes is closed at the exit of the process. It does not keep its optimizers alive.

    Args:
        destination: where what is recorded goes; its run is ended by `close`, if it was started for this session. Or
            what opens it: then the session binds to its run with its first record.
        close_timeout_s: how long `close` waits.
        shows_progress: whether `close` shows how far it is, on a terminal, when it takes long.
        devices: what is not to be waited for.
        beside: what is recorded beside the lr.
    """

    def __init__(
        self,
        destination: Destination | Callable[[], Destination],
        close_timeout_s: float = CLOSE_TIMEOUT_S,
        shows_progress: bool = True,
        devices: Devices = CUDA,
        beside: Beside = Beside(),  # noqa: B008 - frozen
    ) -> None:
        self._close_timeout_s = close_timeout_s
        self._shows_progress = shows_progress
        self._recorders: list[Recorder] = []
        self._recorder_of: dict[int, Recorder] = {}
        """Of those that are recorded now, by the id of the optimizer; look whether it is still the same one."""
        self._devices = devices
        self._recorder_class = recorder_class(beside)
        self._arrivals = Arrivals()
        self._status: Status | None = None
        self._closed = False
        self._warned = False
        self._depth = 0
        self._pid = os.getpid()
        self._open: Callable[[], Destination] | None = None
        self._binding = threading.Lock()
        if isinstance(destination, Destination):
            self._go_to(destination)
        else:
            self._go_to(Destination(outbox=_Unbound(self._write_first)))
            self._open = destination
        atexit.register(self._close_at_exit)
        if multiprocessing.parent_process() is not None:  # Such a child runs no atexit.
            multiprocessing.util.Finalize(self, self._close_at_exit, exitpriority=100)

    def _go_to(self, destination: Destination) -> None:
        self._run, self._outbox, self._findings = destination.run, destination.outbox, destination.findings
        self._agreement = destination.agreement
        self._keys = _keys_of_run.setdefault(self._run.run_id, Keys()) if self._run.run_id else Keys()
        for recorder in self._recorders:
            recorder.move(self._keys, self._outbox)

    def _bind(self) -> None:
        with self._binding:
            if self._open is not None and os.getpid() == self._pid:
                self._go_to(self._open())
                self._open = None

    def _write_first(self, frame: Frame) -> bool:
        """Take the first frame of all, within a step; whatever goes wrong, the training goes on."""
        try:
            self._bind()
        except Exception as error:  # noqa: BLE001
            self._open = None
            self._go_to(Destination())
            warn(f"lrtape cannot record, and the training goes on without: {error}")
        if isinstance(frame, GroupLayout):  # Their names may be taken in this run.
            groups = self._recorders[frame.optimizer_index].named_now(frame.groups)
            frame = GroupLayout(frame.optimizer_index, groups)
        return self._outbox.write(frame) if os.getpid() == self._pid else False

    @property
    def run(self) -> "Run":
        """The run, to which the session binds now, if it has not yet; none where nothing was recorded until `close`.

        Raises:
            ConfigError: nothing can be written in the session's folder.
            TrackingError: the tracking store does not answer.
        """
        self._bind()
        return self._run

    @property
    def own_run_id(self) -> str | None:
        """The id of the run: ``None`` as long as the session is not bound to one, empty where there is none."""
        return None if self._open is not None else self._run.run_id

    @property
    def run_id(self) -> str | None:
        """Like `own_run_id`, but on every rank of a training of several processes that of rank 0, which has the run.

        The others ask for it, in one request: it is known to them after the first collective that follows `attach` on
        rank 0, which the first step of DDP is. Until then, and where rank 0 records nothing, it is empty.
        """
        return self.own_run_id or (self._agreement.run_id if self._open is None else None)

    def add(
        self,
        optimizer: Optimizer,
        name: str = "",
        param_paths: Mapping[int, str] | None = None,
        numbered: bool = False,
        first_step: int = 0,
    ) -> None:
        """Record one more optimizer from its next step on; the arguments are those of `Recorder`.

        One that was left out goes on where it was, by its old names.

        Raises:
            ConfigError: see `Recorder`; also where a session of this process has recorded such keys in the same run,
                unless that session is over and `first_step` says that this one goes on where it ended.
        """
        recorder = next((recorder for recorder in self._recorders if recorder.optimizer is optimizer), None)
        if recorder is None:
            recorder = self._recorder_class(
                optimizer, len(self._recorders), self._keys, name, param_paths, numbered, first_step, self._devices
            )
            self._recorders.append(recorder)
        recorder.start(self._outbox)
        self._recorder_of[id(optimizer)] = recorder

    def leave_out(self, optimizer: Optimizer) -> None:
        """Record no more steps of this optimizer, until it is added again."""
        if self.is_recording(optimizer):
            self._recorder_of.pop(id(optimizer)).stop()

    def is_recording(self, optimizer: Optimizer) -> bool:
        """Whether steps of this optimizer are recorded here."""
        return self.recorder_of(optimizer) is not None

    def recorder_of(self, optimizer: Optimizer) -> Recorder | None:
        """What records the steps of this optimizer here."""
        recorder = self._recorder_of.get(id(optimizer))
        return recorder if recorder is not None and recorder.optimizer is optimizer else None

    @property
    def n_optimizers(self) -> int:
        """How many optimizers were ever added."""
        return len(self._recorders)

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
            recorder.align(step)

    def reread(self) -> None:
        """Take the lrs as they are now for the steps that are under way; see `Recorder.reread`."""
        for recorder in self._recorders:
            recorder.reread()

    def log(self, key: str, value: float | Tensor, step: int) -> None:
        """Record any other value, the loss say, beside the learning rates; after the end it is only warned about.

        What is on a GPU is not waited for: it is copied, and recorded when it has arrived, with the time of this call.
        Until then it is kept in memory, as at most `lrtape.arrivals.MAX_WAITING` values are.

        Args:
            key: name of the metric; a character that MLflow does not take becomes ``_``.
            value: a number, or a tensor of one; NaN and infinity are kept too.
            step: index of the optimizer step that the value belongs to, from 0; any integer, numpy's and torch's too.

        Raises:
            TypeError: the value is not a number, or the step is not an integer.
            ValueError: the value is a text or more than one number, or the step is beyond 64 bits.
        """
        number = index(step)
        if not -MAX_STEP <= number <= MAX_STEP:
            raise ValueError(f"`step` must fit into 64 bits, but is {number} instead.")
        if self._status is not None:
            self._warn_of_late_value(key, number)
            return
        key, time_ms = legal_key(key), now_ms()
        if self._devices.holds(value):
            if is_capturing():  # This is no step, and its replays will not come here.
                return
            arrival = self._devices.copy([value])
            self._arrivals.expect(arrival, lambda values: self._write(Point(key, number, time_ms, values[0])))
        else:  # detached, or torch (2.13) warns of the conversion
            alone = value.detach() if isinstance(value, Tensor) else value
            self._write(Point(key, number, time_ms, float(alone)))

    def _write(self, point: Point) -> None:
        self._outbox.write(point)

    def _warn_of_late_value(self, key: str, step: int) -> None:
        if not self._warned:
            self._warned = True
            warn(
                f"lrtape: {key!r} of step {step} was logged after the session had ended, and is not recorded, nor is "
                "what follows. Log it before close(), or before the end of the `with` block."
            )

    def mark(self) -> None:
        """See that the steps made last are stored with ``record="changes"``, too: call this at each checkpoint.

        Takes some microseconds. Waits for the steps that only a device knows of, as writing a checkpoint does.
        """
        if self._status is None and any(recorder.last is not None for recorder in self._recorders):
            for recorder in self._recorders:
                recorder.receive_all()
            self._outbox.write(Mark(self._recorders[0].steps - 1))

    @property
    def skipped_steps(self) -> int:
        """How many steps a GradScaler has skipped, of all optimizers, since this session began."""
        return sum(recorder.skipped_steps for recorder in self._recorders)

    @property
    def steps(self) -> int:
        """Index of the next step of the first optimizer: how many were made, with those of `first_step`.

        A step of a fused optimizer on a GPU counts, until it is known that it was skipped; see `next_steps`.
        """
        return self._recorders[0].next_step

    @property
    def next_steps(self) -> list[int]:
        """Index of the next step of each optimizer, for a checkpoint: see ``first_step`` of `attach`.

        Waits for the steps that only a device knows of.
        """
        for recorder in self._recorders:
            recorder.receive_all()
        return [recorder.steps for recorder in self._recorders]

    @property
    def last(self) -> Record | None:
        """The last recorded step of the first optimizer."""
        return self._recorders[0].last

    @property
    def groups(self) -> tuple[Group, ...]:
        """The param groups of the first optimizer, also those that are frozen, which its records leave out.

        Their keys are final when the session is bound to its run.
        """
        return self._recorders[0].groups

    @property
    def findings(self) -> list[Finding]:
        """What a person should know about what was recorded."""
        return self._findings + [
            finding for recorder in self._recorders for finding in (*recorder.findings, *recorder.skips())
        ]

    def judge(self, verdict: str, findings: Iterable[Finding] = ()) -> None:
        """Say what is to be said of the learning rates of this recording; after the end, and before its run, nothing.

        Args:
            verdict: see `Verdict`.
            findings: that it rests upon, without those of the session itself.
        """
        if self._status is None and self._open is None:
            for finding in findings:
                self._outbox.write(finding)
            self._outbox.write(Verdict(verdict))

    @property
    def us_per_step(self) -> float | None:
        """What recording one step takes on this thread, in microseconds: the median of samples; ``None`` without."""
        samples = [sample for recorder in self._recorders for sample in recorder.samples_ns]
        return median(samples) / 1000 if samples else None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is recorded."""
        return self._status is not None

    def stop(self, status: str = Status.FINISHED, error: BaseException | None = None) -> None:
        """Stop recording, without waiting for anything; idempotent. `close` is still to be called.

        Args:
            status: FINISHED, FAILED or KILLED; given to the run if it was started for this session.
            error: what has ended the training, likewise: the run's tag ``lrtape.error``.
        """
        if self._status is None and os.getpid() == self._pid:  # A forked child must not end what is its parent's.
            self._status = Status(status)
            for recorder in self._recorder_of.values():
                recorder.stop()
            self._receive_all()
            if self._open is not None:  # Nothing was recorded: there shall be no empty run.
                self._open = None
                self._go_to(Destination())
            for recorder in self._recorders:
                self._keys.release(recorder.groups)
                for finding in recorder.skips():
                    self._outbox.write(finding)
            self._outbox.end(self._status, self.us_per_step, error_text(error))

    def _receive_all(self) -> None:
        try:
            self._arrivals.receive_all()
        except Exception as error:  # noqa: BLE001 - the device may be what has failed
            warn(f"lrtape: could not read a value that was logged from the device: {error!r}")

    def close(self, status: str = Status.FINISHED, error: BaseException | None = None) -> None:
        """Stop recording, and wait until everything is stored; idempotent.

        Warns, and never raises, about what is still missing after ``close_timeout_s`` and how to rescue it.

        Args:
            status: see `stop`.
            error: see there.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        try:
            if self._status is None:
                self._agreement.settle(Status(status))
        except BaseException:
            self.stop(status, error)
            self._run.leave()  # Somebody does not want to wait: the shipper goes on by itself.
            raise
        self.stop(status, error)
        try:
            missing = self._outbox.wait(self._close_timeout_s, self._shows_progress)
        except Exception as failure:  # noqa: BLE001 - no failure of tracking may fail the training
            missing = f"cannot tell whether everything was stored: {failure!r}"
        except BaseException:
            self._run.leave()  # Somebody does not want to wait: the shipper goes on by itself.
            raise
        if missing:
            self._run.leave()  # What has not arrived comes with its status, later.
            if not warn(f"lrtape: {missing}"):
                print(f"lrtape: {missing}", file=sys.stderr)  # noqa: T201
        else:
            self._run.finish(self._status or Status(status))

    def _close_at_exit(self) -> None:
        # At a prompt the last error may be long past, and says nothing about the training.
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        self.close(Status.after(error), error)

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth <= 0:
            self.close(Status.after(error), error)


class _Unbound(NoOutbox):
    """Stands for the outbox of a session that is not bound to its run yet.

    Args:
        write_first: takes the first frame, and sees that no second one comes here.
    """

    def __init__(self, write_first: Callable[[Frame], bool]) -> None:
        self._write_first = write_first

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        return self._write_first(frame)


def open_session(
    run: "RunOrId",
    print_every_n_steps: int | None,
    options: RecordingOptions,
    close_timeout_s: float,
    overlap: Overlap | None = None,
    shows_progress: bool = True,
    columns: Columns | None = None,
    compare_ranks_every_n_steps: int | None = COMPARE_EVERY_N_STEPS,
    beside: Beside = Beside(),  # noqa: B008 - frozen
) -> Session:
    """A session that records nothing yet; see `open_destination` and `Session` for its arguments and errors."""
    destination = open_destination(*(run, print_every_n_steps, options, overlap, columns, compare_ranks_every_n_steps))
    return Session(destination, close_timeout_s, shows_progress, beside=beside)
