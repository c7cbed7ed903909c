"""The training process, as the companion beside it sees it."""

import contextlib
import os
import select
import time

from lrtape.companion_words import IDLE_S, Ended, Recording, RunWanted, Word, decode_word
from lrtape.spool import End

_STDIN = 0


class TrainingProcess:
    """The process that writes the spools, as it can be seen through the pipe on stdin that it holds open.

    For each recording there are two lines: that it is a `Recording`, and how it `Ended`; before them there may be one
    more, that a `RunWanted`. Its death is seen by a pidfd where there is one, else by the end of that pipe.

    Args:
        pid: its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._unread = b""
        self.last_word: End | None = None
        self._is_dead = False
        self._is_silent = False
        self._poll = select.poll()
        self._poll.register(_STDIN, select.POLLIN | select.POLLHUP)
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(pid)
            self._poll.register(self._pidfd, select.POLLIN)
        except ProcessLookupError:
            self._is_dead = True
        except (AttributeError, OSError):
            pass  # The pipe alone has to tell.
        if os.getppid() != pid:
            self._is_dead = True  # It died before, and its number may be another process's by now.

    def next_task(self, wait_s: float = IDLE_S) -> RunWanted | Recording | None:
        """Wait for something to do; ``None`` where nothing comes."""
        self.last_word = None
        while isinstance(word := self._next_word(wait_s, waits_in_silence=False), Ended):
            pass  # the last word of the recording before, whose spool has said it, too
        return word

    def is_recording(self, wait_s: float) -> bool:
        """See `lrtape.shipper.Writer`."""
        if self.last_word is None:
            self._listen_for(wait_s)
        return self.last_word is None and not self._is_dead

    def is_alive(self) -> bool:
        """See `lrtape.shipper.Writer`."""
        self._listen_for(0.0)
        return not self._is_dead

    @property
    def is_gone(self) -> bool:
        """Whether it is dead, or has let go of this process; to be asked when there was no task."""
        return self._is_dead or self._is_silent

    def _listen_for(self, wait_s: float) -> None:
        word = self._next_word(wait_s, waits_in_silence=True)
        if isinstance(word, Ended):
            self.last_word = word.end

    def _next_word(self, wait_s: float, waits_in_silence: bool) -> Word | None:
        deadline = time.monotonic() + wait_s
        while not (line := self._line()) and not self._is_dead and (waits_in_silence or not self._is_silent):
            events = dict(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if _STDIN in events:
                self._listen()
            if self._pidfd in events:
                self._is_dead = True
            if os.getppid() != self._pid:
                self._is_dead = True  # A forked child of it may still hold the pipe.
            if not events:
                break
        if not line and self._is_dead:
            self._listen_to_the_end()
            line = self._line()
        return decode_word(line) if line else None

    def _listen_to_the_end(self) -> None:
        """What it has said before it died; a forked child of it may still hold the pipe, and says nothing."""
        os.set_blocking(_STDIN, False)
        with contextlib.suppress(BlockingIOError):
            while not self._is_silent:
                self._listen()

    def _line(self) -> bytes:
        line, end, rest = self._unread.partition(b"\n")
        if not end:
            return b""
        self._unread = rest
        return line

    def _listen(self) -> None:
        data = os.read(_STDIN, 1 << 16)
        self._unread += data
        if not data:
            self._poll.unregister(_STDIN)  # Nothing more comes.
            self._is_silent = True
            if self._pidfd < 0:
                self._is_dead = True
