"""How NaN and infinity are stored in MLflow.

MLflow stores NaN as 0 with a flag and infinity as the largest float, and a metric whose latest value is NaN vanishes
from the run's page (mlflow 3.17). So a value that is not finite is stored under a key of its own: ``health/nan/<key>``
is 1 and ``health/inf/<key>`` is 1 or -1 at each step where ``<key>`` was that. Nothing is lost, it can be searched
(``metrics.`health/nan/train/loss` = 1``), and the curve of ``<key>`` keeps its last finite value.
"""

import math

from lrtape.tape import Point

_NAN = "health/nan/"
_INF = "health/inf/"


def to_store(point: Point) -> Point:
    """The row that stands for `point` in MLflow."""
    if math.isfinite(point.value):
        return point
    if math.isnan(point.value):
        return point._replace(key=_NAN + point.key, value=1.0)
    return point._replace(key=_INF + point.key, value=math.copysign(1.0, point.value))


def from_store(point: Point) -> Point:
    """The point that a row of MLflow stands for; the inverse of `to_store`."""
    if point.key.startswith(_NAN):
        return point._replace(key=point.key.removeprefix(_NAN), value=math.nan)
    if point.key.startswith(_INF):
        return point._replace(key=point.key.removeprefix(_INF), value=math.copysign(math.inf, point.value))
    return point


def stored_keys(key: str) -> list[str]:
    """Every key under which MLflow may have rows of `key`."""
    return [key, _NAN + key, _INF + key]
