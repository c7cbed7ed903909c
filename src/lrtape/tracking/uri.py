"""Tracking URIs: made absolute, checked, and shown without credentials. Imports no mlflow: it runs at every start."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from lrtape.errors import ConfigError

_SQLITE = re.compile(r"sqlite(?:\+\w+)?://")
# A password may hold "/" and "@": everything up to the last "@" is masked. A path of SQLite may hold "@", too.
_USER = re.compile(r"(?<!\w)(?!sqlite)([\w+.\-]+://)\S+@")
_USER_WITH_PASSWORD = re.compile(r"(?<!\w)(?!sqlite)[\w+.\-]+://[^\s/@]*:\S*@")
_SECRET_IN_QUERY = re.compile(
    r"([?&][^=&\s]*(?:pass|pwd|token|secret|key|odbc_connect)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)
MASK = "***"
"""Stands for credentials wherever a URI is shown or stored."""

REFUSED_CREDENTIALS = (
    "a tracking URI must not carry a password here: a config is written to disk, and a command line is public. Put the "
    "URI into the environment variable MLFLOW_TRACKING_URI, or the user and the password of a server into "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
)

_HOW = "Use sqlite:///mlflow.db, the http(s):// address of an MLflow server, or a database URI that MLflow takes."
NAME = "the tracking URI, of mlflow.set_tracking_uri() or $MLFLOW_TRACKING_URI,"


def resolve_tracking_uri(uri: str | None = None, base: Path | None = None, name: str = NAME) -> str:
    """Return the URI of the tracking store, absolute, so that it means the same in every process and folder.

    Args:
        uri: as given by the user; ``None`` means ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` (SQLite) in `base`.
        base: the folder that relative paths are relative to; the current one by default.
        name: what whoever gave it knows it by.

    Raises:
        ConfigError: it is not a URI, lives in memory, or names a folder that does not exist.
    """
    base = (base or Path.cwd()).absolute()
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    shown = mask_credentials(uri)
    if _SQLITE.match(uri):
        return _resolve_sqlite(uri, base, name)
    if uri == "databricks":
        return uri
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{name} must be a URI, but is {shown!r} instead. {_HOW}") from None
    if parts.scheme == "file" or ("://" not in uri and (base / uri).is_dir()):
        raise ConfigError(f"{name} must be a database or a server, but is the folder {shown!r} instead. {_HOW}")
    if "://" not in uri or not parts.scheme:
        raise ConfigError(f"{name} must be a URI, but is {shown!r} instead. {_HOW}")
    if parts.scheme in {"http", "https"} and not parts.hostname:
        raise ConfigError(f"{name} must name a host, but is {shown!r} instead. {_HOW}")
    return uri


def refuse_no_server(given: str | None) -> None:
    """See that the environment names a tracking server, and nothing else does.

    Args:
        given: what the config says beside.

    Raises:
        ConfigError: it does not.
    """
    if given is not None:
        raise ConfigError(
            f"`tracking.uri` must be null with tracking=server, which takes the address from $MLFLOW_TRACKING_URI, but "
            f"is {mask_credentials(given)!r} instead. Leave one of the two out."
        )
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError(
            "$MLFLOW_TRACKING_URI must be the address of a tracking server with tracking=server, but is not set. Set "
            "it, export MLFLOW_TRACKING_URI=http://HOST:5000, or leave tracking=server out: then mlflow.db is written."
        )
    if not is_server(uri):
        raise ConfigError(
            "$MLFLOW_TRACKING_URI must be the http(s):// address of a tracking server with tracking=server, but is "
            f"{mask_credentials(uri)!r} instead. Correct it, or leave tracking=server out: then any store is taken."
        )


def _resolve_sqlite(uri: str, base: Path, name: str) -> str:
    scheme, _, rest = uri.partition("://")
    file, _, query = rest.removeprefix("/").partition("?")
    if file in {"", ":memory:"}:
        raise ConfigError(
            f"{name} must name a file that other processes can open, but is {uri!r} instead. Use sqlite:///mlflow.db."
        )
    path = base / file
    if not path.parent.is_dir():
        raise ConfigError(f"{name} must lie in a folder that exists, but {path.parent} does not. Create it.")
    return f"{scheme}:///{path}" + (f"?{query}" if query else "")


def sqlite_path(uri: str) -> Path | None:
    """The file of an absolute SQLite URI; ``None`` for any other store."""
    return Path(uri.partition("://")[2][1:].partition("?")[0]) if _SQLITE.match(uri) else None


def is_server(uri: str) -> bool:
    """Whether it is the address of a tracking server."""
    return uri.startswith(("http://", "https://"))


def without_user(uri: str) -> str:
    """The same address for somebody who logs in by himself, as in a browser."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def has_user(uri: str) -> bool:
    """Whether a user, and perhaps a password, stands in the URI of a store that is not SQLite."""
    return bool(_USER.search(uri))


def mask_credentials(text: str) -> str:
    """Hide user, password and secret parameters of every URI in `text`: ``postgresql://***@host/db?sslkey=***``."""
    return _SECRET_IN_QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))


def has_password(text: str) -> bool:
    """Whether a URI in `text` carries a password."""
    return any(pattern.search(text) for pattern in (_USER_WITH_PASSWORD, _SECRET_IN_QUERY))
