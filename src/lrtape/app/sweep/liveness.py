"""Whether somebody trains a trial now. A run that says RUNNING may be a dead one, and must not be trained twice."""

import contextlib
import socket
import time
from pathlib import Path

from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.errors import SpoolError
from lrtape.recover import recover
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status, now_ms
from lrtape.tracking.sweep_runs import HOST, SLURM_JOB, SweepRuns
from lrtape.trials import RUNNING, TrialRun

STARTING_S = 30.0
"""How long a training on this machine may take from its run to its spool."""
SILENT_S = 600.0
"""How long a training on another machine may record nothing until it counts as dead."""


def is_alive(
    run_id: str, status: str, run: TrialRun | None, folder: Path, store: SweepRuns, backlog: Backlog | None = None
) -> bool:
    """Whether the training of a run goes on.

    Exact where the spool can be seen: on this machine, and on a shared disk; and where Slurm knows the job. Of another
    machine's, its last value decides.

    Args:
        run_id: of the run.
        status: of the run.
        run: where it is a trial's; ``None`` for a sweep's own.
        folder: where spools are.
        store: where the run is.
        backlog: knows the jobs of Slurm.

    Raises:
        TrackingError: the store does not answer.
    """
    if status != RUNNING:
        return False
    spool = find_spool(run_id, folder)
    if spool is not None:
        with contextlib.suppress(FileNotFoundError):
            return spool.is_recording()
    if run is None:
        return False
    job = run.tags.get(SLURM_JOB)
    is_over = backlog.is_over(job) if job and backlog else None
    if is_over is not None:
        return not is_over
    if run.tags.get(HOST, socket.gethostname()) == socket.gethostname():
        return now_ms() - run.start_ms < STARTING_S * 1000
    return now_ms() - max(run.start_ms, store.last_row_ms(run_id)) < SILENT_S * 1000


def bury(run_id: str, folder: Path, store: SweepRuns, error: str = "its process died") -> None:
    """Ship what a dead training has left, and set its run to KILLED.

    Raises:
        TrackingError: the store does not answer.
    """
    spool = find_spool(run_id, folder)
    if spool is not None:
        for recovery in recover(spool.path, store.tracking_uri):
            if recovery.is_complete:
                return
    store.end(run_id, Status.KILLED, error)


def find_spool(run_id: str, folder: Path) -> SpoolFolder | None:
    """The spool of a run that is not shipped yet, or is still written."""
    for spool in SpoolFolder.find(folder):
        with contextlib.suppress(OSError, SpoolError), SpoolReader(spool.spool) as reader:
            if reader.header.run_id == run_id and not spool.load_progress().complete:
                return spool
    return None


def wait_a_moment() -> None:
    """Until it is worth to look again."""
    time.sleep(1.0)
