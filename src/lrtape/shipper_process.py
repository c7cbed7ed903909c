"""The shipper process, as the training process sees it: ``python -m lrtape.companion FOLDER``."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from lrtape.spool import End
from lrtape.spool_folder import SpoolFolder

EXIT_DONE = 0
"""For better or worse: the shipper has not crashed."""
COMPLETE = "complete"
"""First line on the shipper's stdout when everything is stored. An exit code can be lost: others may wait, too."""
RESTART_PAUSE_S = 10.0
"""Before the first restart while training; each further pause is twice as long, up to the cap."""
RESTART_PAUSE_CAP_S = 600.0
MAX_RESTARTS_AT_END = 3
LOOK_S = 0.1

_log = logging.getLogger(__name__)


class ShipperProcess:
    """Starts the shipper of one spool, and starts it again when it has crashed or was killed.

    Belongs to the training thread. It does not raise: without a shipper the spool grows, for ``lrtape recover``.

    Args:
        folder: holds the spool.
        tracking_uri: absolute. It goes through a pipe: it may hold a password, which nobody shall see in a list of
            processes, or find in a spool.
        fsync_every_s: how often the spool is forced to the disk; ``None`` leaves that to the operating system.
    """

    def __init__(self, folder: SpoolFolder, tracking_uri: str, fsync_every_s: float | None) -> None:
        self._folder = folder
        self._settings = {"tracking_uri": tracking_uri, "writer_pid": os.getpid(), "fsync_every_s": fsync_every_s}
        self._end: End | None = None
        self._pause_s = RESTART_PAUSE_S
        self._process = self._start()

    def tend(self) -> None:
        """See that the shipper is alive: takes a microsecond, and some milliseconds when it is not."""
        if self._has_crashed() and time.monotonic() >= self._started_s + self._pause_s:
            self._pause_s = min(2 * self._pause_s, RESTART_PAUSE_CAP_S)
            self._process = self._start()

    def end(self, end: End) -> None:
        """Tell the shipper that the spool has ended, so that it need not look, or if the spool itself cannot say so."""
        self._end = end
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # It is dead: wait() will see that.
                self._process.stdin.write(msgspec.json.encode(end) + b"\n")

    def wait(self, timeout_s: float, show: Callable[[], object] = lambda: None) -> str | None:
        """Wait until the shipper is done; call `end` before.

        Args:
            timeout_s: seconds.
            show: called some times a second, for a person who waits.

        Returns:
            What a person must know about what is stored, mostly nothing; ``None`` if not everything is stored.
        """
        deadline = time.monotonic() + timeout_s
        n_restarts = 0
        while True:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(max(0.0, min(LOOK_S, deadline - time.monotonic())))
                    words = self._last_words()  # It may have been killed after them.
                    if words is not None or code == EXIT_DONE:
                        return words
            if time.monotonic() >= deadline:
                return None
            if self._has_crashed():
                if n_restarts == MAX_RESTARTS_AT_END:
                    return None
                n_restarts += 1
                self._process = self._start()
            show()

    def _has_crashed(self) -> bool:
        if os.getpid() != self._settings["writer_pid"]:
            return False  # a forked child, whose parent looks after it
        return self._process is None or self._process.poll() not in {None, EXIT_DONE}

    def _log(self) -> IO[bytes]:
        try:
            return self._folder.log.open("ab")
        except PermissionError:
            return Path(os.devnull).open("ab")  # What is important is said in other ways, too.

    def _last_words(self) -> str | None:
        assert self._process is not None  # noqa: S101 - it has ended
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        with self._process:  # closes its pipes
            first, _, problem = self._process.stdout.read().decode().partition("\n")
        return problem if first == COMPLETE else None

    def _start(self) -> "subprocess.Popen[bytes] | None":
        self._started_s = time.monotonic()
        environment = os.environ | {
            # The shipper retries by itself, and tells how it goes; MLflow would be silent for minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "PYTHONWARNINGS": "default",  # not `error`, which is meant for the training
        }
        try:
            with self._log() as log:
                process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                    # -P: what lies in the current folder must not shadow a module of ours.
                    [sys.executable, "-P", "-m", "lrtape.companion", str(self._folder.path)],
                    bufsize=0,  # or a pipe to a dead one would fail once more when it is closed
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the training, not for its shipper.
                )
        except OSError as error:
            _log.info("cannot start the shipper of %s: %s", self._folder.path, error)
            return None
        pipe = process.stdin
        assert pipe is not None  # noqa: S101 - it was asked for above
        with contextlib.suppress(BrokenPipeError):  # It died at once; tend() will see that.
            # Stays open: where there are no pidfds, its end tells the shipper that this process is dead.
            pipe.write(json.dumps(self._settings).encode() + b"\n")
            if self._end is not None:
                pipe.write(msgspec.json.encode(self._end) + b"\n")
        return process
