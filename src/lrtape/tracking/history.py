"""Reads back what MLflow has of a run: its metrics, every row, and the tapes among its artifacts."""

import tempfile
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from lrtape.tape import Point, Tape
from lrtape.tracking.artifacts import TAPE_FOLDER, TAPE_NAMES
from lrtape.tracking.nonfinite import from_store, stored_keys
from lrtape.tracking.store import asking, opening
from lrtape.tracking.uri import resolve_tracking_uri

PAGE_ROWS = 25_000
"""Of a metric, asked for at once, as MLflow does."""


class History:
    """What MLflow has of one run. Every call asks the store anew.

    Args:
        run_id: of an MLflow run.
        tracking_uri: see `resolve_tracking_uri`.

    Raises:
        ConfigError: the URI is malformed.
        TrackingError: there is no such run, or the store does not answer.
    """

    def __init__(self, run_id: str, tracking_uri: str | None = None) -> None:
        self.run_id = run_id
        self.tracking_uri = resolve_tracking_uri(tracking_uri)
        with opening(self.tracking_uri):
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            self._client.get_run(run_id)

    def keys(self) -> list[str]:
        """Every key that has a row, in alphabetical order, as it was recorded: see `nonfinite`.

        Raises:
            TrackingError: the store does not answer.
        """
        with asking(self.tracking_uri):
            stored = self._client.get_run(self.run_id).data.metrics
        return sorted({from_store(Point(key, 0, 0, 0.0)).key for key in stored})

    def params(self) -> dict[str, str]:
        """What the run was given.

        Raises:
            TrackingError: the store does not answer.
        """
        with asking(self.tracking_uri):
            return dict(self._client.get_run(self.run_id).data.params)

    def tags(self) -> dict[str, str]:
        """What is noted about the run.

        Raises:
            TrackingError: the store does not answer.
        """
        with asking(self.tracking_uri):
            return dict(self._client.get_run(self.run_id).data.tags)

    def points(self, key: str) -> list[Point]:
        """Every row of one key, in no particular order, with the values that were recorded; none for an unknown key.

        Takes about 40 microseconds a row.

        Args:
            key: as it was recorded; its rows that are not finite come from the keys that `nonfinite` gave them.

        Raises:
            TrackingError: the store does not answer.
        """
        return list(self.each_point(key))

    def each_point(self, key: str, page_rows: int = PAGE_ROWS) -> Iterator[Point]:
        """The same, one after the other.

        Args:
            key: see `points`.
            page_rows: how many are in memory at once, at 2 KB each. A fifth of the default takes a third longer.

        Raises:
            TrackingError: the store does not answer.
        """
        for stored_key in stored_keys(key):
            for rows in self._pages(stored_key, page_rows):
                for row in rows:
                    yield from_store(Point(stored_key, row.step, row.timestamp, row.value))

    def _pages(self, stored_key: str, page_rows: int) -> Iterator[list[Metric]]:
        store = self._client._tracking_client.store  # MLflow (3.17) gives one page after the other nowhere else
        token = None
        while True:
            with asking(self.tracking_uri):
                rows = store.get_metric_history(self.run_id, stored_key, max_results=page_rows, page_token=token)
            token = rows.token
            yield rows
            if token is None:
                return

    def text(self, path: str) -> str | None:
        """What stands in one artifact of the run; ``None`` where there is no such one.

        Raises:
            TrackingError: the artifacts cannot be reached.
        """
        with asking(self.tracking_uri), tempfile.TemporaryDirectory() as folder:
            names = [artifact.path for artifact in self._client.list_artifacts(self.run_id, path.rpartition("/")[0])]
            if path not in names:
                return None
            return Path(self._client.download_artifacts(self.run_id, path, folder)).read_text(encoding="utf-8")

    def tapes(self, folder: Path, names: str = TAPE_NAMES, without: Collection[str] = ()) -> list[Path]:
        """Download every tape of the run, one for each of its recordings; or other files that lie beside them.

        Args:
            folder: an existing one; the files go below it.
            names: a pattern of the files.
            without: names of files that are not wanted.

        Returns:
            The files, in the order of their names.

        Raises:
            TrackingError: the artifacts cannot be reached.
        """
        with asking(self.tracking_uri):
            artifacts = self._client.list_artifacts(self.run_id, TAPE_FOLDER)
            paths = [artifact.path for artifact in artifacts if not artifact.is_dir]
            wanted = sorted(
                path
                for path in paths
                if fnmatchcase(path, f"{TAPE_FOLDER}/{names}") and path.rpartition("/")[2] not in without
            )
            return [Path(self._client.download_artifacts(self.run_id, path, str(folder))) for path in wanted]


def read_run(run_id: str, tracking_uri: str | None = None) -> Tape:
    """Read every value of every metric of a run, exactly as it was recorded.

    Args:
        run_id: of an MLflow run.
        tracking_uri: see `resolve_tracking_uri`.

    Raises:
        ConfigError: the URI is malformed.
        TrackingError: there is no such run, or the store does not answer.
    """
    history = History(run_id, tracking_uri)
    keys = history.keys()
    return Tape(point for key in keys for point in history.each_point(key))
