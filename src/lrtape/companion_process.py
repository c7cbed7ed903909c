"""A process that runs ``lrtape.companion``, as the process that has started it sees it, and those that are idle now."""

import atexit
import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
import time

import msgspec

from lrtape.spool import End

EXIT_AGAIN = 75
"""Of a companion that has done nothing wrong, and wants to be followed by a new one."""


PIPE_BYTES = 1 << 20


class Settings(msgspec.Struct, frozen=True, tag=True):
    """What a companion needs to know of a recording.

    Attributes:
        folder: of its spool.
        tracking_uri: absolute. It goes through a pipe: it may hold a password, which nobody shall see in a list of
            processes, or find in a spool.
        environment: of the training now, credentials included; a companion may have been started long before.
        cwd: where the training runs now.
        fsync_every_s: how often the spool is forced to the disk; ``None`` leaves that to the operating system.
    """

    folder: str
    tracking_uri: str
    environment: dict[str, str]
    cwd: str
    fsync_every_s: float | None = None


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Tells a companion that a recording has ended.

    Attributes:
        end: the last frame of its spool, which may not have fitted there.
    """

    end: End


decode_word = msgspec.json.Decoder(Settings | Ended).decode
"""What a companion is told, as JSON."""


class Answer(msgspec.Struct, frozen=True):
    """What a companion says of a recording in the end.

    Attributes:
        is_complete: whether everything is stored.
        problem: what a person must know, credentials masked; mostly nothing.
    """

    is_complete: bool
    problem: str = ""


class CompanionProcess:
    """One companion. It serves one recording at a time: `begin`, `end`, and then there is an `answer`.

    Belongs to one thread at a time.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        # -P: what lies in the current folder must not shadow a module of ours.
        command = [sys.executable, "-P", "-m", "lrtape.companion", str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            bufsize=0,  # or a pipe to a dead one would fail once more when it is closed
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # It opens the log of each recording itself.
            env=environment(),
            start_new_session=True,  # Ctrl-C is for the training, not for its shipper.
        )
        self._unread = b""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(AttributeError, OSError):  # Linux; an environment shall fit, or telling it would wait
            fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def exit_code(self) -> int | None:
        """``None`` as long as it is alive. Takes a microsecond."""
        return self._process.poll()

    def begin(self, settings: Settings) -> None:
        """Let it ship a recording. Does not raise: of one that is dead there is an `exit_code`."""
        self._tell(settings)

    def end(self, end: End) -> None:
        """Tell it that the spool has ended, so that it need not look, or if the spool itself cannot say so."""
        self._tell(Ended(end))

    def _tell(self, word: Settings | Ended) -> None:
        # The pipe stays open: where there are no pidfds, its end tells the companion that this process is dead.
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(OSError):
            rest = memoryview(msgspec.json.encode(word) + b"\n")
            while rest:
                rest = rest[pipe.write(rest) :]

    def answer(self, wait_s: float) -> Answer | None:
        """What it says of the recording, as soon as it does so; ``None`` where it has not, or is dead.

        Args:
            wait_s: how long to wait for that, in seconds.
        """
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
        return msgspec.json.decode(line, type=Answer)

    def kill(self) -> None:
        """End it; for one that has nothing to do."""
        self._process.kill()
        with self._process:  # waits, and closes its pipes
            pass

    def forget(self) -> None:
        """Let go of one that a forked child has inherited: it is its parent's."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - it was asked for
            pipe.close()
        self._process.returncode = 0  # or Popen would warn that it is still running


def environment() -> dict[str, str]:
    """Of a companion: that of this process, with MLflow's settings changed."""
    return os.environ | {
        # It tries again by itself, and tells how it goes; MLflow would be silent for minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "PYTHONWARNINGS": "default",  # not `error`, which is meant for the training
    }


class IdleCompanions:
    """The companions of this process that have nothing to do: one is started before there is a recording, and they are
    kept for the next one. A companion ends by itself when it has been idle for a minute.

    Used by all threads. A forked child has none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[CompanionProcess] = []
        self._is_registered = False

    def expect(self) -> None:
        """See that there is one: a recording is about to begin. Takes a millisecond. Does not raise."""
        with self._lock, contextlib.suppress(OSError):
            self._remove_dead()
            if not self._idle:
                self._keep(CompanionProcess())

    def take(self) -> CompanionProcess:
        """One that is idle, or else a new one.

        Raises:
            OSError: none can be started.
        """
        with self._lock:
            self._remove_dead()
            return self._idle.pop() if self._idle else CompanionProcess()

    def give_back(self, companion: CompanionProcess) -> None:
        """Keep one that has answered."""
        with self._lock:
            self._keep(companion)

    def reset(self) -> None:
        """End them."""
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def _keep(self, companion: CompanionProcess) -> None:
        if not self._is_registered:
            self._is_registered = True
            os.register_at_fork(after_in_child=self._forget)
            atexit.register(self.reset)
        self._idle.append(companion)

    def _remove_dead(self) -> None:
        self._idle = [companion for companion in self._idle if companion.exit_code is None]

    def _forget(self) -> None:
        self._lock = threading.Lock()
        while self._idle:
            self._idle.pop().forget()


IDLE_COMPANIONS = IdleCompanions()
