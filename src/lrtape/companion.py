"""``python -m lrtape.companion FOLDER``: the shipper process that an `Outbox` starts beside the training process.

It outlives Ctrl-C and the training process. When that has died without a word, it sets the run's true status.
"""

import json
import logging
import os
import select
import signal
import sys
from pathlib import Path

from lrtape.shipper import settle, ship
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink


class ParentProcess:
    """The writer of the spool: watched by a pidfd where there is one, else by the pipe on stdin that it holds open."""

    def __init__(self, pid: int) -> None:
        self._poll = select.poll()
        self._dead = False
        try:
            self._poll.register(os.pidfd_open(pid), select.POLLIN)
        except ProcessLookupError:
            self._dead = True
        except (AttributeError, OSError):
            self._poll.register(sys.stdin.fileno(), select.POLLHUP)
        if os.getppid() != pid:
            self._dead = True  # It died before, and its number may be another process's by now.

    def is_alive(self, wait_s: float) -> bool:
        """See `lrtape.shipper.Writer`."""
        self._dead = self._dead or bool(self._poll.poll(wait_s * 1000))
        return not self._dead


NICENESS = 10
"""The training goes first: under contention this process gets about a tenth of what the trainer gets."""


def main() -> None:
    """Ship; and if the training process is dead by then, end its run and clear up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    folder = SpoolFolder(Path(sys.argv[1]))
    settings = json.loads(sys.stdin.readline())
    parent = ParentProcess(settings["writer_pid"])
    uri = settings["tracking_uri"]
    with SpoolReader(folder.spool) as reader:
        header = reader.header
    with folder.claim():
        shipped = ship(folder, MlflowSink(uri, header.run_id), parent)
        if shipped.error:
            return
        if not parent.is_alive(0):
            settle(MlflowRun(uri, header.run_id), header, shipped)
        if not parent.is_alive(0) or folder.is_abandoned():
            folder.remove()


if __name__ == "__main__":
    main()
