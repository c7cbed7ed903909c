"""Reads a tape back from MLflow."""

from mlflow import MlflowClient

from lrtape.tape import Point, Tape
from lrtape.tracking.nonfinite import from_store
from lrtape.tracking.store import opening
from lrtape.tracking.uri import resolve_tracking_uri


def read_run(run_id: str, tracking_uri: str | None = None) -> Tape:
    """Read every value of every metric of a run, exactly as it was recorded.

    Args:
        run_id: of an MLflow run.
        tracking_uri: see `resolve_tracking_uri`.

    Raises:
        ConfigError: the URI is malformed.
        TrackingError: there is no such run, or the store does not answer.
    """
    uri = resolve_tracking_uri(tracking_uri)
    with opening(uri):
        client = MlflowClient(tracking_uri=uri)
        keys = client.get_run(run_id).data.metrics
        return Tape(
            from_store(Point(metric.key, metric.step, metric.timestamp, metric.value))
            for key in keys
            for metric in client.get_metric_history(run_id, key)
        )
