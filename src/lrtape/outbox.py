"""The outbox: a spool on disk and the companion process that empties it into the tracking store."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
import weakref
from pathlib import Path
from typing import Protocol

from lrtape.errors import ConfigError
from lrtape.progress import LOG, SPOOL, Progress
from lrtape.spool import End, Frame, Header, SpoolReader, SpoolWriter
from lrtape.tracking.uri import mask_credentials

_SLOW_CLOSE_S = 10.0


class Outbox(Protocol):
    """Takes the frames of one session and sees that they arrive."""

    def write(self, frame: Frame) -> bool:
        """Keep one frame and say whether it is safe. Called in every step; never raises."""

    def end(self, end: End) -> None:
        """Take the last frame. Does not wait; idempotent."""

    def wait(self, timeout_s: float) -> str:
        """Wait until everything has arrived. Returns what is missing and what to do, or an empty text."""


class NoOutbox:
    """For sessions without a run: keeps nothing."""

    def write(self, frame: Frame) -> bool:  # noqa: ARG002
        """See `Outbox.write`."""
        return True

    def end(self, end: End) -> None:
        """See `Outbox.end`."""

    def wait(self, timeout_s: float) -> str:  # noqa: ARG002
        """See `Outbox.wait`."""
        return ""


class ShippedOutbox:
    """A spool in a folder of its own, and ``python -m lrtape.shipper`` beside it.

    Args:
        folder: where the folders of spools live; created if there is none.
        run_id: the MLflow run to ship to.
        tracking_uri: absolute; reaches the shipper through a pipe, and the spool without credentials.

    Raises:
        ConfigError: the spool cannot be written there.
    """

    def __init__(self, folder: Path, run_id: str, tracking_uri: str) -> None:
        self.folder = (folder / f"{run_id}-{uuid.uuid4().hex[:8]}").absolute()
        self._tracking_uri = tracking_uri
        header = Header(run_id, mask_credentials(tracking_uri), os.getpid(), time.time_ns() // 1_000_000)
        try:
            self.folder.mkdir(parents=True)
            self._spool = SpoolWriter(self.folder / SPOOL, header)
        except OSError as error:
            raise ConfigError(
                f"`folder` must be a place where lrtape can write its spool, but {folder} is not ({error}). "
                "Choose another, on a disk with room that outlives the job."
            ) from error
        self.write = self._spool.write
        self._writer_pid = os.getpid()
        self._shipper = self._start_shipper()
        _close_in_forked_children(self._spool)

    def _start_shipper(self) -> "subprocess.Popen[bytes]":
        """Start the companion process. It outlives Ctrl-C, and this process.

        The tracking URI goes through a pipe, as it may hold a password that nobody shall see in a list of processes.
        """
        environment = os.environ | {
            # The shipper retries by itself, and tells how it goes; MLflow would be silent for minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self.folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-P", "-m", "lrtape.shipper", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        pipe = process.stdin
        if pipe is None:
            raise RuntimeError("the pipe that was asked for is missing")
        with contextlib.suppress(BrokenPipeError):  # It died at once; close() will see that.
            pipe.write(json.dumps({"tracking_uri": self._tracking_uri, "writer_pid": os.getpid()}).encode() + b"\n")
            pipe.flush()
        return process

    def end(self, end: End) -> None:
        """See `Outbox.end`."""
        self._spool.write(end)
        self._spool.close()

    def wait(self, timeout_s: float) -> str:
        """Wait for the shipper, and clear up if everything has arrived. See `Outbox.wait`."""
        if os.getpid() != self._writer_pid:
            return ""  # A forked child ends: the tape is its parent's.
        self._wait_for_shipper(time.monotonic() + timeout_s)
        progress = Progress.load(self.folder)
        if self._spool.lost:
            return (
                f"{self._spool.lost} records could not be written to {self.folder} ({self._spool.error}) and are "
                "lost; the rest is being shipped. Choose a disk with room: `folder`, or `tracking.folder`."
            )
        if progress.offset == self._spool.size:
            shutil.rmtree(self.folder, ignore_errors=True)
            return ""
        return self._missing(progress)

    def _wait_for_shipper(self, deadline: float) -> None:
        """Wait for the shipper; one that crashed is started once more."""
        for start_again in (True, False):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._shipper.wait(min(_SLOW_CLOSE_S, max(0.0, deadline - time.monotonic())))
            if self._shipper.returncode is None:
                print(f"lrtape: waiting for the tracking store to take {self.folder}", file=sys.stderr)  # noqa: T201
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._shipper.wait(max(0.0, deadline - time.monotonic()))
            if self._shipper.returncode in {0, None} or not start_again:
                return
            self._shipper = self._start_shipper()

    def _missing(self, progress: Progress) -> str:
        with SpoolReader(self.folder / SPOOL) as reader:
            recorded = sum(len(reader.points_of(frame)) for frame in reader.frames())
        return (
            f"{recorded - progress.points} of {recorded} recorded values have not arrived at "
            f"{mask_credentials(self._tracking_uri)}"
            f"{f' ({progress.error})' if progress.error else ''}. They are safe in {self.folder}. "
            f"Once the store can be reached again, run: lrtape recover {self.folder}"
        )


def _close_in_forked_children(spool: SpoolWriter) -> None:
    """A forked child that steps the optimizer must not write into its parent's tape."""
    reference = weakref.ref(spool)

    def close() -> None:
        if (writer := reference()) is not None:
            writer.close()

    os.register_at_fork(after_in_child=close)
