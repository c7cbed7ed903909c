"""Ships what a training left behind whose shipper could not: ``lrtape recover``."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lrtape.errors import LRTapeError
from lrtape.progress import SPOOL, Progress, is_recording, only_shipper
from lrtape.shipper import ship
from lrtape.spool import SpoolReader
from lrtape.tracking.uri import MASK, resolve_tracking_uri

GIVE_UP_S = 10.0
"""How long to go on trying: here a person waits."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one spool.

    Attributes:
        folder: of the spool; it is gone if everything has arrived.
        points: how many values the store has now.
        problem: why something is still missing, or an empty text.
    """

    folder: Path
    points: int
    problem: str


def recover(folder: Path, tracking_uri: str | None = None) -> Iterator[Recovered]:
    """Ship every spool in `folder` whose training is over, set the true status of its run, and remove the spool.

    A spool whose training still runs, or that another process ships now, is left alone.

    Args:
        folder: ``.lrtape``, or the folder of one spool in it.
        tracking_uri: where the runs are; by default where the spool says. A store that needs a password is given by
            ``$MLFLOW_TRACKING_URI``, for no spool holds one.

    Yields:
        One result for each spool, when it is done.
    """
    folders = [folder] if (folder / SPOOL).exists() else sorted(path.parent for path in folder.glob(f"*/{SPOOL}"))
    for one in folders:
        try:
            yield _recover(one, tracking_uri)
        except BlockingIOError:
            yield Recovered(one, Progress.load(one).points, "another process ships it now")
        except (LRTapeError, OSError) as error:
            yield Recovered(one, Progress.load(one).points, str(error))


def _recover(folder: Path, tracking_uri: str | None) -> Recovered:
    if is_recording(folder):
        return Recovered(folder, Progress.load(folder).points, "its training still runs")
    with SpoolReader(folder / SPOOL) as reader:
        header = reader.header
    uri = resolve_tracking_uri(tracking_uri or (None if MASK in header.tracking_uri else header.tracking_uri))

    # Late: mlflow takes seconds to import, and often there is nothing to do.
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.mlflow_sink import MlflowSink

    with only_shipper(folder):
        run = MlflowRun.open(uri, header.run_id)
        reader = ship(folder, MlflowSink(uri, header.run_id), writer_lives=lambda _: False, give_up_s=GIVE_UP_S)
        progress = Progress.load(folder)
        if progress.error:
            return Recovered(folder, progress.points, progress.error)
        run.settle(reader.end)
        shutil.rmtree(folder)
        return Recovered(folder, progress.points, "")
