"""Ships what a training left behind whose shipper could not: ``lrtape recover``."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lrtape.errors import ConfigError, LRTapeError, SpoolError
from lrtape.shipper import DeadWriter
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.uri import MASK, resolve_tracking_uri

GIVE_UP_S = 10.0
"""How long to go on trying: here a person waits."""
WAIT_S = 60.0
"""How long to wait for another process that ships the same."""
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of one spool.

    Attributes:
        folder: of the spool; it is gone if everything has arrived.
        points: how many values the store has now.
        problem: what is wrong with what is stored, or why something is still missing; mostly nothing.
        is_complete: whether nothing is left to be done.
    """

    folder: Path
    points: int
    problem: str = ""
    is_complete: bool = False


def recover(root: Path, tracking_uri: str | None = None) -> Iterator[Recovery]:
    """Ship every spool in `root` whose training is over, set the true status of its run, and remove the spool.

    So are runs ended whose training has died before its first step. A spool whose training still runs is left alone.
    One that another process ships now is left to that, and waited for.

    Args:
        root: ``.lrtape``, or the folder of one spool in it.
        tracking_uri: where the runs are; by default where the spool says, and where that hides a password,
            ``$MLFLOW_TRACKING_URI``.

    Yields:
        One result for each spool, when it is done.
    """
    for folder in SpoolFolder.find(root) + SpoolFolder.find_unrecorded(root):
        if folder.load_progress().complete:
            continue  # It is kept on purpose.
        try:
            yield _recover(folder, tracking_uri)
        except BlockingIOError:
            yield Recovery(folder.path, folder.load_progress().points, "another process ships it now")
        except (LRTapeError, OSError) as error:
            yield Recovery(folder.path, folder.load_progress().points, str(error))


def _recover(folder: SpoolFolder, tracking_uri: str | None) -> Recovery:
    progress = folder.load_progress()
    if folder.is_recording():
        return Recovery(folder.path, progress.points, "its training still runs")
    if not folder.spool.exists():
        return _end_unrecorded(folder, tracking_uri)
    with SpoolReader(folder.spool) as reader:
        uri = resolve_tracking_uri(tracking_uri or _uri(reader.header.tracking_uri))

    from lrtape.delivery import deliver  # late: mlflow takes seconds to import, and often there is nothing to do

    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with folder.claim():
                delivery = deliver(folder, uri, DeadWriter(), GIVE_UP_S)
            return Recovery(folder.path, delivery.points, delivery.problem, delivery.is_complete)
        except FileNotFoundError:
            if folder.spool.exists():
                raise
            return Recovery(folder.path, progress.points, is_complete=True)  # The other one is done with it.
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            # The training's own shipper may be in a long pause: it shall try once more, or leave it to this process.
            progress = folder.load_progress()
            folder.nudge()
            time.sleep(LOOK_S)


def _end_unrecorded(folder: SpoolFolder, tracking_uri: str | None) -> Recovery:
    from lrtape.tracking.kept import end_unrecorded  # late, as above
    from lrtape.tracking.realize import find_created
    from lrtape.tracking.run_spec import read_spec

    problem = ""
    try:
        spec = read_spec(folder)
        uri = resolve_tracking_uri(tracking_uri or _uri(spec.tracking_uri))
        with folder.claim():
            run = find_created(spec, uri)
            if run is not None:
                problem = end_unrecorded(folder, run, spec.recording_id)
            folder.remove()
    except msgspec.DecodeError as error:
        raise SpoolError(
            f"{folder.run_spec} must say which run is to be ended, but is damaged ({error}). Nothing was recorded: end "
            "the run by hand, and delete the folder."
        ) from error
    except FileNotFoundError:
        if folder.run_spec.exists():
            raise
        folder.remove()  # The other one is done with it, but for the lock that this one has made.
    return Recovery(folder.path, 0, problem, is_complete=True)


def _uri(masked: str) -> str | None:
    if MASK not in masked:
        return masked
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError(
            f"`$MLFLOW_TRACKING_URI` must be the URI of {masked}, whose password the spool hides, but is "
            "not set. Set it, or use --tracking-uri for a store that needs none."
        )
    return uri
