"""`ship`: reads a spool while it grows, and sends its points to a sink. Runs outside the training process."""

import contextlib
import dataclasses
import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from lrtape.errors import TrackingError
from lrtape.selection import Batch, Selection
from lrtape.spool import End, SpoolReader
from lrtape.spool_folder import Progress, SpoolFolder
from lrtape.tape import Point
from lrtape.tracking.sink import RefusedError, RefusedPointsError, Sink
from lrtape.tracking.uri import mask_credentials

BATCH_POINTS = 1000
POLL_S = 0.5
"""How long a new row may wait for company: a request costs ten times a row."""
RETRY_FIRST_S = 0.5
RETRY_CAP_S = 30.0
GIVE_UP_S = 600.0
"""How long to go on trying after the recording has ended; the spool stays for ``lrtape recover``."""

GC_THRESHOLD = (20_000, 20, 20)
"""A store makes some thousand objects of every batch, and drops them with it. Python (3.11) looks at all of them
whenever there are 700 more, which is a fifth of the time that storing takes."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Writer(Protocol):
    """The process that writes a spool, as its shipper sees it."""

    def is_recording(self, wait_s: float) -> bool:
        """Wait for `wait_s` seconds, less if the recording ends meanwhile, and say whether it goes on.

        It ends when the writer says so, and when it dies.
        """

    def is_alive(self) -> bool:
        """Whether the process is alive, recording or not."""

    @property
    def last_word(self) -> End | None:
        """How the recording ended, if the writer has said it; for a spool that could not be written to its end."""


class DeadWriter:
    """A writer that is known to be dead."""

    last_word: End | None = None

    def is_recording(self, wait_s: float) -> bool:  # noqa: ARG002
        """See `Writer.is_recording`."""
        return False

    def is_alive(self) -> bool:
        """See `Writer.is_alive`."""
        return False


@dataclass(frozen=True, slots=True)
class Shipped:
    """What `ship` has done.

    Attributes:
        points: how many points of the spool are stored, those of earlier shippers included.
        end: how the recording ended; ``None`` if its writer died without a word.
        error: why the rest is not stored; empty if all of it is, but for `refused`.
        refused: keys whose values were refused by this call, each with how many, and why.
    """

    points: int
    end: End | None
    error: str = ""
    refused: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class Patience:
    """Does things until they work, with growing pauses.

    As long as the recording goes on, there is always time: even what is refused may be mended by somebody.

    Args:
        folder: of the spool; whoever nudges it wants the last try at once.
        writer: of the spool.
        give_up_s: how long to go on after the recording has ended, in seconds.
    """

    def __init__(self, folder: SpoolFolder, writer: Writer, give_up_s: float) -> None:
        self._folder = folder
        self._writer = writer
        self._give_up_s = give_up_s

    def until_done(self, act: Callable[[], T], failing: Callable[[Exception], None]) -> T:
        """Do one thing, perhaps several times.

        Args:
            act: what to do.
            failing: told about every failure.

        Returns:
            What `act` returns.

        Raises:
            RefusedError: it is refused, and the recording has ended.
            TrackingError: patience is over.
        """
        pause_s = RETRY_FIRST_S
        give_up_at: float | None = None
        while True:
            try:
                return act()
            except Exception as error:
                _log.warning("trying again: %s: %s", type(error).__name__, mask_credentials(str(error)))
                failing(error)
                jittered_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
                pause_s = min(2 * pause_s, RETRY_CAP_S)
                if give_up_at is not None:
                    if isinstance(error, RefusedError):
                        raise
                    if time.monotonic() >= give_up_at:
                        raise TrackingError(mask_credentials(f"{type(error).__name__}: {error}")) from error
                    if self._was_nudged_within(jittered_s):
                        give_up_at = time.monotonic()  # Somebody waits for this, and may know better: one last try.
                elif not self._writer.is_recording(jittered_s):
                    # The last pause may have been a long one: now somebody waits, so once more at once.
                    give_up_at = time.monotonic() + self._give_up_s
                    pause_s = RETRY_FIRST_S

    def _was_nudged_within(self, pause_s: float) -> bool:
        end = time.monotonic() + pause_s
        while (left_s := end - time.monotonic()) > 0:
            if self._folder.was_nudged():
                return True
            time.sleep(min(POLL_S, left_s))
        return False


def ship(
    folder: SpoolFolder,
    sink: Sink,
    writer: Writer,
    give_up_s: float = GIVE_UP_S,
    meanwhile: Callable[[], object] = lambda: None,
) -> Shipped:
    """Send every point of a spool that the store gets, in order, until the spool has ended and all of it is stored.

    Starts behind what the folder's `Progress` says is stored already, and keeps it up to date. The spool itself says
    when to stop: its last frame is an ``End``, or its writer is dead. Stops early when the recording has ended and the
    sink refuses, or has failed for `give_up_s` since. Where a sink refuses the values of one key alone, those of the
    others are sent, and the key is noted in the progress.

    Args:
        folder: holds the spool.
        sink: takes up to `BATCH_POINTS` points at a time, more only where a single step has more groups than that.
        writer: of the spool.
        give_up_s: seconds.
        meanwhile: called between two batches as long as the recording goes on; it shall not take long, nor raise.

    Raises:
        SpoolError: there is no readable spool in `folder`.
    """
    patience = Patience(folder, writer, give_up_s)
    progress = folder.load_progress()
    all_refused: dict[str, tuple[int, str]] = {}
    recording = True
    with _collecting_rarely(), SpoolReader(folder.spool) as reader:
        selection = Selection(reader)
        selection.skip_to(progress.offset)
        while True:
            batch = selection.batch(BATCH_POINTS)
            is_rest = not batch.points and not recording and reader.end is None and not progress.rest_sent
            if is_rest:
                batch = Batch(selection.rest(), batch.offset, False)
            if batch.points:
                failing = _Failing(folder, progress)
                try:
                    refused = patience.until_done(lambda: send_by_key(batch.points, sink), failing)  # noqa: B023
                except TrackingError as error:
                    failing(error)
                    return Shipped(progress.points, reader.end or writer.last_word, failing.text)
                progress = _after(progress, len(batch.points), refused)
                progress = dataclasses.replace(progress, rest_sent=progress.rest_sent or is_rest)
                for key, (n_points, text) in refused.items():
                    all_refused[key] = (all_refused.get(key, (0, ""))[0] + n_points, text)
            if batch.points or batch.offset > progress.offset:
                progress = dataclasses.replace(progress, offset=batch.offset)
                folder.save_progress(progress)
            if not batch.points and not recording and reader.end is None and reader.is_damaged():
                damage = f"{folder.spool} is damaged: what is behind its byte {reader.offset} cannot be read"
                folder.save_progress(dataclasses.replace(progress, error=damage, refused=True))
                return Shipped(progress.points, None, damage)
            if not batch.points and (reader.end is not None or not recording):
                return Shipped(progress.points, reader.end or writer.last_word, refused=all_refused)
            if recording and reader.end is None:
                meanwhile()
                if not batch.is_full:
                    recording = writer.is_recording(POLL_S)


@contextlib.contextmanager
def _collecting_rarely() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Failing:
    """Tells through the folder's progress what is wrong, while it is."""

    def __init__(self, folder: SpoolFolder, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self.text = ""

    def __call__(self, error: Exception) -> None:
        name = "" if isinstance(error, TrackingError) else f"{type(error).__name__}: "
        self.text = mask_credentials(f"{name}{error}")
        refused = isinstance(error, RefusedError)
        self._folder.save_progress(dataclasses.replace(self._progress, error=self.text, refused=refused))


def _after(progress: Progress, n_sent: int, refused: dict[str, tuple[int, str]]) -> Progress:
    n_refused = sum(n_points for n_points, _ in refused.values())
    error = "; ".join(f"{key}: {text}" for key, (_, text) in refused.items())
    return dataclasses.replace(
        progress,
        points=progress.points + n_sent - n_refused,
        error=error or (progress.error if progress.refused_keys else ""),
        refused=False,
        refused_keys=tuple(dict.fromkeys([*progress.refused_keys, *refused])),
    )


def send_by_key(points: Sequence[Point], sink: Sink) -> dict[str, tuple[int, str]]:
    """Send points; where the sink refuses some of them, send those of each key alone.

    Returns:
        The keys that are refused, each with the number of its points and the reason.

    Raises:
        RefusedError: the sink takes nothing at all.
        TrackingError: the sink did not take them now.
    """
    try:
        sink.send(points)
    except RefusedPointsError:
        pass
    else:
        return {}
    by_key: dict[str, list[Point]] = {}
    for point in points:
        by_key.setdefault(point.key, []).append(point)
    refused = {}
    for key, its_points in by_key.items():
        try:
            sink.send(its_points)
        except RefusedPointsError as error:
            _log.warning("%d points of %s are refused: %s", len(its_points), key, error)
            refused[key] = (len(its_points), str(error))
    return refused
