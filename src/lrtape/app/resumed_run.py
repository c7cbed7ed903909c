"""The run of a resumed training: opened again when all is stored that the dead one left, and never written twice."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lrtape.app.config import TrackingSettings
from lrtape.errors import ConfigError, SpoolError
from lrtape.recover import recover
from lrtape.replay import Overlap
from lrtape.spool import Header, SpoolReader, read_spool
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.no_run import NoRun
from lrtape.tracking.planned_run import PLANNED_ID

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.planned_run import PlannedRun


def reopen_run(settings: TrackingSettings, run_id: str) -> "MlflowRun":
    """Ship what earlier trainings of a run have left in the tracking folder, and set it RUNNING again.

    Args:
        settings: where the run and its spools are.
        run_id: as its checkpoint has it: a run that was planned has another id when it exists.

    Raises:
        ConfigError: a training of this run is alive.
        TrackingError: the run is missing, or the store does not answer.
    """
    from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import
    from lrtape.tracking.realize import find_realized

    uri = settings.uri or ""  # it is resolved
    for folder in _spools(settings, run_id):
        if folder.is_recording():
            raise ConfigError(
                f"a training must be over before it is resumed, but one of run {run_id} still records into "
                f"{folder.path}. Stop that one first."
            )
        _ship(folder, uri)
    return MlflowRun.reopen(find_realized(run_id, settings.experiment, uri), uri)


def find_overlap(
    settings: TrackingSettings,
    run: "MlflowRun | PlannedRun | NoRun",
    run_id: str,
    first_step: int,
    owed_lrs: Mapping[str, float],
) -> Overlap:
    """What a run has already from `first_step` on: in its store, and in spools that cannot be shipped now.

    Takes one request where there is nothing, else 40 us for each row of the keys that are concerned.

    Args:
        settings: where the spools are.
        run: as `reopen_run` has opened it, or a new one.
        run_id: as the checkpoint has it; empty where nothing was tracked.
        first_step: index of the step to go on with.
        owed_lrs: see `Overlap`.

    Raises:
        TrackingError: the store does not answer.
    """
    if isinstance(run, NoRun) or not run_id:
        return Overlap(owed_lrs=owed_lrs)

    from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

    assert isinstance(run, MlflowRun)  # noqa: S101 - a run that has an id already was not planned now
    points = run.points_from(first_step)
    for folder in _spools(settings, run_id):
        with contextlib.suppress(OSError, SpoolError):
            points += read_spool(folder.spool).points()
    return Overlap((point for point in points if point.step >= first_step), owed_lrs)


def _spools(settings: TrackingSettings, run_id: str) -> list[SpoolFolder]:
    """The spools of a run, but for those that are kept although everything has arrived."""
    found = []
    for folder in SpoolFolder.find(Path(settings.folder)):
        with contextlib.suppress(OSError, SpoolError), SpoolReader(folder.spool) as reader:
            if run_id in _run_ids(reader.header) and not folder.load_progress().complete:
                found.append(folder)
    return found


def _run_ids(header: Header) -> set[str]:
    return {header.run_id} if header.run_id else {PLANNED_ID + header.recording_id}


def _ship(folder: SpoolFolder, uri: str) -> None:
    """Ship what a dead training left, or see its own shipper do it: the resumed one must find all in the store."""
    for recovery in recover(folder.path, uri):
        if recovery.problem:
            print(f"lrtape: {recovery.folder}: {recovery.problem}", file=sys.stderr)  # noqa: T201
