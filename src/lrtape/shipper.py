"""The shipper: reads a spool while it grows and sends its points to a sink, outside the training process.

`ship` does the work. ``python -m lrtape.shipper FOLDER`` runs it as the companion process of an `Outbox`.
The spool itself says when to stop: its last frame is an `End`, or its writer is dead.
"""

import dataclasses
import json
import logging
import os
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lrtape.errors import TrackingError
from lrtape.progress import SPOOL, Progress, only_shipper
from lrtape.spool import SpoolReader
from lrtape.tape import Point
from lrtape.tracking.sink import RefusedError, Sink
from lrtape.tracking.uri import mask_credentials

BATCH_POINTS = 1000
POLL_S = 0.5
"""How long a new row may wait for company: a request costs ten times a row."""
RETRY_FIRST_S = 0.5
RETRY_CAP_S = 30.0
GIVE_UP_S = 600.0
"""How long to go on trying after the training has ended; the spool stays for ``lrtape recover``."""

_log = logging.getLogger("lrtape.shipper")


def ship(folder: Path, sink: Sink, writer_lives: Callable[[float], bool], give_up_s: float = GIVE_UP_S) -> SpoolReader:
    """Send every point of the spool in `folder`, in order, until the spool has ended and all of it is stored.

    Starts behind what `Progress` says is stored already. Stops early when the sink refuses, or when it has failed for
    `give_up_s` after the writer was gone; `Progress` then tells why.

    Args:
        folder: holds the spool and the progress.
        sink: takes about `BATCH_POINTS` points at a time, more only where a single step has more groups than that.
        writer_lives: waits for so many seconds, less if the writer dies meanwhile, and says whether it lives.
        give_up_s: seconds.

    Returns:
        The reader, behind the last frame that was sent; its `end` is ``None`` if the writer died without a word.

    Raises:
        SpoolError: there is no readable spool in `folder`.
    """
    progress = Progress.load(folder)
    lives = True
    with SpoolReader(folder / SPOOL) as reader:
        reader.skip_to(progress.offset)
        while True:
            batch = reader.batch(BATCH_POINTS)
            if batch.points:
                try:
                    _send(batch.points, sink, writer_lives, give_up_s, folder, progress)
                except TrackingError as error:
                    refused = isinstance(error, RefusedError)
                    dataclasses.replace(progress, error=str(error), refused=refused).save(folder)
                    return reader
            if batch.offset > progress.offset:
                progress = Progress(batch.offset, progress.points + len(batch.points))
                progress.save(folder)
            if not batch.points and (reader.end is not None or not lives):
                return reader
            if len(batch.points) < BATCH_POINTS and reader.end is None and lives:
                lives = writer_lives(POLL_S)


def _send(
    points: list[Point],
    sink: Sink,
    writer_lives: Callable[[float], bool],
    give_up_s: float,
    folder: Path,
    progress: Progress,
) -> None:
    """Send until it works, with growing pauses.

    Raises:
        TrackingError: the sink refuses, or patience is over.
    """
    pause_s = RETRY_FIRST_S
    give_up_at: float | None = None
    while True:
        try:
            sink.send(points)
        except RefusedError:
            raise
        except Exception as error:
            text = mask_credentials(f"{type(error).__name__}: {error}")
            _log.warning("cannot send %d points, trying again: %s", len(points), text)
            dataclasses.replace(progress, error=text).save(folder)
            if give_up_at is None and not writer_lives(0):
                give_up_at = time.monotonic() + give_up_s
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise TrackingError(text) from error
            jittered_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
            if not writer_lives(jittered_s):
                time.sleep(jittered_s)
            pause_s = min(2 * pause_s, RETRY_CAP_S)
        else:
            return


class _Parent:
    """The process that started this one: exactly by a pidfd where there is one, else by the pipe it holds open."""

    def __init__(self, pid: int) -> None:
        self._poll = select.poll()
        self._gone = False
        try:
            self._poll.register(os.pidfd_open(pid), select.POLLIN)
        except ProcessLookupError:
            self._gone = True
        except (AttributeError, OSError):
            self._poll.register(sys.stdin.fileno(), select.POLLHUP)
        if os.getppid() != pid:
            self._gone = True  # It died before, and the number may belong to another process by now.

    def lives(self, wait_s: float) -> bool:
        """Wait for `wait_s`, less if the parent dies meanwhile, and say whether it lives."""
        self._gone = self._gone or bool(self._poll.poll(wait_s * 1000))
        return not self._gone


def main() -> None:
    """The companion process: ship, and if the trainer died, end its run and clear up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    folder = Path(sys.argv[1])
    settings = json.loads(sys.stdin.readline())
    parent = _Parent(settings["writer_pid"])
    with SpoolReader(folder / SPOOL) as reader:
        run_id = reader.header.run_id

    # Late, and only in this process: mlflow takes seconds to import.
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.mlflow_sink import MlflowSink

    with only_shipper(folder):
        reader = ship(folder, MlflowSink(settings["tracking_uri"], run_id), parent.lives)
        if not parent.lives(0) and not Progress.load(folder).error:
            MlflowRun(settings["tracking_uri"], run_id).settle(reader.end)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
