"""A process that runs ``lrtape.companion``, as the process that has started it sees it."""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import msgspec

from lrtape.companion_words import IDLE_S, Answer, Ended, Recording, RunCreated, RunRefused, RunWanted, Settings, Word
from lrtape.spool import End
from lrtape.tracking.uri import sqlite_path

_ABOUT_TO_END_S = 10.0
LOOK_S = 0.1
"""Between two looks whether a companion is alive, where it is waited for."""
_MAX_COMPLAINT_BYTES = 1 << 14

OWN_ENVIRONMENT = {
    # It tries again by itself, and tells how it goes; MLflow would be silent for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PYTHONWARNINGS": "default",  # not `error`, which is meant for the training
}
_NOTHING_TO_A_COMPANION = {
    # What it is told in other words, and where others note what they are at.
    *("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
    *("PWD", "OLDPWD", "HYDRA_FULL_ERROR", "PYTEST_CURRENT_TEST"),
}
_READ_AT_START = ("PYTHON", "LD_")


class CompanionProcess:
    """One companion. It serves one recording at a time: `begin`, `end`, and then there is an `answer`; before, it may
    `create_run`.

    Belongs to one thread at a time. Only its start raises, and nothing waits but `answer` and `create_run`.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        self._environment = _environment()
        self._stores: dict[Path, tuple[int, int]] = {}
        self._is_used = False
        self._has_unrecorded_run = False  # It waits for that, however long it takes.
        self._idle_since_s = time.monotonic()
        self._unread = b""
        # -P: what lies in the current folder must not shadow a module of ours.
        command = [sys.executable, "-P", "-m", "lrtape.companion", str(os.getpid())]
        self._complaints = _temporary_file()
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            bufsize=0,  # or a pipe to a dead one would fail once more when it is closed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,  # until it opens the log of a recording
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the training, not for its shipper.
        )
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        os.set_blocking(self._process.stdin.fileno(), False)

    @property
    def exit_code(self) -> int | None:
        """``None`` as long as it is alive. Takes a microsecond."""
        return self._process.poll()

    @property
    def complaints(self) -> bytes:
        """What it has said outside of any recording, before it could ship one, say."""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - _MAX_COMPLAINT_BYTES))
        return self._complaints.read()

    def can_take(self, tracking_uri: str) -> bool:
        """Whether it is fit for another recording.

        What it has imported keeps credentials that it has used, and files that it has opened: one that has shipped a
        recording ships no other one with another environment, or into a store that was replaced meanwhile.
        """
        is_about_to_end = time.monotonic() - self._idle_since_s > IDLE_S - _ABOUT_TO_END_S
        if self.exit_code is not None or (is_about_to_end and not self._has_unrecorded_run):
            return False
        path = sqlite_path(tracking_uri)
        if path in self._stores and self._stores[path] != _identity(path):
            return False
        changed = {name for name, _ in self._changes(_environment())} - _NOTHING_TO_A_COMPANION
        if not self._is_used:
            return not any(name.startswith(_READ_AT_START) for name in changed)
        return not changed

    def _changes(self, now: dict[str, str]) -> list[tuple[str, str | None]]:
        names = {*now, *self._environment}
        return [(name, now.get(name)) for name in sorted(names) if now.get(name) != self._environment.get(name)]

    def create_run(self, folder: Path, tracking_uri: str) -> RunCreated | RunRefused | None:
        """Let it create the run that is planned in a folder, and wait for that; ``None`` where it has died.

        If no recording of that run begins before this process dies, or calls `forget`, it ends the run.
        """
        own = [(os.fsencode(name), os.environb.get(os.fsencode(name))) for name in OWN_ENVIRONMENT]
        self._tell(RunWanted(self._settings(folder, tracking_uri), own))
        line = None
        while line is None and self.exit_code is None:
            line = self._line(LOOK_S)
        line = line or self._line(0.0)
        self.rest(tracking_uri)
        answer = None if line is None else msgspec.json.decode(line, type=RunCreated | RunRefused)
        self._has_unrecorded_run = isinstance(answer, RunCreated)
        return answer

    def begin(self, folder: Path, tracking_uri: str, fsync_every_s: float | None) -> None:
        """Let it ship a recording; see `Recording`. Of one that is dead or does not listen, there is an `exit_code`."""
        self._has_unrecorded_run = False
        self._tell(Recording(self._settings(folder, tracking_uri), fsync_every_s))

    def _settings(self, folder: Path, tracking_uri: str) -> Settings:
        self._is_used = True
        self._note_store(tracking_uri)
        now = _environment()
        changes = [
            (os.fsencode(name), None if text is None else os.fsencode(text)) for name, text in self._changes(now)
        ]
        self._environment = now
        try:
            cwd = os.fsencode(Path.cwd())
        except FileNotFoundError:
            cwd = b"/"  # It was deleted.
        return Settings(os.fsencode(folder), os.fsencode(tracking_uri), changes, cwd)

    def end(self, end: End) -> None:
        """Tell it that the spool has ended, so that it need not look, or if the spool itself cannot say so."""
        self._tell(Ended(end))

    def _tell(self, word: Word) -> None:
        # The pipe stays open: where there are no pidfds, its end tells the companion that this process is dead.
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - it was asked for
        line = msgspec.json.encode(word) + b"\n"
        with contextlib.suppress(BrokenPipeError):
            if pipe.write(line) != len(line):  # It has not read for long, or the environment has grown by 64 KiB.
                self._process.kill()

    def answer(self, wait_s: float) -> Answer | None:
        """What it says of the recording, as soon as it does so; ``None`` where it has not, or is dead.

        Args:
            wait_s: how long to wait for that, in seconds.
        """
        line = self._line(wait_s)
        return None if line is None else msgspec.json.decode(line, type=Answer)

    def _line(self, wait_s: float) -> bytes | None:
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101 - it was asked for
        deadline = time.monotonic() + wait_s
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._unread and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            data = os.read(pipe.fileno(), 1 << 16)
            self._unread += data
            if not data:  # It is dead, or about to be.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(max(0.0, deadline - time.monotonic()))
                break
        line, end, rest = self._unread.partition(b"\n")
        if not end:
            return None
        self._unread = rest
        return line

    def rest(self, tracking_uri: str) -> None:
        """It has answered, and waits for another recording from now on."""
        self._idle_since_s = time.monotonic()
        self._note_store(tracking_uri)  # It may have made it.

    def _note_store(self, tracking_uri: str) -> None:
        path = sqlite_path(tracking_uri)
        if path is not None and (identity := _identity(path)) is not None:
            self._stores.setdefault(path, identity)

    def kill(self) -> None:
        """End it; for one that has nothing to do."""
        self._process.kill()
        with self._process, self._complaints:  # waits, and closes its pipes
            pass

    def forget(self) -> None:
        """Let go of one that a forked child has inherited, as it is its parent's; or of one that nobody listens to any
        more: it finishes what it is at, and ends.
        """
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - it was asked for
            pipe.close()
        self._complaints.close()
        self._process.returncode = 0  # or Popen would warn that it is still running


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # A full disk is no reason not to ship.
        return Path(os.devnull).open("w+b")


def _environment() -> dict[str, str]:
    return os.environ | OWN_ENVIRONMENT


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
