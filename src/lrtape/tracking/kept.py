"""What a training has kept in its spool's folder for its run: handed over by whoever ships the spool."""

import logging
from pathlib import Path

import msgspec

from lrtape.errors import TrackingError
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.refusals import explain
from lrtape.tracking.run_spec import read_spec
from lrtape.tracking.sink import RefusedError

_log = logging.getLogger(__name__)


def upload_artifacts(folder: SpoolFolder, run: MlflowRun) -> None:
    """Upload the artifacts that are kept so far, each once: it may be called while others are being kept.

    Raises:
        Exception: whatever the store of artifacts raises, which may be any.
    """
    for path in sorted(folder.artifacts.rglob("*")):
        if path.is_file():
            number = path.stat().st_ino
            its_folder = path.parent.relative_to(folder.artifacts)
            run.upload(path, None if its_folder == Path() else its_folder.as_posix())
            if path.stat().st_ino == number:  # else it was replaced meanwhile
                path.unlink()


def note_datasets(folder: SpoolFolder, run: MlflowRun) -> None:
    """Note what the training trains on, if that is known; once more changes nothing.

    Raises:
        TrackingError: the store does not answer, or refuses.
    """
    if not folder.run_spec.exists():
        return
    try:
        datasets = read_spec(folder).datasets
    except (OSError, msgspec.DecodeError) as error:  # The power has failed, say; the run is there.
        _log.warning("cannot read what the data are: %s", error)
    else:
        run.put_datasets(datasets)


def end_unrecorded(folder: SpoolFolder, run: MlflowRun, recording_id: str) -> str:
    """End a run whose training has died before its first step, and hand over what was kept for it.

    Returns:
        What the store refuses for good; mostly nothing.

    Raises:
        TrackingError: the store does not answer, or refuses that; or an artifact could not be uploaded.
    """
    refused = ""
    try:
        note_datasets(folder, run)
    except RefusedError as error:
        refused = f"What the data are could not be noted ({error})."
    run.settle(Status.KILLED, recording_id, folder.load_tags())
    try:
        upload_artifacts(folder, run)
    except Exception as error:
        why = explain(run.tracking_uri, error)
        raise TrackingError(f"what belongs to run {run.run_id} could not be uploaded ({why})") from error
    return refused
