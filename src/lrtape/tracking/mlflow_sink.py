"""Sends points to an MLflow run, in bulk."""

from collections.abc import Sequence
from http import HTTPStatus

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Run
from mlflow.exceptions import MlflowException

from lrtape.errors import TrackingError
from lrtape.tape import Point
from lrtape.tracking.nonfinite import to_store
from lrtape.tracking.refusals import explain, http_status, is_permanent
from lrtape.tracking.sink import RefusedError, RefusedPointsError
from lrtape.tracking.uri import mask_credentials

MAX_METRICS_A_REQUEST = 1000
"""MLflow refuses a larger batch."""

_ABOUT_THE_POINTS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}


class MlflowSink:
    """The metrics of one MLflow run. MLflow ignores a row that it has already, so sending twice is harmless.

    Args:
        tracking_uri: absolute, with credentials where they are needed.
        run_id: the run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._uri = tracking_uri
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
            kind = self._judge(error)
            is_about_points = kind is RefusedPointsError
            text = mask_credentials(f"{error.error_code}: {error}") if is_about_points else explain(self._uri, error)
            raise kind(text) from error
        except OSError as error:
            raise TrackingError(mask_credentials(str(error))) from error

    def _judge(self, error: MlflowException) -> type[TrackingError]:
        if not is_permanent(error):
            return TrackingError
        # MLflow (3.17) calls a deleted run an invalid parameter, too.
        return RefusedPointsError if http_status(error) in _ABOUT_THE_POINTS and self._run_is_active() else RefusedError

    def _run_is_active(self) -> bool:
        try:
            run: Run = self._client.get_run(self._run_id)
        except MlflowException:
            return False
        return bool(run.info.lifecycle_stage == LifecycleStage.ACTIVE)
