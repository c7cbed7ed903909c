"""One MLflow run: opened at the start of a training, closed at its end, never touched in between."""

import contextlib
import fcntl
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from lrtape.errors import ConfigError, TrackingError
from lrtape.spool import End
from lrtape.tracking.uri import mask_credentials, resolve_tracking_uri, sqlite_path

MAX_PARAMS_A_REQUEST = 100
MAX_TAGS_A_REQUEST = 100
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
CONNECT_TIMEOUT_S = 5.0
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens by default."""


class MlflowRun:
    """A run and the store that it lives in. Used by the training thread before the first and after the last step.

    As a context manager it ends the run: FINISHED, KILLED after Ctrl-C, FAILED after any other exception.

    Args:
        tracking_uri: absolute.
        run_id: a run that exists.
        end: called with the final status; the default leaves the status to whoever started the run.
    """

    def __init__(self, tracking_uri: str, run_id: str, end: Callable[[str], None] | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._end = end
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self.experiment_id: str = self._client.get_run(run_id).info.experiment_id

    @classmethod
    def create(
        cls,
        tracking_uri: str | None = None,
        experiment: str = "lrtape",
        run_name: str | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a run of its own; a fresh SQLite store is created first, safely beside other processes.

        Args:
            tracking_uri: see `resolve_tracking_uri`.
            experiment: its name; created if there is none.
            run_name: shown in the UI; a random one by default.
            params: logged as text; a text of more than 6,000 characters is cut, as MLflow would refuse it.
            tags: in addition to MLflow's own (user, source, git commit).

        Raises:
            ConfigError: the URI is malformed, or the experiment was deleted.
            TrackingError: the store cannot be reached or does not answer as MLflow does.
        """
        uri = resolve_tracking_uri(tracking_uri)
        _refuse_unreachable(uri)
        try:
            with _store_lock(uri):
                client = MlflowClient(tracking_uri=uri)
                experiment_id = _experiment_id(client, experiment, uri)
            all_tags = {name: text[:MAX_TAG_CHARACTERS] for name, text in resolve_tags(dict(tags or {})).items()}
            run = client.create_run(experiment_id, run_name=run_name, tags=all_tags)
        except MlflowException as error:
            raise TrackingError(
                f"the tracking store {mask_credentials(uri)} refused to start a run: {mask_credentials(str(error))}"
            ) from error
        run_id = run.info.run_id
        created = cls(uri, run_id, end=lambda status: client.set_terminated(run_id, status))
        created.log_params(params or {})
        return created

    @classmethod
    def active(cls) -> Self:
        """Join the active run of this process, or start one with ``mlflow.start_run()`` and end it at the end.

        Raises:
            TrackingError: the store cannot be reached or does not answer as MLflow does.
        """
        uri = resolve_tracking_uri(mlflow.get_tracking_uri())
        if (run := mlflow.active_run()) is not None:
            return cls(uri, run.info.run_id)
        _refuse_unreachable(uri)
        try:
            with _store_lock(uri):
                run = mlflow.start_run()
        except MlflowException as error:
            raise TrackingError(
                f"the tracking store {mask_credentials(uri)} refused to start a run: {mask_credentials(str(error))}"
            ) from error
        return cls(uri, run.info.run_id, end=mlflow.end_run)

    @classmethod
    def open(cls, tracking_uri: str | None, run_id: str) -> Self:
        """Join a run by its id.

        Args:
            tracking_uri: absolute; ``None`` is what ``mlflow.set_tracking_uri()`` or the environment says.
            run_id: of a run that exists.

        Raises:
            TrackingError: there is no such run, or the store cannot be reached.
        """
        uri = tracking_uri or resolve_tracking_uri(mlflow.get_tracking_uri())
        _refuse_unreachable(uri)
        try:
            return cls(uri, run_id)
        except MlflowException as error:
            raise TrackingError(
                f"{run_id!r} must be the id of a run in {mask_credentials(uri)}, but is not: "
                f"{mask_credentials(str(error))}"
            ) from error

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params, each as text."""
        rows = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in params.items()]
        for start in range(0, len(rows), MAX_PARAMS_A_REQUEST):
            self._client.log_batch(self.run_id, params=rows[start : start + MAX_PARAMS_A_REQUEST])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        rows = [RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in tags.items()]
        for start in range(0, len(rows), MAX_TAGS_A_REQUEST):
            self._client.log_batch(self.run_id, tags=rows[start : start + MAX_TAGS_A_REQUEST])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload one file into `folder` of the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, path: str) -> None:
        """Upload `text` as the artifact `path`."""
        self._client.log_text(self.run_id, text, path)

    def settle(self, end: End | None) -> None:
        """Set the status that a tape's end tells, KILLED where it has none, unless somebody has set one already."""
        if self._client.get_run(self.run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
            self._client.set_terminated(self.run_id, end.status if end else "KILLED")

    def finish(self, status: str) -> None:
        """End the run if it was started here. A store that is gone is warned about: the training is over by then."""
        if self._end is None:
            return
        try:
            self._end(status)
        except Exception as error:  # noqa: BLE001 - no failure of tracking may fail the training
            warnings.warn(
                f"lrtape could not set run {self.run_id} to {status}: {mask_credentials(str(error))}", stacklevel=2
            )

    def how_to_look(self) -> str:
        """Lines for people: the command that starts the MLflow UI, if one is needed, and the pages to open."""
        local = sqlite_path(self.tracking_uri) is not None or not self.tracking_uri.startswith("http")
        base = UI_ADDRESS if local else mask_credentials(self.tracking_uri).rstrip("/")
        page = f"{base}/#/experiments/{self.experiment_id}"
        uri = mask_credentials(self.tracking_uri)
        return "\n".join(
            [
                *([f"To look:   mlflow ui --backend-store-uri {uri}"] if local else []),
                f"All runs:  {page}/runs?compareRunsMode=CHART&workflowType=machine_learning",
                f"This run:  {page}/runs/{self.run_id}/model-metrics?workflowType=machine_learning",
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(End.after(kind).status)


def active_run_id() -> str | None:
    """The id of the run that is active in this thread; takes less than a microsecond."""
    run = mlflow.active_run()
    return None if run is None else str(run.info.run_id)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(name, uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise ConfigError(
            f"`tracking.experiment` must name an experiment that is not deleted, but {name!r} is. Restore it with "
            "`mlflow experiments restore`, or choose another name."
        )
    return str(experiment.experiment_id)


def _artifact_location(experiment: str, uri: str) -> str | None:
    """Beside a SQLite store, absolute: MLflow's default is relative to wherever the reader was started."""
    path = sqlite_path(uri)
    return str(path.parent / "mlartifacts" / re.sub(r"[^\w.\-]", "_", experiment)) if path else None


@contextlib.contextmanager
def _store_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open a SQLite store: the migrations of a fresh one do not bear company."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_unreachable(uri: str) -> None:
    """Fail within seconds where MLflow would retry for four minutes. Any HTTP answer counts as being there."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_TIMEOUT_S).close()  # noqa: S310 - http(s) only
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"the tracking server {mask_credentials(uri)} does not answer ({error}). Start it, correct `tracking.uri` "
            "or $MLFLOW_TRACKING_URI, or train without tracking: `tracking=off`."
        ) from error
