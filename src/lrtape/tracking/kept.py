"""What a training has kept in its spool's folder for its run: handed over by whoever ships the spool."""

import logging
from pathlib import Path

import msgspec

from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.run_spec import read_spec

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
