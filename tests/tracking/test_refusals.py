import pytest
import requests
from mlflow.exceptions import MlflowException, RestException, get_error_code
from sqlalchemy.exc import OperationalError

from lrtape.tracking.refusals import explain, is_permanent

SERVER = "http://ada:s3cret@tracking:5000"


def answered(status: int, body: str, endpoint: str = "/api/2.0/mlflow/runs/create") -> MlflowException:
    """As `mlflow.utils.rest_utils.verify_rest_response` raises it."""
    text = f"API request to endpoint {endpoint} failed with error code {status} != 200. Response body: '{body}'"
    return MlflowException(text, error_code=get_error_code(status))  # type: ignore[no-untyped-call]


def answered_in_json(code: str, text: str) -> MlflowException:
    """As MLflow itself answers."""
    return RestException({"error_code": code, "message": text})  # type: ignore[no-untyped-call]


def failed_upload(status: int) -> requests.HTTPError:
    """As the client of MLflow's artifact proxy raises it."""
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} Client Error: for url: {SERVER}/api/2.0/mlflow-artifacts/x", response=response)


@pytest.mark.parametrize(
    ("error", "said", "lasts"),
    [
        (answered(401, "You are not authenticated."), "must be given a user and a password that it knows", True),
        (failed_upload(401), "must be given a user and a password that it knows", True),
        (answered(403, "Permission denied"), "must let this user write in the experiment", True),
        (answered(403, "", "/api/2.0/mlflow/metrics/get-history"), "must let this user read in the experiment", True),
        (failed_upload(403), "must let this user write in the experiment", True),
        (answered(403, "Invalid Host header - possible DNS rebinding attack"), "refuses to be called tracking", True),
        (answered(404, "<html>"), "must be an MLflow server", True),
        (answered(501, "Unsupported method"), "must be an MLflow server", False),
        (answered(200, "<html> was not in a valid JSON format"), "(no JSON)", False),
        (answered_in_json("RESOURCE_DOES_NOT_EXIST", "Run x"), "refuses: RESOURCE_DOES", True),
        (answered(503, "Service Unavailable"), "refuses: API request", False),
        (answered(429, "Too Many Requests"), "refuses: API request", False),
        (OSError("disk full"), "fails: OSError: disk full", False),
    ],
)
def test_what_a_server_answers_is_explained(error: Exception, said: str, lasts: bool) -> None:
    """What was met, and what to do, on one line and without a password; and whether trying again may help."""
    text = explain(SERVER, error)
    assert said in text
    assert "http://***@tracking:5000" in text
    assert "s3cret" not in text
    assert is_permanent(error) == lasts


@pytest.mark.parametrize(
    ("text", "lasts"),
    [
        ('FATAL:  password authentication failed for user "mlflow"', True),
        ('FATAL:  database "mlflow" does not exist', True),
        ("Connection refused", False),
        ("FATAL:  the database system is starting up", False),
    ],
)
def test_what_a_database_says_is_told_without_sqlalchemys_own(text: str, lasts: bool) -> None:
    """A login that is wrong lasts; a database that is away or starts may come."""
    uri = "postgresql://mlflow:s3cret@db/mlflow"
    error = OperationalError("SELECT 1", {"secret": "s3cret"}, Exception(text))
    assert explain(uri, error) == f"the tracking store postgresql://***@db/mlflow refuses: (builtins.Exception) {text}"
    assert is_permanent(error) == lasts


def test_a_driver_that_is_missing_is_named() -> None:
    """And what installs that of PostgreSQL."""
    error = ModuleNotFoundError("No module named 'psycopg'")
    assert 'pip install "lrtape[server]"' in explain("postgresql://db/mlflow", error)
    assert is_permanent(error)
