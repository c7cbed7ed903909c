"""Where to look at a run in the MLflow UI. Makes no request, and imports no mlflow."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from lrtape.tracking.uri import is_server, sqlite_path, without_user

DASHBOARD = "lrtape"
"""Id of the experiment's dashboard: it never changes, so that no link does."""
AVERAGED = "lrtape-averaged"
"""Id of its other view, which averages the seeds of each point; only where a sweep has several."""
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens by default."""
_TRAININGS = "workflowType=machine_learning"
"""Of a page: else MLflow shows an empty one, about prompts and traces (mlflow 3.17)."""


@dataclass(frozen=True, slots=True)
class Links:
    """The pages of a run, each from the root of the UI's address on: that may be any.

    Attributes:
        tracking_uri: absolute.
        experiment_id: of the run's experiment.
        run_id: of the run.
    """

    tracking_uri: str
    experiment_id: str
    run_id: str

    def how_to_look(self, views: Collection[str]) -> str:
        """For people: the command that starts the MLflow UI, if one is needed, and the pages to open.

        Args:
            views: the ids of those that the experiment has.
        """
        has_ui = is_server(self.tracking_uri)
        base = without_user(self.tracking_uri).rstrip("/") if has_ui else UI_ADDRESS
        pages = {"Dashboard:": self.dashboard()} if DASHBOARD in views else {"All runs:": self._all_runs}
        if AVERAGED in views:
            pages["Averaged:"] = self.dashboard(AVERAGED)
        pages["This run:"] = f"{self._page}/{self.run_id}?{_TRAININGS}"
        lines = [f"{name:10} {base}/{link}" for name, link in pages.items()]
        if not has_ui:
            uri = self.tracking_uri if sqlite_path(self.tracking_uri) else '"$MLFLOW_TRACKING_URI"'
            lines.insert(0, f"To look:   mlflow ui --backend-store-uri {uri}")
        return "\n".join(lines)

    @property
    def _page(self) -> str:
        return f"#/experiments/{self.experiment_id}/runs"

    @property
    def _all_runs(self) -> str:
        return f"{self._page}?compareRunsMode=CHART&{_TRAININGS}"

    def dashboard(self, view: str = DASHBOARD) -> str:
        """To the dashboard of the experiment.

        Args:
            view: the id of it, or of its other view.
        """
        return f"{self._all_runs}&viewStateShareKey={view}"

    def curves(self, keys: Sequence[str]) -> str:
        """To one chart of some metrics of this run alone, on a log axis.

        In the run's description, where the UI may have any address, it is a link as it is.

        Args:
            keys: at least one.
        """
        query = {
            "runs": json.dumps([self.run_id]),
            "metric": json.dumps(keys[0]),
            "experiments": json.dumps([self.experiment_id]),
            "plot_metric_keys": json.dumps(list(keys)),
            "plot_layout": json.dumps({"autosize": True}),
            "x_axis": "step",
            "y_axis_scale": "log",
            "line_smoothness": "0",
            "show_point": "false",
            "workflowType": "machine_learning",
            "deselected_curves": "[]",
            "last_linear_y_axis_range": "[]",
        }
        return f"#/metric?{urlencode(query, quote_via=quote)}"

    def artifact(self, path: str) -> str:
        """To the page of an artifact of the run."""
        return f"{self._page}/{self.run_id}/artifacts/{path}?{_TRAININGS}"
