"""What a tracking store has of a run, for the commands that read it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lrtape.errors import ConfigError
from lrtape.tape import Tape
from lrtape.tape_file import read_notes, read_tape
from lrtape.tracking.artifacts import PLAN_NAMES, TAPE_NAMES
from lrtape.tracking.history import History
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password, resolve_tracking_uri, sqlite_path


def open_history(run_id: str, tracking_uri: str | None) -> History:
    """The history of a run that is there.

    Args:
        run_id: of a run.
        tracking_uri: by default ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the current folder.

    Raises:
        ConfigError: the URI is malformed, carries a password on the command line, or names a file that is not there.
        TrackingError: there is no such run, or the store does not answer.
    """
    return History(run_id, resolve_store(tracking_uri))


def resolve_store(tracking_uri: str | None) -> str:
    """The absolute URI of a store that is there.

    Args:
        tracking_uri: by default ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the current folder.

    Raises:
        ConfigError: see `open_history`.
    """
    if tracking_uri is not None and has_password(tracking_uri):
        raise ConfigError(REFUSED_CREDENTIALS)
    uri = resolve_tracking_uri(tracking_uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():  # MLflow would make an empty one.
        raise ConfigError(
            f"the tracking store must be there, but there is no {database}. Name the right one with --tracking-uri."
        )
    return uri


def tapes_of(history: History) -> dict[str, Tape]:
    """The tapes among the artifacts of a run, by the names of their files.

    Raises:
        SpoolError: one of them cannot be read.
        TrackingError: the artifacts cannot be reached.
    """
    with downloaded(history) as paths:
        return {path.name: read_tape(path) for path in paths}


def plan_of(history: History) -> Tape | None:
    """What the training of a run meant to use; ``None`` where it has left no plan.

    A training that was resumed has one for each part: from its first step on, each takes the place of the one before.

    Raises:
        SpoolError: one of them cannot be read.
        TrackingError: the artifacts cannot be reached.
    """
    with downloaded(history, PLAN_NAMES) as paths:
        plans = sorted(((int(read_notes(path)["first_step"]), read_tape(path)) for path in paths), key=lambda p: p[0])
    if not plans:
        return None
    begins = [first_step for first_step, _ in plans[1:]]
    cut = [plan if end is None else plan.until(end) for (_, plan), end in zip(plans, [*begins, None], strict=True)]
    return Tape.union(cut)


@contextlib.contextmanager
def downloaded(history: History, names: str = TAPE_NAMES) -> Iterator[list[Path]]:
    """The files of the tapes of a run, or others that lie beside them, as long as the block lasts.

    Raises:
        TrackingError: the artifacts cannot be reached.
    """
    # MLflow draws a progress bar for each file, on whatever stderr is; this process is the command's own.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory() as folder:
        yield history.tapes(Path(folder), names)
