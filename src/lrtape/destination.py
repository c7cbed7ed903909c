"""Where the records of a session go: a run, and the outbox that gets them there."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.agreement import COMPARE_EVERY_N_STEPS, Agreement, FollowingOutbox, LeadingOutbox, NoAgreement
from lrtape.columns import Columns
from lrtape.errors import ConfigError, LRTapeError
from lrtape.outbox import KeepingOutbox, NoOutbox, Outbox, PrintingOutbox, SpoolOutbox
from lrtape.ranks import these_ranks
from lrtape.recording_options import RecordingOptions
from lrtape.replay import Overlap, ReplayOutbox
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding, Status
from lrtape.tracking.no_run import NoRun
from lrtape.tracking.planned_run import PlannedRun

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import ActiveRun, MlflowRun

    Run = MlflowRun | PlannedRun | NoRun
    RunOrId = Run | ActiveRun | str | None


@dataclass(frozen=True, slots=True)
class Destination:
    """A run and an outbox.

    Attributes:
        run: what is recorded goes there.
        outbox: takes it.
        findings: what the outbox finds; it grows.
        agreement: with the other ranks.
    """

    run: "Run" = field(default_factory=NoRun)
    outbox: Outbox = field(default_factory=NoOutbox)
    findings: list[Finding] = field(default_factory=list)
    agreement: Agreement = field(default_factory=NoAgreement)


def open_destination(
    run: "RunOrId",
    print_every_n_steps: int | None,
    options: RecordingOptions,
    overlap: Overlap | None = None,
    columns: Columns | None = None,
    compare_ranks_every_n_steps: int | None = COMPARE_EVERY_N_STEPS,
) -> Destination:
    """Open the spool of a run, and start its shipper; on rank 0 alone, if there are several.

    Args:
        run: one that exists, or its id; ``None`` for nowhere.
        print_every_n_steps: see `lrtape.attach`.
        options: how the recording is kept, and what of it is stored.
        overlap: what the run has already of the steps that are recorded now; it is not written a second time.
        columns: keeps what is recorded in memory, too.
        compare_ranks_every_n_steps: see `lrtape.attach`.

    Raises:
        ConfigError: an interval is none, or nothing can be written in the folder.
        TrackingError: there is no such run, or the tracking store does not answer.
    """
    check_interval(print_every_n_steps)
    check_compared(compare_ranks_every_n_steps)
    ranks = these_ranks()
    joined = join(run)
    outbox: Outbox = NoOutbox()
    if not isinstance(joined, NoRun):
        try:
            outbox = _open_spool(joined, options)
        except LRTapeError:
            if not isinstance(joined, PlannedRun):  # Its block knows the error, too.
                joined.finish(Status.FAILED)
            raise
    findings: list[Finding] = []
    if overlap is not None:
        outbox = replay = ReplayOutbox(outbox, overlap)
        findings = replay.findings
    if print_every_n_steps is not None and ranks.records:
        outbox = PrintingOutbox(outbox, print_every_n_steps)
    if columns is not None:
        outbox = KeepingOutbox(outbox, columns)
    if not ranks.records:
        follower = FollowingOutbox(outbox, ranks.rank, compare_ranks_every_n_steps)
        return Destination(joined, follower, findings, follower)
    if ranks.n_ranks > 1:
        leader = LeadingOutbox(outbox, joined.run_id, findings, compare_ranks_every_n_steps)
        return Destination(joined, leader, findings, leader)
    return Destination(joined, outbox, findings)


def join(run: "RunOrId") -> "Run":
    """The run that is meant; none where another rank records.

    Args:
        run: see `open_destination`.

    Raises:
        TrackingError: there is no such run, or the tracking store does not answer.
    """
    if run is None or isinstance(run, NoRun) or not these_ranks().records:
        return NoRun()

    if isinstance(run, PlannedRun):
        return run

    from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

    if isinstance(run, MlflowRun):
        return run
    return MlflowRun.join(run if isinstance(run, str) else run.info.run_id)


def _open_spool(run: "MlflowRun | PlannedRun", options: RecordingOptions) -> SpoolOutbox:
    if isinstance(run, PlannedRun):
        run_id = run.run_id if run.is_created else ""
        outbox = SpoolOutbox(run.folder, run_id, True, run.tracking_uri, options, run)
        run.is_recorded = True
        return outbox
    folder = SpoolFolder.create(Path(options.folder), run.run_id)
    try:
        run.begin_recording(folder.recording_id, options.record)
        outbox = SpoolOutbox(folder, run.run_id, run.is_owned, run.tracking_uri, options)
    except LRTapeError:
        folder.remove()
        raise
    run.folder = folder
    return outbox


def check_interval(print_every_n_steps: int | None) -> None:
    """Refuse what is no interval.

    Raises:
        ConfigError: it is less than 1.
    """
    if print_every_n_steps is not None and print_every_n_steps < 1:
        raise ConfigError(f"`print_every_n_steps` must be at least 1, but is {print_every_n_steps} instead.")


def check_compared(compare_ranks_every_n_steps: int | None) -> None:
    """Refuse what is no interval.

    Raises:
        ConfigError: it is less than 1.
    """
    if compare_ranks_every_n_steps is not None and compare_ranks_every_n_steps < 1:
        raise ConfigError(
            f"`compare_ranks_every_n_steps` must be at least 1, but is {compare_ranks_every_n_steps} instead. `None` "
            "is for never."
        )


def check_folder(folder: str | Path) -> None:
    """Refuse a folder in which no spool can be made, without making it.

    Raises:
        ConfigError: what is there of it is no folder, or nothing can be written there.
    """
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"`folder` must be a place where lrtape can write, but is {str(folder)!r} instead, and {there} cannot be "
            "written to, or is no folder."
        )
