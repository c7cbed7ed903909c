"""Sends points to an MLflow run, in bulk."""

from collections.abc import Sequence
from http import HTTPStatus

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

from lrtape.errors import TrackingError
from lrtape.tape import Point
from lrtape.tracking.nonfinite import to_store
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.uri import mask_credentials

MAX_METRICS_A_REQUEST = 1000
"""MLflow refuses a larger batch."""

_MAY_PASS = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class MlflowSink:
    """The metrics of one MLflow run. MLflow ignores a row that it has already, so sending twice is harmless.

    Args:
        tracking_uri: absolute, with credentials where they are needed.
        run_id: the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._run_id = run_id

    def send(self, points: Sequence[Point]) -> None:
        """See `Sink.send`."""
        rows = [to_store(point) for point in points]
        metrics = [Metric(row.key, row.value, row.time_ms, row.step) for row in rows]
        try:
            for start in range(0, len(metrics), MAX_METRICS_A_REQUEST):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + MAX_METRICS_A_REQUEST])
        except MlflowException as error:
            status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, HTTPStatus.INTERNAL_SERVER_ERROR)
            permanent = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _MAY_PASS
            kind = RefusedError if permanent else TrackingError
            raise kind(mask_credentials(f"{error.error_code}: {error}")) from error
        except OSError as error:
            raise TrackingError(mask_credentials(str(error))) from error
