"""A run that cannot be created yet, as its store is away: planned in a spool folder, and created by who ships that."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from mlflow import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from lrtape.errors import TrackingError
from lrtape.lines import warn
from lrtape.recording_options import EVERY_STEP
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Point, Status, now_ms
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.mlflow_run import MAX_TAG_CHARACTERS, MlflowRun
from lrtape.tracking.run_colors import next_color
from lrtape.tracking.store import experiment_id, opening
from lrtape.tracking.uri import mask_credentials

PLANNED = "lrtape.planned"
"""Tag of a run that was planned first: the id of its recording, by which it is found again."""
PLANNED_ID = "planned-"
"""Begins the id that stands for such a run's until it is there; the id of its recording follows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is created with. No credentials are in it.

    Attributes:
        recording_id: of the recording that the run is for.
        experiment: its name.
        run_name: ``None`` for a random one.
        params: all of them as text.
        tags: MLflow's own included, as they were where the training ran.
        start_ms: when the training began, in Unix milliseconds.
        datasets: what it trains on.
    """

    recording_id: str
    experiment: str
    run_name: str | None
    params: dict[str, str]
    tags: dict[str, str]
    start_ms: int
    datasets: list[LoggedDataset] = field(default_factory=list)


class PlannedRun:
    """Stands for an `MlflowRun` in a training whose store is away. Used by the training thread.

    Args:
        root: where the folders of spools are.
        tracking_uri: absolute.
        experiment: see `MlflowRun.create`, as the others.
        run_name: see there.
        params: see there; without credentials, as they are written to the disk.
        tags: see there, and the same.

    Raises:
        ConfigError: nothing can be written in `root`.

    Attributes:
        folder: of the spool, the plan and the artifacts.
    """

    is_owned = True

    def __init__(
        self,
        root: Path,
        tracking_uri: str,
        experiment: str,
        run_name: str | None,
        params: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> None:
        self.folder = SpoolFolder.create(root, "planned")
        self.tracking_uri = tracking_uri
        self.run_id = PLANNED_ID + self.folder.recording_id
        texts = {key: str(value) for key, value in params.items()}
        all_tags = {key: text[:MAX_TAG_CHARACTERS] for key, text in resolve_tags(dict(tags)).items()}
        plan = Plan(self.folder.recording_id, experiment, run_name, texts, all_tags, now_ms())
        self._write_plan(plan)

    def points_from(self, first_step: int) -> list[Point]:  # noqa: ARG002
        """Every row from `first_step` on: a run that does not exist has none."""
        return []

    def log_text(self, text: str, path: str) -> None:
        """Keep `text` for the artifact `path`. A failure is warned about, as in all that follow."""
        with _warning_of_failure(f"keep {path}"):
            target = self.folder.artifacts / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep tags for the run. Where it was created meanwhile, it gets none."""
        with _warning_of_failure(f"keep the tags {sorted(tags)}"):
            plan = self._read_plan()
            texts = {key: text[:MAX_TAG_CHARACTERS] for key, text in tags.items()}
            self._write_plan(replace(plan, tags=plan.tags | texts))

    def log_datasets(self, datasets: Sequence[LoggedDataset]) -> None:
        """Keep what the training trains on for the run."""
        with _warning_of_failure("keep what the data are"):
            self._write_plan(replace(self._read_plan(), datasets=list(datasets)))

    def _read_plan(self) -> Plan:
        return msgspec.json.decode(self.folder.plan.read_bytes(), type=Plan)

    def _write_plan(self, plan: Plan) -> None:
        new = self.folder.plan.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(plan))
        new.replace(self.folder.plan)

    @property
    def model_folder(self) -> Path:
        """See `MlflowRun.model_folder`."""
        return self.folder.model

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file for `folder` of the artifacts."""
        with _warning_of_failure(f"keep {path}"):
            target = self.folder.artifacts / (folder or "")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def finish(self, status: Status) -> None:  # noqa: ARG002 - the spool says it
        """Leave the end to whoever ships the spool; a plan without one was never used."""
        if not self.folder.spool.exists():
            self.folder.remove()

    def leave(self) -> None:
        """The end is left to others in any case."""

    def how_to_look(self) -> str:
        """Lines for people: where the run is."""
        if self.folder.plan.exists():
            return f"The run is still to be created: {self.folder.rescue_command}"
        return "The tracking store came back while training, and has the run now."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(Status.after(error))


@contextlib.contextmanager
def _warning_of_failure(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a full disk shall not fail the training
        warn(f"lrtape could not {what}: {error}")


def realize(folder: SpoolFolder, tracking_uri: str, record: str = EVERY_STEP) -> MlflowRun:
    """Create the run that is planned in `folder`, or find it, if that was done already.

    Args:
        folder: of the recording.
        tracking_uri: absolute, with credentials where they are needed.
        record: see `MlflowRun.begin_recording`.

    Raises:
        ConfigError: its experiment was deleted.
        TrackingError: the store does not answer, or refuses.
    """
    plan = msgspec.json.decode(folder.plan.read_bytes(), type=Plan)
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        experiment = experiment_id(client, plan.experiment, tracking_uri)
        found = client.search_runs([experiment], f"tags.`{PLANNED}` = '{plan.recording_id}'")
        if found:
            run_id = found[0].info.run_id
        else:
            tags = next_color(client, experiment) | plan.tags | {PLANNED: plan.recording_id}
            run_id = client.create_run(experiment, plan.start_ms, tags, plan.run_name).info.run_id
        run = MlflowRun(tracking_uri, run_id)
        run.log_params(plan.params)
        run.log_datasets(plan.datasets)
    run.begin_recording(plan.recording_id, record)
    return run


def find_realized(run_id: str, experiment: str, tracking_uri: str) -> str:
    """The id of a run that was planned, now that it is there; any other id comes back as it is.

    Args:
        run_id: as the training had it.
        experiment: its name.
        tracking_uri: absolute.

    Raises:
        ConfigError: the experiment was deleted.
        TrackingError: the run was not created yet, or the store does not answer.
    """
    if not run_id.startswith(PLANNED_ID):
        return run_id
    recording_id = run_id.removeprefix(PLANNED_ID)
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        found = client.search_runs(
            [experiment_id(client, experiment, tracking_uri)], f"tags.`{PLANNED}` = '{recording_id}'"
        )
    if not found:
        raise TrackingError(
            f"the run must be in the store, but was only planned, and {mask_credentials(tracking_uri)} has none of "
            f"recording {recording_id} in experiment {experiment!r}. Run `lrtape recover` first."
        )
    return str(found[0].info.run_id)
