"""``python -m lrtape.companion FOLDER``: the shipper process, which a `ShipperProcess` starts beside the training.

It outlives Ctrl-C and the training process, and is done when everything is stored and the run says how it ended.
"""

import contextlib
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from lrtape.delivery import deliver
from lrtape.run_page.environment import environment
from lrtape.shipper import GIVE_UP_S
from lrtape.shipper_process import COMPLETE
from lrtape.spool import End
from lrtape.spool_folder import SpoolFolder

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Trainer:
    """The process that writes the spool, as it can be seen through the pipe on stdin that it holds open.

    Its first line there are the settings, as JSON; a second one is the last word: how the recording ended. Its death is
    seen by a pidfd where there is one, else by the end of that pipe.
    """

    def __init__(self) -> None:
        self._unread = b""
        self.settings: dict[str, Any] = json.loads(self._line() or b"{}")
        self.last_word: End | None = None
        self._is_dead = not self.settings
        self._poll = select.poll()
        self._poll.register(_STDIN, select.POLLIN | select.POLLHUP)
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(self.settings["writer_pid"])
            self._poll.register(self._pidfd, select.POLLIN)
        except (ProcessLookupError, KeyError):
            self._is_dead = True
        except (AttributeError, OSError):
            pass  # The pipe alone has to tell.
        if os.getppid() != self.settings.get("writer_pid"):
            self._is_dead = True  # It died before, and its number may be another process's by now.

    def is_recording(self, wait_s: float) -> bool:
        """See `lrtape.shipper.Writer`."""
        deadline = time.monotonic() + wait_s
        if self._unread:
            self._listen()  # It came in one piece with the settings.
        while not self._is_dead and self.last_word is None:
            events = dict(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if _STDIN in events:
                self._listen()
            if self._pidfd in events:
                self._is_dead = True
            if os.getppid() != self.settings["writer_pid"]:
                self._is_dead = True  # A forked child of it may still hold the pipe.
            if not events:
                return not self._is_dead
        return False

    def _listen(self) -> None:
        line = self._line()
        self._poll.unregister(_STDIN)  # Nothing more comes.
        if line:
            self.last_word = msgspec.json.decode(line, type=End)
        elif self._pidfd < 0:
            self._is_dead = True

    def _line(self) -> bytes:
        """The next line, or what there is of it at the end of the pipe."""
        while b"\n" not in self._unread and (data := os.read(_STDIN, 1 << 16)):
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line


MAX_PROBLEM_CHARACTERS = 8000
NICENESS = 10
"""The training goes first: under contention this process gets about a tenth of what the trainer gets."""


def main() -> None:
    """Ship, and say at the end whether everything is stored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    stdout = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)  # Whatever else is printed belongs into the log.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    folder = SpoolFolder(Path(sys.argv[1]))
    trainer = Trainer()
    if every_s := trainer.settings.get("fsync_every_s"):
        threading.Thread(target=_fsync, args=(folder.spool, every_s), daemon=True).start()
    with folder.claim():
        _tell_environment(folder.environment)
        delivered = deliver(folder, trainer.settings["tracking_uri"], trainer, GIVE_UP_S)
    if delivered.is_complete:
        with contextlib.suppress(BrokenPipeError):  # The trainer is dead, and nobody is curious.
            # No more than a pipe holds: nobody reads it before this process has ended.
            os.write(stdout, f"{COMPLETE}\n{delivered.problem[:MAX_PROBLEM_CHARACTERS]}".encode())


def _tell_environment(path: Path) -> None:
    """Note what the training runs on, here, beside it: the spool may be shipped elsewhere."""
    with contextlib.suppress(Exception):  # a full disk, or a strange package
        path.write_text(json.dumps(environment(), indent=2), encoding="utf-8")


def _fsync(spool: Path, every_s: float) -> None:
    """Force a spool to the disk now and then; here, so that the training need not wait for the disk."""
    with spool.open("rb") as file:
        folder = os.open(spool.parent, os.O_RDONLY)
        os.fsync(folder)  # its name, too
        os.close(folder)
        while True:
            os.fsync(file.fileno())
            time.sleep(every_s)


if __name__ == "__main__":
    main()
