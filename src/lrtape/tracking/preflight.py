"""Says within seconds that a store is away, refuses, or is too old, where MLflow would try for minutes."""

import contextlib
import functools
import http.client
import re
import ssl
import urllib.error
import urllib.request
from http import HTTPStatus

import sqlalchemy
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from lrtape.errors import TrackingError
from lrtape.tracking.refusals import is_wrong_host
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.uri import is_server, mask_credentials, without_user

CONNECT_TIMEOUT_S = 5.0
OLDEST_SERVER = (3, 0)
"""The oldest release of MLflow that serves all that is asked for: 2.22 takes a training, and gives no artifact back."""
_DATABASES = {"postgresql", "mysql", "mssql"}
"""What MLflow stores in, beside SQLite; by the scheme, without a driver."""
_PROBE = "/api/2.0/mlflow/experiments/get?experiment_id=0"
"""Asks the database, too; ``/health`` is well without one."""
_VERSION = "/version"
_RELEASE = re.compile(r"(\d+)\.(\d+)[\w.+]*")


def refuse_unreachable(uri: str) -> None:
    """Say within seconds that a server does not answer, or only says that it cannot: MLflow tries for minutes.

    Any other answer counts as being there: a gateway may not know the page that is asked for.

    Raises:
        TrackingError: it does not answer.
    """
    if not is_server(uri):
        return
    try:
        urllib.request.urlopen(without_user(uri).rstrip("/") + _PROBE, timeout=CONNECT_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code != HTTPStatus.TOO_MANY_REQUESTS:
            return
        raise TrackingError(_does_not_work(uri, error.code, error.reason)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # It is there; which certificates are good is MLflow's to say.
        raise TrackingError(
            f"the tracking server {mask_credentials(uri)} does not answer as one ({type(error).__name__}: {error}). "
            "Start it, or name another one."
        ) from None


def refuse_unfit(uri: str) -> None:
    """Ask a server who it is, with the credentials that MLflow would use; knock once at a database.

    Once in a process, unless it fails: a server hashes the password at each request.

    Raises:
        RefusedError: the server is too old.
        TrackingError: the server does not work.
        MlflowException: the server does not know the user, or its own name.
        SQLAlchemyError: the database does not answer, or refuses.
        ImportError: a driver is missing.
    """
    if is_server(uri):
        with contextlib.suppress(LookupError):
            _refuse_old(uri)
    elif uri.partition("://")[0].partition("+")[0] in _DATABASES:
        _knock(uri)


@functools.lru_cache(maxsize=8)
def _refuse_old(uri: str) -> None:
    answer = http_request(  # type: ignore[no-untyped-call]
        get_default_host_creds(uri),  # type: ignore[no-untyped-call]
        *(_VERSION, "GET"),
        max_retries=0,
        timeout=CONNECT_TIMEOUT_S,
        raise_on_status=False,
    )
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TrackingError(_does_not_work(uri, answer.status_code, answer.reason))
    if answer.status_code == HTTPStatus.UNAUTHORIZED or is_wrong_host(answer.text):
        verify_rest_response(answer, _VERSION)
    release = _RELEASE.fullmatch(answer.text.strip())
    if release is None:
        raise LookupError("a gateway may not know this page")
    if (int(release[1]), int(release[2])) < OLDEST_SERVER:
        raise RefusedError(
            f"the tracking server {mask_credentials(uri)} must be MLflow {'.'.join(map(str, OLDEST_SERVER))} or later, "
            f"but is {release[0]} instead. Upgrade it (pip install --upgrade mlflow, then mlflow db upgrade), or name "
            "another one."
        )


def _does_not_work(uri: str, code: int, reason: str) -> str:
    return (
        f"the tracking server {mask_credentials(uri)} must work, but answers {code} {reason}. Mend it, wait, or name "
        "another one."
    )


@functools.lru_cache(maxsize=8)
def _knock(uri: str) -> None:
    is_postgres = uri.startswith("postgresql")
    options = {"connect_timeout": int(CONNECT_TIMEOUT_S)} if is_postgres else {}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=options)
    engine.connect().close()
