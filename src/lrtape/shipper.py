"""`ship`: reads a spool while it grows, and sends its points to a sink. Runs outside the training process."""

import dataclasses
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lrtape.errors import TrackingError
from lrtape.spool import Header, SpoolReader
from lrtape.spool_folder import Progress, SpoolFolder
from lrtape.tape import Point, Status
from lrtape.tracking.sink import RefusedError, Sink
from lrtape.tracking.uri import mask_credentials

BATCH_POINTS = 1000
POLL_S = 0.5
"""How long a new row may wait for company: a request costs ten times a row."""
RETRY_FIRST_S = 0.5
RETRY_CAP_S = 30.0
GIVE_UP_S = 600.0
"""How long to go on trying after the training process has ended; the spool stays for ``lrtape recover``."""

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """The process that writes a spool, as its shipper sees it."""

    def is_alive(self, wait_s: float) -> bool:
        """Wait for `wait_s` seconds, less if the writer dies meanwhile, and say whether it is alive."""


class DeadWriter:
    """A writer that is known to be dead."""

    def is_alive(self, wait_s: float) -> bool:  # noqa: ARG002
        """See `Writer.is_alive`."""
        return False


@dataclass(frozen=True, slots=True)
class Shipped:
    """What `ship` has done.

    Attributes:
        points: how many points of the spool are stored, those of earlier shippers included.
        end: how the training ended; ``None`` if it died without a word.
        error: why the rest is not stored; empty if all of it is.
    """

    points: int
    end: Status | None
    error: str = ""


def ship(folder: SpoolFolder, sink: Sink, writer: Writer, give_up_s: float = GIVE_UP_S) -> Shipped:
    """Send every point of a spool, in order, until the spool has ended and all of it is stored.

    Starts behind what the folder's `Progress` says is stored already, and keeps it up to date. The spool itself says
    when to stop: its last frame is an ``End``, or its writer is dead. Stops early when the sink refuses, or when it has
    failed for `give_up_s` after the writer's death.

    Args:
        folder: holds the spool.
        sink: takes about `BATCH_POINTS` points at a time, more only where a single step has more groups than that.
        writer: of the spool.
        give_up_s: seconds.

    Raises:
        SpoolError: there is no readable spool in `folder`.
    """
    progress = folder.load_progress()
    alive = True
    with SpoolReader(folder.spool) as reader:
        reader.skip_to(progress.offset)
        while True:
            batch = reader.batch(BATCH_POINTS)
            if batch.points:
                try:
                    _send(batch.points, sink, writer, give_up_s, folder, progress)
                except TrackingError as error:
                    refused = isinstance(error, RefusedError)
                    folder.save_progress(dataclasses.replace(progress, error=str(error), refused=refused))
                    return Shipped(progress.points, reader.end, str(error))
            if batch.offset > progress.offset:
                progress = Progress(batch.offset, progress.points + len(batch.points))
                folder.save_progress(progress)
            if not batch.points and reader.end is None and reader.is_damaged():
                damage = f"{folder.spool} is damaged: what is behind its byte {reader.offset} cannot be read"
                folder.save_progress(dataclasses.replace(progress, error=damage, refused=True))
                return Shipped(progress.points, None, damage)
            if not batch.points and (reader.end is not None or not alive):
                return Shipped(progress.points, reader.end)
            if len(batch.points) < BATCH_POINTS and reader.end is None and alive:
                alive = writer.is_alive(POLL_S)


class EndableRun(Protocol):
    """A run whose status may still be RUNNING."""

    def settle(self, status: Status) -> None:
        """Set the status, unless somebody has set one already."""


def settle(run: EndableRun, header: Header, shipped: Shipped) -> None:
    """Give the run of a dead training its true status.

    A run that the training had only joined, and whose recording was ended in good order, is somebody else's to end.
    """
    if shipped.end is None:
        run.settle(Status.KILLED)
    elif header.owns_run:
        run.settle(shipped.end)


def _send(
    points: Sequence[Point], sink: Sink, writer: Writer, give_up_s: float, folder: SpoolFolder, progress: Progress
) -> None:
    """Send until it works, with growing pauses; the folder's progress tells what is wrong meanwhile.

    Raises:
        RefusedError: the sink refuses.
        TrackingError: patience is over.
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
            folder.save_progress(dataclasses.replace(progress, error=text))
            if give_up_at is None and not writer.is_alive(0):
                give_up_at = time.monotonic() + give_up_s
            if give_up_at is not None and time.monotonic() > give_up_at:
                raise TrackingError(text) from error
            jittered_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
            if not writer.is_alive(jittered_s):
                time.sleep(jittered_s)
            pause_s = min(2 * pause_s, RETRY_CAP_S)
        else:
            return
