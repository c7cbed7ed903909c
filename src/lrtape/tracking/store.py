"""Finding and opening the store of an MLflow run."""

import contextlib
import fcntl
import re
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from lrtape.errors import ConfigError, TrackingError
from lrtape.tracking.preflight import refuse_unfit, refuse_unreachable
from lrtape.tracking.refusals import explain, is_permanent
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.uri import sqlite_path


@contextlib.contextmanager
def opening(uri: str) -> Iterator[None]:
    """Around whatever opens the store at `uri`: safe beside other processes, and quick to say what is wrong.

    Only one process at a time may make the tables of a fresh SQLite store. A server that does not answer would be tried
    for four minutes.

    Raises:
        ConfigError: a SQLite store is where nothing can be written.
        TrackingError: the store does not answer, or refuses.
    """
    with _lock(sqlite_path(uri)), asking(uri):
        refuse_unfit(uri)
        yield


@contextlib.contextmanager
def asking(uri: str) -> Iterator[None]:
    """Around whatever asks a store that this process has opened before; takes no lock, however long it lasts.

    Raises:
        RefusedError: the store refuses for good.
        TrackingError: the store does not answer, or fails.
    """
    refuse_unreachable(uri)
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        kind = RefusedError if is_permanent(error) else TrackingError
        raise kind(explain(uri, error)) from error


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment called `name`, which is created if there is none.

    Raises:
        ConfigError: it was deleted.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(name, uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ConfigError(
            f"the experiment must not be deleted, but {name!r} is. Restore it with `mlflow experiments restore`, or "
            "choose another name."
        )
    return str(experiment.experiment_id)


def _artifact_location(experiment: str, uri: str) -> str | None:
    """Beside a SQLite store, absolute: MLflow's default is relative to wherever the reader was started."""
    path = sqlite_path(uri)
    return str(path.parent / "mlartifacts" / re.sub(r"[^\w.\-]", "_", experiment)) if path else None


@contextlib.contextmanager
def _lock(database: Path | None) -> Iterator[None]:
    if database is None:
        yield
        return
    try:
        lock = database.with_name(f".{database.name}.lock").open("w")
    except OSError as error:
        raise ConfigError(f"the tracking store must lie where it can be written, but cannot be ({error}).") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
