"""The colour of a run in MLflow's charts, told from its neighbours' without seeing colours well."""

import logging
from typing import TYPE_CHECKING

from lrtape.colors import RUNS
from lrtape.tracking.tags import RUN_COLOR
from lrtape.tracking.uri import mask_credentials

NO_CURVE = "#8A8A8A"
"""Of a run that has no curves of its own, as that of a sweep."""

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)


def color_at(position: int) -> str:
    """The colour of the run at a place in a row, from 0."""
    return RUNS[position % len(RUNS)]


def next_color(client: "MlflowClient", experiment_id: str) -> dict[str, str]:
    """The tag of a run that is to be created: the colour after that of the newest one. A request.

    Runs that are created at the same moment may get the same. Empty where the store does not answer: never fails.
    """
    try:
        newest = client.search_runs([experiment_id], max_results=1, order_by=["start_time DESC"])
        color = newest[0].data.tags.get(RUN_COLOR, "") if newest else ""
    except Exception as error:  # noqa: BLE001 - MLflow has colours of its own
        _log.debug("cannot choose a colour: %s", mask_credentials(str(error)))
        return {}
    return {RUN_COLOR: color_at(RUNS.index(color) + 1 if color in RUNS else 0)}
