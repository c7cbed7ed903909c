"""Logging as a training loop does it by itself, to be measured beside recording."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping

import mlflow

_URI = "MLFLOW_TRACKING_URI"
"""What ``mlflow.set_tracking_uri`` sets in the environment, too (mlflow 3.17)."""


@contextlib.contextmanager
def logging_by_hand(tracking_uri: str, run_id: str) -> Iterator[Callable[[Mapping[str, float], int], object]]:
    """Yield ``mlflow.log_metrics``, which takes the metrics of a step and its index; waits for the store in every call.

    Whatever store this process had chosen before is chosen again when the block ends.

    Args:
        tracking_uri: absolute.
        run_id: of a run that exists.
    """
    in_environment = os.environ.get(_URI)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield lambda metrics, step: mlflow.log_metrics(dict(metrics), step=step, run_id=run_id)
    finally:
        mlflow.set_tracking_uri(before)
        if in_environment is None:
            os.environ.pop(_URI, None)
        else:
            os.environ[_URI] = in_environment
