"""What it means when a tracking store says no, and what to do: for people."""

import os
import re
from http import HTTPStatus
from urllib.parse import urlsplit

from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException, RestException
from mlflow.utils.credentials import read_mlflow_creds
from sqlalchemy.exc import SQLAlchemyError

from lrtape.tracking.uri import is_server, mask_credentials

_MAY_PASS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
_NO_MLFLOW = {
    *(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE),
    HTTPStatus.NOT_IMPLEMENTED,
}
"""Answers, without the JSON that MLflow would send along, of a server that does not know what is asked for."""
_CODE = re.compile(r"failed with error code (\d{3})")
_ENDPOINT = re.compile(r"/(?:mlflow|mlflow-artifacts)/([\w/-]+)")
_READS = re.compile(r"get|search|list|version")
_WRONG_HOST = "Invalid Host header"
_NO_JSON = "not in a valid JSON format"
_WRONG_LOGIN = re.compile(r"authentication failed|no password supplied|access denied|does not exist", re.IGNORECASE)
"""Said by databases that are there."""
_BEHIND = re.compile(r"\n(?:\[SQL:|\(Background on this error).*", re.DOTALL)
"""What SQLAlchemy adds, which is for who wrote the statement."""


def http_status(error: Exception) -> HTTPStatus:
    """What an error means, in HTTP's terms, which MLflow uses for every store."""
    answer = getattr(getattr(error, "response", None), "status_code", None)
    if answer is None and not isinstance(error, RestException) and (found := _CODE.search(str(error))):
        answer = int(found[1])
    code = getattr(error, "error_code", "")
    try:
        return HTTPStatus(answer or ERROR_CODE_TO_HTTP_STATUS.get(code, HTTPStatus.INTERNAL_SERVER_ERROR))
    except ValueError:  # a gateway's own number
        return HTTPStatus.INTERNAL_SERVER_ERROR


def is_permanent(error: Exception) -> bool:
    """Whether trying again would change nothing, unless somebody mends something."""
    if isinstance(error, SQLAlchemyError):
        return bool(_WRONG_LOGIN.search(_text(error)))
    if isinstance(error, ImportError):
        return True
    if not isinstance(error, MlflowException) and not hasattr(error, "response"):
        return False
    status = http_status(error)
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _MAY_PASS


def is_wrong_host(text: str) -> bool:
    """Whether an answer says that the server does not know the name by which it was called."""
    return _WRONG_HOST in text


def explain(uri: str, error: Exception) -> str:
    """What an error of a store means and what to do about it, credentials masked.

    Args:
        uri: of the store.
        error: of MLflow, SQLAlchemy or requests (which has a `response`), or any other.
    """
    store, text = mask_credentials(uri), _text(error)
    if isinstance(error, ImportError):
        return (
            f"the tracking store {store} needs a Python package that is not installed ({text}). For PostgreSQL: "
            'pip install "lrtape[server]".'
        )
    if not isinstance(error, MlflowException | SQLAlchemyError) and not hasattr(error, "response"):
        return f"the tracking store {store} fails: {type(error).__name__}: {text}"
    if not is_server(uri):
        return f"the tracking store {store} refuses: {text}"
    status = http_status(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            f"the tracking server {store} must be given a user and a password that it knows, but {_given(uri)} (401). "
            "Put them into the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if status == HTTPStatus.FORBIDDEN and is_wrong_host(text):
        return (
            f"the tracking server {store} must be started with the names that it is called by, but refuses to be "
            f"called {urlsplit(uri).hostname} (403). Add that name, and its port, to its --allowed-hosts."
        )
    if status == HTTPStatus.FORBIDDEN:
        found = _ENDPOINT.search(text)
        does, needed = ("read", "READ") if found and _READS.search(found[1]) else ("write", "EDIT")
        what = f" ({found[1]})" if found else ""
        return (
            f"the tracking server {store} must let this user {does} in the experiment, but forbids it{what}: 403, "
            f"permission denied. Ask whose experiment it is for the permission {needed}, or use one of your own: "
            "mlflow.set_experiment(...), or tracking.experiment=... in the training app."
        )
    if not isinstance(error, RestException) and (_NO_JSON in text or (status in _NO_MLFLOW and _CODE.search(text))):
        seen = "no JSON" if _NO_JSON in text else str(status.value)
        return (
            f"the tracking server {store} must be an MLflow server, but what answers there is none, or is too old, or "
            f"wants somebody to log in ({seen}). Give the address that `mlflow server` prints, without the page that a "
            "browser shows behind it."
        )
    return f"the tracking server {store} refuses: {text}"


def _given(uri: str) -> str:
    if "@" in urlsplit(uri).netloc:  # which requests (2.34) prefers to all others
        return "refuses those in its URI"
    credentials = read_mlflow_creds()
    if credentials.username and credentials.password:
        is_set = os.environ.get("MLFLOW_TRACKING_USERNAME") and os.environ.get("MLFLOW_TRACKING_PASSWORD")
        where = "in the environment" if is_set else "in ~/.mlflow/credentials"
        return f"refuses those {where}"
    if os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return "refuses the token of MLFLOW_TRACKING_TOKEN"
    if credentials.username:
        return "is given a user without a password"
    return "is given a password without a user" if credentials.password else "is given none"


def _text(error: Exception) -> str:
    return mask_credentials(_BEHIND.sub("", str(error)))
