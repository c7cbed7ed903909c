"""The outbox: where a session puts what it records, and which sees that it arrives."""

import contextlib
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Protocol

from lrtape.errors import ConfigError
from lrtape.lines import LinePrinter
from lrtape.spool import End, Frame, Header, SpoolReader, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status, now_ms
from lrtape.tracking.uri import mask_credentials


class Outbox(Protocol):
    """Takes the frames of one session. Used by the training thread alone."""

    def write(self, frame: Frame) -> bool:
        """Keep one frame and say whether it is safe. Called within every step: never raises, never waits."""

    def end(self, status: Status) -> None:
        """Nothing more comes; called once. Does not wait."""

    def wait(self, timeout_s: float) -> str:
        """Wait until everything has arrived. Returns what is missing and what to do, or an empty text."""


class NoOutbox:
    """For sessions without a run: keeps nothing."""

    def write(self, frame: Frame) -> bool:  # noqa: ARG002
        """See `Outbox.write`."""
        return True

    def end(self, status: Status) -> None:
        """See `Outbox.end`."""

    def wait(self, timeout_s: float) -> str:  # noqa: ARG002
        """See `Outbox.wait`."""
        return ""


class PrintingOutbox:
    """Prints the learning rates on their way into another outbox.

    Args:
        outbox: where everything goes.
        every_n_steps: see `LinePrinter`.
    """

    def __init__(self, outbox: Outbox, every_n_steps: int) -> None:
        self._printer = LinePrinter(every_n_steps)
        self._outbox = outbox
        self.end = outbox.end
        self.wait = outbox.wait

    def write(self, frame: Frame) -> bool:
        """See `Outbox.write`."""
        self._printer.write(frame)
        return self._outbox.write(frame)


class SpoolOutbox:
    """A spool in a folder of its own, and the shipper process beside it, ``python -m lrtape.companion``.

    Args:
        root: where the folders of spools are; created if there is none.
        run_id: the MLflow run to ship to.
        owns_run: whether the run ends with the session.
        tracking_uri: absolute; reaches the shipper through a pipe, and the spool without credentials.

    Raises:
        ConfigError: the spool cannot be written there.
    """

    def __init__(self, root: Path, run_id: str, owns_run: bool, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        try:
            self._folder = SpoolFolder.create(root, run_id)
            header = Header(run_id, owns_run, mask_credentials(tracking_uri), now_ms())
            self._spool = SpoolWriter(self._folder.spool, header)
        except OSError as error:
            raise ConfigError(
                f"`folder` must be a place where lrtape can write its spool, but {root} is not ({error}). "
                "Choose another, on a disk with room that outlives the job."
            ) from error
        _close_in_forked_children(self._spool)
        self.write = self._spool.write  # without a call in between: this runs in every step
        self._shipper = self._start_shipper()

    def end(self, status: Status) -> None:
        """See `Outbox.end`."""
        self._spool.write(End(status))
        self._spool.close()

    def wait(self, timeout_s: float) -> str:
        """Wait for the shipper, and clear up if everything has arrived. See `Outbox.wait`."""
        deadline = time.monotonic() + timeout_s
        self._join(deadline)
        if self._shipper.returncode not in {None, 0}:
            self._shipper = self._start_shipper()  # It crashed, or was killed: once more.
            self._join(deadline)
        problems = []
        if self._spool.lost:
            problems.append(
                f"{self._spool.lost} records could not be written to {self._folder.path} ({self._spool.error}) and are "
                "lost. Choose a `folder` on a disk with room."
            )
        self._folder.abandon()  # before the last look: whatever arrives later, the shipper clears up
        if self._folder.load_progress().offset == self._spool.size:
            self._folder.remove()
        else:
            problems.append(self._missing())
        return " ".join(problems)

    def _join(self, deadline: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shipper.wait(max(0.0, deadline - time.monotonic()))
            if self._shipper.stdin is not None:
                self._shipper.stdin.close()

    def _missing(self) -> str:
        progress = self._folder.load_progress()
        with SpoolReader(self._folder.spool) as reader:
            recorded = sum(len(reader.points_of(frame)) for frame in reader.frames())
        why = f" ({progress.error})" if progress.error else ""
        when = "The store refuses them: mend that, then run" if progress.refused else "When the store is back, run"
        return (
            f"{recorded - progress.points} of {recorded} recorded values have not arrived at "
            f"{mask_credentials(self._tracking_uri)}{why}. They are safe in {self._folder.path}. "
            f"{when}: lrtape recover {self._folder.path}"
        )

    def _start_shipper(self) -> "subprocess.Popen[bytes]":
        """Start the shipper process.

        The tracking URI goes through a pipe, as it may hold a password that nobody shall see in a list of processes.
        """
        environment = os.environ | {
            # The shipper retries by itself, and tells how it goes; MLflow would be silent for minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with self._folder.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                # -P: what lies in the current folder must not shadow a module of ours.
                [sys.executable, "-P", "-m", "lrtape.companion", str(self._folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the training, not for its shipper.
            )
        settings = {"tracking_uri": self._tracking_uri, "writer_pid": os.getpid()}
        with contextlib.suppress(BrokenPipeError):  # It died at once; wait() will see that.
            pipe = process.stdin
            assert pipe is not None  # noqa: S101 - it was asked for above
            # Stays open: where there are no pidfds, its end tells the shipper that this process is dead.
            pipe.write(json.dumps(settings).encode() + b"\n")
            pipe.flush()
        return process


def _close_in_forked_children(spool: SpoolWriter) -> None:
    """A forked child that steps the optimizer must not write into its parent's spool."""
    reference = weakref.ref(spool)

    def close() -> None:
        if (writer := reference()) is not None:
            writer.close()

    os.register_at_fork(after_in_child=close)
