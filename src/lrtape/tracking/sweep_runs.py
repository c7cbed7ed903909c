"""The runs of a sweep in MLflow: a parent, and one child for each trial that was begun."""

import json
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Run

from lrtape.tape import Status, now_ms
from lrtape.tracking.printed_links import masked_links
from lrtape.tracking.store import asking, experiment_id, opening
from lrtape.tracking.tags import (
    ERROR,
    MAX_ERROR_CHARACTERS,
    OBJECTIVE,
    PARENT_RUN_ID,
    PRUNED,
    SEED,
    SWEEP,
    TRIAL,
    VALUES,
    VERDICT,
)
from lrtape.tracking.uri import mask_credentials
from lrtape.trials import RUNNING, TrialRun

PAGE = 1000
"""Runs in one answer of the store."""


class SweepRuns:
    """Asks the tracking store about the sweeps of one experiment.

    Args:
        tracking_uri: absolute.
        experiment: its name.

    Raises:
        ConfigError: the experiment was deleted.
        TrackingError: the store does not answer, or refuses.
    """

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self.tracking_uri = tracking_uri
        with opening(tracking_uri):
            self._client = MlflowClient(tracking_uri=tracking_uri)
            self._experiment_id = experiment_id(self._client, experiment, tracking_uri)

    def find_parent(self, sweep_id: str) -> TrialRun | None:
        """The newest run of a sweep, if there is one; it is no trial, but has a status, a begin and tags like one.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri):
            found = self._client.search_runs(
                [self._experiment_id], f"tags.`{SWEEP}` = '{sweep_id}'", order_by=["start_time DESC"], max_results=1
            )
        if not found:
            return None
        info, tags = found[0].info, dict(found[0].data.tags)
        return TrialRun(info.run_id, "", str(info.run_name), info.status, start_ms=info.start_time, tags=tags)

    def children(self, parent_run_id: str) -> list[TrialRun]:
        """Every child of a parent, in the order in which they were begun. A request for each 1,000.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        runs: list[Run] = []
        token: str | None = None
        while True:
            with asking(self.tracking_uri):
                page = self._client.search_runs(
                    [self._experiment_id],
                    f"tags.`{PARENT_RUN_ID}` = '{parent_run_id}'",
                    max_results=PAGE,
                    order_by=["start_time ASC"],
                    page_token=token,
                )
            runs += page
            token = page.token
            if not token:
                return [trial_run(run) for run in runs]

    def last_row_ms(self, run_id: str) -> int:
        """When the newest value of a run was recorded, Unix time; 0 where it has none. One request.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri):
            rows = self._client.get_run(run_id).data.to_proto().metrics
        return max((row.timestamp for row in rows), default=0)

    def end(self, run_id: str, status: Status, error: str = "") -> None:
        """End a run that nobody else will end, unless somebody has.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri), masked_links(self.tracking_uri):
            if self._client.get_run(run_id).info.status != RUNNING:
                return
            if error:
                self._client.set_tag(run_id, ERROR, mask_credentials(error)[:MAX_ERROR_CHARACTERS])
            self._client.set_terminated(run_id, status)

    def put_failed(self, parent_run_id: str, name: str, tags: Mapping[str, str], error: str) -> None:
        """Create the child of a trial that has failed before it had one.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri):
            run = self._client.create_run(
                self._experiment_id,
                start_time=now_ms(),
                tags={**tags, PARENT_RUN_ID: parent_run_id},
                run_name=name,
            )
        self.end(run.info.run_id, Status.FAILED, error)


def trial_run(run: Run) -> TrialRun:
    """A child, as lrtape sees it."""
    tags = dict(run.data.tags)
    try:
        values = json.loads(tags.get(VALUES, "{}"))
    except ValueError:
        values = {}
    objective = tags.get(OBJECTIVE)
    return TrialRun(
        run.info.run_id,
        tags.get(TRIAL, run.info.run_id),
        str(run.info.run_name),
        run.info.status,
        values,
        int(tags.get(SEED, 0)),
        None if objective is None else float(objective),
        tags.get(ERROR, ""),
        tags.get(VERDICT, ""),
        run.info.start_time,
        run.info.end_time,
        tags,
        tags.get(PRUNED, ""),
    )
