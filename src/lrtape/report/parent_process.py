"""The process that drives a sweep, as its companion sees it."""

import contextlib
import os
import select
import time

_LOOK_S = 1.0


class ParentProcess:
    """The process that drives a sweep, and has started this one.

    Args:
        pid: of that process; ``None`` where a person has started this one, and it has nobody to die with.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._pidfd = -1
        with contextlib.suppress(AttributeError, OSError):  # where there are none, the parent's number tells
            if pid is not None:
                self._pidfd = os.pidfd_open(pid)

    def is_dead(self, wait_s: float) -> bool:
        """Wait for so many seconds, or until it is dead, and say whether it is."""
        if self._pid is None:
            time.sleep(wait_s)
            return False
        deadline = time.monotonic() + wait_s
        while os.getppid() == self._pid:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if self._pidfd >= 0:
                poll = select.poll()
                poll.register(self._pidfd, select.POLLIN)
                poll.poll(left_s * 1000)
            else:
                time.sleep(min(left_s, _LOOK_S))
        return True
