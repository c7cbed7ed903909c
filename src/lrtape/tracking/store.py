"""Finding and opening the store of an MLflow run."""

import contextlib
import fcntl
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException
from sqlalchemy.exc import SQLAlchemyError

from lrtape.errors import ConfigError, TrackingError
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.uri import mask_credentials, sqlite_path

CONNECT_TIMEOUT_S = 5.0
_PROBE = "/api/2.0/mlflow/experiments/get?experiment_id=0"
"""Asks the database, too; ``/health`` is well without one."""
_MAY_PASS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}


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
        kind = RefusedError if isinstance(error, MlflowException) and is_permanent(error) else TrackingError
        raise kind(f"the tracking store {mask_credentials(uri)} refuses: {mask_credentials(str(error))}") from error


def http_status(error: MlflowException) -> HTTPStatus:
    """What an error means, in HTTP's terms, which MLflow uses for every store."""
    return HTTPStatus(ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, HTTPStatus.INTERNAL_SERVER_ERROR))


def is_permanent(error: MlflowException) -> bool:
    """Whether trying again would change nothing, unless somebody mends something."""
    status = http_status(error)
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _MAY_PASS


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


def is_server(uri: str) -> bool:
    """Whether a store is behind an HTTP server, which has a UI of its own."""
    return uri.startswith(("http://", "https://"))


def refuse_unreachable(uri: str) -> None:
    """Say within seconds that a server does not answer, or only says that it cannot: MLflow tries for minutes.

    Any other answer counts as being there: a gateway may not know the page that is asked for.

    Raises:
        TrackingError: it does not answer.
    """
    if not is_server(uri):
        return
    try:
        urllib.request.urlopen(_without_user(uri).rstrip("/") + _PROBE, timeout=CONNECT_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code != HTTPStatus.TOO_MANY_REQUESTS:
            return
        raise TrackingError(
            f"the tracking server {mask_credentials(uri)} must work, but answers {error.code} {error.reason}. Mend it, "
            "wait, or name another one."
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # It is there; which certificates are good is MLflow's to say.
        raise TrackingError(
            f"the tracking server {mask_credentials(uri)} does not answer as one ({type(error).__name__}: {error}). "
            "Start it, or name another one."
        ) from None


def _without_user(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
