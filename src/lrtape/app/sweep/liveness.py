"""Whether somebody trains a trial now. A run that says RUNNING may be a dead one, and must not be trained twice."""

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.errors import SpoolError
from lrtape.recover import recover
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status, now_ms
from lrtape.tracking.tags import FOLDER, HOST, RECORDING, SLURM_JOB
from lrtape.trials import RUNNING, TrialRun

if TYPE_CHECKING:
    from lrtape.tracking.sweep_runs import SweepRuns

DIED = "its process died"
"""The error of a training that has left no other."""
LOOK_S = 1.0
"""Between two looks whether trainings of other processes are over."""
STARTING_S = 30.0
"""How long a training on this machine may take from its run to its spool."""
SILENT_S = 600.0
"""How long a training on another machine, or in another folder, may record nothing until it counts as dead."""


def whereabouts(folder: Path) -> dict[str, str]:
    """Tags of a run: where its process is, so that another one can tell whether it would see its spool.

    Args:
        folder: where spools are, absolute.
    """
    return {HOST: socket.gethostname(), FOLDER: str(folder)}


def is_sweep_alive(parent: TrialRun, folder: Path, store: "SweepRuns", backlog: Backlog) -> bool:
    """Whether the driver of a sweep goes on, or one that drives it elsewhere; to be asked by who holds its lock here.

    Args:
        parent: the sweep's run; see `SweepRuns.find_parent`.
        folder: where spools are, as all that follow: see `is_alive`.
        store: see there.
        backlog: see there.

    Raises:
        TrackingError: the store does not answer.
    """
    if parent.status != RUNNING:
        return False
    recording = _is_recording(parent, folder)
    if recording is not None:
        return recording
    if _is_of_here(parent, folder):
        return False
    return now_ms() - parent.start_ms < STARTING_S * 1000 or any(
        is_alive(run, folder, store, backlog) for run in store.children(parent.run_id)
    )


def is_alive(run: TrialRun, folder: Path, store: "SweepRuns", backlog: Backlog) -> bool:
    """Whether the training of a trial goes on.

    Exact where Slurm knows its job, and where its spool can be seen: on this machine, and on a shared disk. Else, as on
    another machine or in another folder, its last value decides.

    Args:
        run: of the trial.
        folder: where spools are, absolute.
        store: where the run is.
        backlog: knows the jobs of Slurm.

    Raises:
        TrackingError: the store does not answer.
    """
    if run.status != RUNNING:
        return False
    job = run.tags.get(SLURM_JOB)
    is_over = backlog.is_over(job) if job else None
    if is_over is not None:
        return not is_over
    recording = _is_recording(run, folder)
    if recording is not None:
        return recording
    if _is_of_here(run, folder):
        return now_ms() - run.start_ms < STARTING_S * 1000
    return now_ms() - max(run.start_ms, store.last_row_ms(run.run_id)) < SILENT_S * 1000


def is_left_behind(run: TrialRun, folder: Path) -> bool:
    """Whether a training on this machine is dead, and nobody ships what it has left. Asks no store, and no Slurm."""
    spool = find_folder(run, folder)
    if spool is None or not _is_of_here(run, folder):
        return False
    with contextlib.suppress(OSError):
        return not spool.is_recording() and not spool.is_claimed()
    return False


def bury(run: TrialRun, folder: Path, store: "SweepRuns") -> None:
    """Ship what a dead training has left, and set its run to KILLED, unless it was over.

    Where its own shipper is still at it after a minute, the end of the run is left to that.

    Raises:
        TrackingError: the store does not answer.
    """
    spool = find_folder(run, folder)
    if spool is not None:
        for _ in recover(spool.path, store.tracking_uri):
            pass
        if spool.path.exists() and spool.is_claimed():
            return
    store.end(run.run_id, Status.KILLED, DIED)


def _is_recording(run: TrialRun, folder: Path) -> bool | None:
    """Whether a process writes the spool of a run; ``None`` where there is none, or not where it can be seen."""
    spool = find_folder(run, folder)
    if spool is not None:
        with contextlib.suppress(OSError):
            return spool.is_recording()
    return None


def _is_of_here(run: TrialRun, folder: Path) -> bool:
    """Whether the spool of a run would be seen, if there were one."""
    return whereabouts(folder).items() <= run.tags.items()


def find_folder(run: TrialRun, folder: Path) -> SpoolFolder | None:
    """The spool of a run that is not shipped yet, or is still written; or its folder, where nothing is recorded yet."""
    for unrecorded in SpoolFolder.find_unrecorded(folder):
        if unrecorded.recording_id == run.tags.get(RECORDING):
            return unrecorded
    for spool in SpoolFolder.find(folder):
        with contextlib.suppress(OSError, SpoolError), SpoolReader(spool.spool) as reader:
            if reader.header.run_id == run.run_id and not spool.load_progress().complete:
                return spool
    return None
