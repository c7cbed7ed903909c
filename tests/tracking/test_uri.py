from pathlib import Path

import pytest

from lrtape.errors import ConfigError
from lrtape.tracking.uri import (
    has_password,
    mask_credentials,
    refuse_no_server,
    resolve_tracking_uri,
    sqlite_path,
    without_user,
)


def test_the_default_store_lies_where_the_command_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing given: mlflow.db in the current folder, absolute, so that it means the same after a chdir."""
    monkeypatch.chdir(tmp_path)

    assert resolve_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert sqlite_path(resolve_tracking_uri()) == tmp_path / "mlflow.db"


def test_the_environment_comes_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_TRACKING_URI is used unless something is given."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")

    assert resolve_tracking_uri() == "http://somewhere:5000"
    assert resolve_tracking_uri("https://else.where") == "https://else.where"


@pytest.mark.parametrize("uri", ["sqlite:///a.db", "sqlite:///{base}/a.db", "sqlite+pysqlite:///a.db"])
def test_a_sqlite_path_becomes_absolute(uri: str, tmp_path: Path) -> None:
    """Relative and absolute paths name the same file; a second look changes nothing."""
    resolved = resolve_tracking_uri(uri.format(base=tmp_path), base=tmp_path)

    assert sqlite_path(resolved) == tmp_path / "a.db"
    assert resolve_tracking_uri(resolved, base=Path("/elsewhere")) == resolved


@pytest.mark.parametrize(
    "uri", ["postgresql://me@db/mlflow", "mysql+pymysql://db/x", "databricks", "databricks://prof"]
)
def test_other_stores_are_left_to_mlflow(uri: str) -> None:
    """What MLflow may know is passed on as it is."""
    assert resolve_tracking_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("localhost:5000", "must be a URI, but is 'localhost:5000'"),
        ("mlruns", "must be a URI, but is 'mlruns'"),
        ("http://", "must name a host"),
        ("http://host:port", "must be a URI"),
        ("file:///tmp/mlruns", "but is the folder"),
        ("sqlite:///:memory:", "other processes can open"),
        ("sqlite://", "other processes can open"),
        ("sqlite:////no/such/folder/mlflow.db", "/no/such/folder does not"),
    ],
)
def test_a_malformed_uri_is_refused_with_the_way_out(uri: str, said: str) -> None:
    """What was given, what was expected and what to do."""
    with pytest.raises(ConfigError, match=said):
        resolve_tracking_uri(uri)


def test_credentials_are_never_shown() -> None:
    """Whatever stands before the @ of a URI is masked, wherever in a text the URI is."""
    text = "cannot reach postgresql+psycopg2://me:s3cret@db:5432/x or https://token@host/"

    assert mask_credentials(text) == "cannot reach postgresql+psycopg2://***@db:5432/x or https://***@host/"


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("postgresql://u:pa/ss@h/db", "postgresql://***@h/db"),
        ("postgresql://u:pa@ss@h/db", "postgresql://***@h/db"),
        ("postgresql://h/db?user=u&password=s3cret&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("https://h/?api_key=s3cret", "https://h/?api_key=***"),
        ("mssql://?odbc_connect=PWD%3Ds3cret", "mssql://?odbc_connect=***"),
    ],
)
def test_every_way_to_carry_a_password_is_seen(uri: str, masked: str) -> None:
    """Before the @, with whatever characters, or as a parameter."""
    assert has_password(uri)
    assert mask_credentials(uri) == masked


@pytest.mark.parametrize("uri", ["https://token@host/", "http://host:5000/", "sqlite:////home/me@work:x/mlflow.db"])
def test_what_carries_no_password_is_taken(uri: str) -> None:
    """A user alone, a port, and a folder's name are no passwords."""
    assert not has_password(uri)
    assert mask_credentials("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


def test_a_refusal_does_not_repeat_the_password() -> None:
    """An error message is a log, too."""
    with pytest.raises(ConfigError) as refused:
        resolve_tracking_uri("http://me:s3cret@host:port")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        (None, "", "MLFLOW_TRACKING_URI must be the address of a tracking server with tracking=server, but is not set"),
        (None, "sqlite:///mlflow.db", "must be the http\\(s\\):// address .*, but is 'sqlite:///mlflow.db' instead"),
        (None, "postgresql://me:s3cret@db/x", r"but is 'postgresql://\*\*\*@db/x' instead"),
        ("http://other:5000", "http://tracking:5000", "`tracking.uri` must be null with tracking=server"),
    ],
)
def test_what_is_no_server_is_refused(
    given: str | None, environment: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `tracking=server`: nothing, a file, a database, or an address in the config; credentials are not repeated."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    with pytest.raises(ConfigError, match=said):
        refuse_no_server(given)


def test_a_link_has_no_user() -> None:
    """Who opens it in a browser logs in by himself."""
    assert without_user("https://me:s3cr@t@host:5000/mlflow") == "https://host:5000/mlflow"
    assert without_user("https://host:5000") == "https://host:5000"
