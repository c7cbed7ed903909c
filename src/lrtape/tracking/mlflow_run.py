"""One MLflow run, asked and changed through `MlflowClient`."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import mlflow
from mlflow import ActiveRun as ActiveRun
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Param, RunTag
from mlflow.tracking import fluent
from mlflow.tracking.context.registry import resolve_tags

from lrtape.errors import TrackingError
from lrtape.lines import warn
from lrtape.recording_options import CHANGES, EVERY_STEP
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Point, Status
from lrtape.tape_file import read_tape
from lrtape.tracking.dashboard import views_of
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.history import History
from lrtape.tracking.links import Links
from lrtape.tracking.nonfinite import from_store
from lrtape.tracking.preflight import refuse_unreachable
from lrtape.tracking.printed_links import masked_links
from lrtape.tracking.refusals import explain
from lrtape.tracking.run_colors import next_color
from lrtape.tracking.store import asking, experiment_id, opening
from lrtape.tracking.tags import (
    COMPLETE,
    ERROR,
    MAX_TAG_CHARACTERS,
    MISSING,
    PARENT_RUN_ID,
    RECORD,
    RECORDING,
    RUN_COLOR,
    US_PER_STEP,
    error_text,
)
from lrtape.tracking.uri import resolve_tracking_uri
from lrtape.trials import RUNNING

MAX_PARAMS_PER_REQUEST = 100
MAX_PARAM_CHARACTERS = 6000
MAX_LOOKS = 20
"""Whether a run is complete, while other recordings of it begin and end."""


class MlflowRun:
    """A run and the store that it is in. Used by companions, and by trainings before and after their steps.

    As a context manager it ends the run with `Status.after` of what was raised.

    Args:
        tracking_uri: absolute.
        run_id: a run that exists.
        is_owned: whether the run was started here, and is ended by `finish`.

    Attributes:
        folder: of the spool that is recorded for it now; ``None`` where none is.
    """

    folder: SpoolFolder | None = None

    def __init__(self, tracking_uri: str, run_id: str, is_owned: bool = False) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self.is_owned = is_owned
        self._is_to_end = is_owned
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
        parent_run_id: str | None = None,
    ) -> Self:
        """Start a run, which is ended by `finish`.

        Args:
            tracking_uri: see `resolve_tracking_uri`.
            experiment: its name; created if there is none.
            run_name: shown in the UI; a random one by default.
            params: logged as text; a text of more than 6,000 characters is cut, as MLflow would refuse it.
            tags: in addition to MLflow's own (user, source, git commit).
            parent_run_id: the run that it is nested in, of the same experiment.

        Raises:
            ConfigError: the URI is malformed, or the experiment was deleted.
            TrackingError: the store does not answer, or refuses.
        """
        uri = resolve_tracking_uri(tracking_uri)
        all_tags = {name: text[:MAX_TAG_CHARACTERS] for name, text in resolve_tags(dict(tags or {})).items()}
        if parent_run_id is not None:
            all_tags[PARENT_RUN_ID] = parent_run_id
        with opening(uri):
            client = MlflowClient(tracking_uri=uri)
            number = experiment_id(client, experiment, uri)
            if RUN_COLOR not in all_tags:
                all_tags |= next_color(client, number)
            info = client.create_run(number, run_name=run_name, tags=all_tags).info
            run = cls(uri, info.run_id, is_owned=True)
            try:
                run.log_params(params or {})
            except BaseException as error:  # Ctrl-C, too, shall leave no run that is RUNNING for ever
                run.finish(Status.after(error))
                raise
        return run

    @classmethod
    def join(cls, run_id: str, tracking_uri: str | None = None, is_owned: bool = False) -> Self:
        """Join a run that somebody else has started.

        Args:
            run_id: of a run that exists.
            tracking_uri: absolute; by default what ``mlflow.set_tracking_uri()`` or the environment says.
            is_owned: whether it was started for who joins it now, in another process.

        Raises:
            TrackingError: there is no such run, or the store does not answer.
        """
        uri = tracking_uri or resolve_tracking_uri(mlflow.get_tracking_uri())
        with opening(uri):
            return cls(uri, run_id, is_owned)

    @classmethod
    def reopen(cls, run_id: str, tracking_uri: str) -> Self:
        """Go on with a run whose training is over: it is RUNNING again, and ended by `finish`.

        Args:
            run_id: of a run that exists.
            tracking_uri: absolute.

        Raises:
            TrackingError: there is no such run, it was deleted, or the store does not answer.
        """
        with opening(tracking_uri):
            client = MlflowClient(tracking_uri=tracking_uri)
            run = client.get_run(run_id)
            if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                raise TrackingError(
                    f"the run to resume must not be deleted, but {run_id} is. Restore it with `mlflow runs restore "
                    f"--run-id {run_id}`, or train without it: tracking=off."
                )
            client.update_run(run_id, status=RUNNING)
            if ERROR in run.data.tags:
                client.delete_tag(run_id, ERROR)
            return cls(tracking_uri, run_id, is_owned=True)

    @property
    def model_folder(self) -> Path | None:
        """What is put there, by `save_model`, is the run's model once everything is stored; ``None`` for nowhere."""
        return None if self.folder is None else self.folder.model

    def last_steps(self) -> dict[str, int]:
        """The last step of every key, as it was recorded: see `nonfinite`. One request, however long the run is.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri):
            # The proto alone tells the step of the latest value (mlflow 3.17).
            rows = self._client.get_run(self.run_id).data.to_proto().metrics
        last: dict[str, int] = {}
        for row in rows:
            key = from_store(Point(row.key, row.step, row.timestamp, row.value)).key
            last[key] = max(row.step, last.get(key, row.step))
        return last

    def points_from(self, first_step: int) -> list[Point]:
        """Every row from `first_step` on. Takes one request where there is none, else 40 us for each row of their keys.

        Where not every step was stored, the tapes among the artifacts are asked, too.

        Raises:
            SpoolError: one of the tapes cannot be read.
            TrackingError: the store does not answer, or refuses.
        """
        history = History(self.run_id, self.tracking_uri)
        keys = [key for key, last_step in self.last_steps().items() if last_step >= first_step]
        points = [point for key in keys for point in history.points(key) if point.step >= first_step]
        return points + _taped(history, first_step) if keys and history.tags().get(RECORD) == CHANGES else points

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log params, each as text."""
        rows = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in params.items()]
        for start in range(0, len(rows), MAX_PARAMS_PER_REQUEST):
            self._client.log_batch(self.run_id, params=rows[start : start + MAX_PARAMS_PER_REQUEST])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags. A failure is warned about."""
        self._warn_on_failure("set tags", lambda: self.put_tags(tags))

    def log_datasets(self, datasets: Sequence[LoggedDataset]) -> None:
        """Note the data of the training, in one request; the run keeps one of each name and digest.

        A failure is warned about.
        """
        self._warn_on_failure("note the data", lambda: self.put_datasets(datasets))

    def put_datasets(self, datasets: Sequence[LoggedDataset]) -> None:
        """See `log_datasets`.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        if datasets:
            inputs = [dataset.as_input() for dataset in datasets]
            with asking(self.tracking_uri):
                self._client.log_inputs(self.run_id, inputs)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload one file into `folder` of the run's artifacts. A failure is warned about."""
        self._warn_on_failure(f"upload {path}", lambda: self.upload(path, folder))

    def upload(self, path: Path, folder: str | None = None) -> None:
        """Upload one file, or what is in a folder, into `folder` of the run's artifacts.

        Raises:
            Exception: whatever the store of artifacts raises, which may be any.
        """
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, path: str) -> None:
        """Upload `text` as the artifact `path`. A failure is warned about."""
        self._warn_on_failure(f"upload {path}", lambda: self._client.log_text(self.run_id, text, path))

    def tags(self) -> dict[str, str]:
        """What is noted about the run.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri):
            return dict(self._client.get_run(self.run_id).data.tags)

    def put_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        if not tags:
            return
        rows = [RunTag(key, text[:MAX_TAG_CHARACTERS]) for key, text in tags.items()]
        with asking(self.tracking_uri):
            self._client.log_batch(self.run_id, tags=rows)

    def begin_recording(self, recording_id: str, record: str = EVERY_STEP) -> None:
        """Note that a recording goes on: the run is not complete before `end_recording`.

        Args:
            recording_id: of its spool.
            record: ``every_step`` or ``changes``: what of it is stored.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        tags = {COMPLETE: "false", MISSING + recording_id: "still recording"}
        if self.is_owned:
            tags[RECORDING] = recording_id
        if record == CHANGES:
            tags[RECORD] = record
        with asking(self.tracking_uri):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def end_recording(self, recording_id: str, missing: str, us_per_step: float | None) -> None:
        """Note that everything of a recording is stored, or what is wrong.

        Args:
            recording_id: see `begin_recording`.
            missing: a sentence, or nothing.
            us_per_step: what recording one step took, in microseconds.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        mine = MISSING + recording_id
        with asking(self.tracking_uri):
            if missing:
                self._client.set_tag(self.run_id, mine, missing[:MAX_TAG_CHARACTERS])
            elif mine in self._client.get_run(self.run_id).data.tags:
                self._client.delete_tag(self.run_id, mine)
            if us_per_step is not None:
                self._client.set_tag(self.run_id, US_PER_STEP, f"{us_per_step:.2f}")
            # Asked once more after each change: of recordings that end together, the last one to write sees all.
            for _ in range(MAX_LOOKS):
                tags = self._client.get_run(self.run_id).data.tags
                is_complete = "false" if any(key.startswith(MISSING) for key in tags) else "true"
                if tags.get(COMPLETE) == is_complete:
                    break
                self._client.set_tag(self.run_id, COMPLETE, is_complete)

    def settle(self, status: Status, recording_id: str, tags: Mapping[str, str]) -> None:
        """Set the tags and the status of a run whose recording is over, unless its training was resumed meanwhile.

        Args:
            status: any that somebody has set already stays.
            recording_id: see `begin_recording`.
            tags: what the training has said of the run, and what has ended it.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        with asking(self.tracking_uri), masked_links(self.tracking_uri):
            run = self._client.get_run(self.run_id)
            if run.data.tags.get(RECORDING, recording_id) != recording_id:
                return
            try:
                self.put_tags(tags)
            finally:
                if run.info.status == RUNNING:
                    self._client.set_terminated(self.run_id, status)

    def finish(self, status: Status) -> None:
        """End the run if it was started here, once, and unless somebody has set a status.

        A failure is warned about: the training is over by then.
        """
        if self._is_to_end:
            self._is_to_end = False
            self._warn_on_failure(f"set run {self.run_id} to {status}", lambda: self._end(status))

    def _end(self, status: Status) -> None:
        now: str = self._client.get_run(self.run_id).info.status
        active = mlflow.active_run()
        with masked_links(self.tracking_uri):
            if active is not None and active.info.run_id == self.run_id:
                mlflow.end_run(status if now == RUNNING else now)  # and whatever MLflow itself has begun with it
            elif now == RUNNING:
                self._client.set_terminated(self.run_id, status)

    def leave(self) -> None:
        """Let whoever ships the rest end the run. Makes no request: the store may be away."""
        self._is_to_end = False
        # mlflow (3.17) would try for four minutes to end it, at the exit of the process.
        with contextlib.suppress(AttributeError, LookupError):
            stack = fluent._active_run_stack.get()  # type: ignore[no-untyped-call]
            if self.is_owned and stack and stack[-1].info.run_id == self.run_id:
                stack.pop()

    @property
    def links(self) -> Links:
        """Its pages in the UI."""
        return Links(self.tracking_uri, self.experiment_id, self.run_id)

    def how_to_look(self) -> str:
        """For people: see `Links.how_to_look`. A request."""
        return self.links.how_to_look(views_of(self))

    def _warn_on_failure(self, what: str, act: Callable[[], object]) -> None:
        try:
            refuse_unreachable(self.tracking_uri)  # MLflow would try for four minutes.
            act()
        except Exception as error:  # noqa: BLE001 - no failure of tracking may fail the training
            why = str(error) if isinstance(error, TrackingError) else explain(self.tracking_uri, error)
            warn(f"lrtape could not {what}: {why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_owned and (text := error_text(error)):
            self.set_tags({ERROR: text})
        self.finish(Status.after(error))


def _taped(history: History, first_step: int) -> list[Point]:
    with tempfile.TemporaryDirectory() as folder:
        tapes = [read_tape(path) for path in history.tapes(Path(folder))]
    return [
        Point(key, *row)
        for tape in tapes
        for key, series in tape.items()
        if len(later := series.since(first_step))
        for row in zip(later.steps, later.times_ms, later.values, strict=True)
    ]
