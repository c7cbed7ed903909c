"""The run of a training that makes no request itself: planned in the folder of its spool, created by another process.

That is a companion, before the training starts; or, where the store is away, whoever ships the spool later. Either is
some seconds shorter than importing mlflow here. Imports no mlflow.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lrtape.errors import ConfigError
from lrtape.lines import warn
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Point, Status, now_ms
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.links import Links
from lrtape.tracking.tags import MAX_TAG_CHARACTERS, error_tag
from lrtape.tracking.uri import mask_credentials

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
        tags: as they were where the training ran; MLflow's own, too, as soon as somebody has tried to create the run.
        start_ms: when the training began, in Unix milliseconds.
        parent_run_id: the run that it is nested in; ``None`` for none.
        main_file: what was started there, for MLflow's own tags.
        datasets: what it trains on.
    """

    recording_id: str
    experiment: str
    run_name: str | None
    params: dict[str, str]
    tags: dict[str, str]
    start_ms: int
    parent_run_id: str | None = None
    main_file: str = ""
    datasets: list[LoggedDataset] = field(default_factory=list)


def read_plan(folder: SpoolFolder) -> Plan:
    """What is planned in a folder.

    Raises:
        OSError: nothing is.
    """
    return msgspec.json.decode(folder.plan.read_bytes(), type=Plan)


def write_plan(folder: SpoolFolder, plan: Plan) -> None:
    """Plan a run, or change the plan; a reader sees the old or the new one.

    Raises:
        OSError: the disk is full, say.
    """
    new = folder.plan.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(plan))
    new.replace(folder.plan)


class PlannedRun:
    """Has what a training calls of an `MlflowRun`, and keeps it in the spool's folder. Used by the training thread.

    Args:
        root: where the folders of spools are.
        tracking_uri: absolute.
        experiment: see `MlflowRun.create`, as the others.
        run_name: see there.
        params: see there; without credentials, as they are written to the disk.
        tags: see there, and the same.
        parent_run_id: see there.

    Raises:
        ConfigError: nothing can be written in `root`.

    Attributes:
        folder: of the spool, the plan and the artifacts.
        run_id: of the run, or one that stands for it as long as it is only planned.
        is_recorded: whether there is a spool: then whoever ships that ends the run.
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
        parent_run_id: str | None = None,
    ) -> None:
        self._new_root = None if root.exists() else root
        self.folder = SpoolFolder.create(root, "planned")
        self.tracking_uri = tracking_uri
        self.run_id = PLANNED_ID + self.folder.recording_id
        self.is_recorded = False
        self._views: Collection[str] = ()
        self._links: Links | None = None
        self._is_over = False
        self._tags: dict[str, str] = {}
        self._kept: dict[str, Path | str] = {}
        """Texts, and the paths of files, by their paths among the artifacts."""
        texts = {key: str(value) for key, value in params.items()}
        plan = Plan(
            *(self.folder.recording_id, experiment, run_name, texts, dict(tags), now_ms(), parent_run_id, sys.argv[0])
        )
        try:
            write_plan(self.folder, plan)
        except OSError as error:
            self.discard()
            raise ConfigError(f"`folder` must be a place where lrtape can write, but is not ({error}).") from error

    @property
    def is_created(self) -> bool:
        """Whether the run is there, as far as this process knows."""
        return self._links is not None

    def discard(self) -> None:
        """Leave nothing of the plan; nobody uses it."""
        self.folder.remove()
        if self._new_root is not None:
            with contextlib.suppress(OSError):  # Somebody else has begun to use it.
                self._new_root.rmdir()

    def created(self, run_id: str, experiment_id: str) -> None:
        """The run is there, and the folder is called after it; to be told before it is recorded."""
        self.run_id, self.folder = run_id, self.folder.renamed(run_id)
        self._links = Links(self.tracking_uri, experiment_id, run_id)

    def see_views(self, views: Collection[str]) -> None:
        """The experiment has these views now; see `Links.how_to_look`."""
        self._views = views

    def points_from(self, first_step: int) -> list[Point]:  # noqa: ARG002
        """Every row from `first_step` on: a new run has none."""
        return []

    def log_text(self, text: str, path: str) -> None:
        """Keep `text` for the artifact `path`. A failure is warned about, as in all that follow."""
        self._kept[path] = text
        with _warning_of_failure(f"keep {path}"):
            self._keep(path)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file for `folder` of the artifacts. It may be replaced later, but not be written to."""
        name = f"{folder}/{path.name}" if folder else path.name
        self._kept[name] = path
        with _warning_of_failure(f"keep {path}"):
            try:
                self._keep(name)
            except OSError:  # The disk is full: this process has to upload it.
                if not self.is_created:
                    raise
                from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

                MlflowRun.join(self.run_id, self.tracking_uri).upload(path, folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep tags, which the run gets before it ends."""
        self._tags |= {key: text[:MAX_TAG_CHARACTERS] for key, text in tags.items()}
        with _warning_of_failure(f"keep the tags {sorted(tags)}"):
            self.folder.save_tags(self._tags)

    def log_datasets(self, datasets: Sequence[LoggedDataset]) -> None:
        """Keep what the training trains on for the run; called before it is recorded."""
        with _warning_of_failure("keep what the data are"):
            write_plan(self.folder, replace(read_plan(self.folder), datasets=list(datasets)))

    def restore(self) -> None:
        """Keep once more what is still known, where somebody has deleted the folder; before the recording ends."""
        if self._tags:
            self.set_tags({})
        for path, source in self._kept.items():
            if isinstance(source, str) or source.exists():
                with _warning_of_failure(f"keep {path}"):
                    self._keep(path)

    def _keep(self, path: str) -> None:
        """Keep an artifact, which appears in one piece: it may be uploaded at once."""
        source, target, new = self._kept[path], self.folder.artifacts / path, self.folder.path / "artifact.new"
        target.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        if isinstance(source, str):
            new.write_text(source, encoding="utf-8")
        else:
            try:
                os.link(source, new)  # A checkpoint may be large.
            except OSError:
                shutil.copy(source, new)
        new.replace(target)

    @property
    def model_folder(self) -> Path:
        """See `MlflowRun.model_folder`."""
        return self.folder.model

    def finish(self, status: Status) -> None:
        """End a run that was never recorded; any other is left to whoever ships the spool."""
        self._finish_unrecorded(status, None)

    def _finish_unrecorded(self, status: Status, error: BaseException | None) -> None:
        if self.is_recorded or self._is_over:
            return
        self._is_over = True
        if self.is_created:
            # Late: mlflow takes a second to import.
            from lrtape.tracking.kept import note_datasets, upload_artifacts
            from lrtape.tracking.mlflow_run import MlflowRun

            with _warning_of_failure(f"set run {self.run_id} to {status}"):
                run = MlflowRun.join(self.run_id, self.tracking_uri, is_owned=True)
                with _warning_of_failure("hand over all that belongs to the run"):
                    run.put_tags({**self._tags, **error_tag(error)})
                    note_datasets(self.folder, run)
                    upload_artifacts(self.folder, run)
                run.finish(status)
        self.folder.remove()

    def leave(self) -> None:
        """The end is left to others in any case."""

    def how_to_look(self) -> str:
        """Lines for people: where the run is."""
        if self._links is not None:
            return self._links.how_to_look(self._views)
        if self.folder.plan.exists():
            return f"The run is still to be created: {self.folder.rescue_command}"
        return "The tracking store came back while training, and has the run now."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_unrecorded(Status.after(error), error)


@contextlib.contextmanager
def _warning_of_failure(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - neither a full disk nor a store may fail the training
        warn(f"lrtape could not {what}: {mask_credentials(str(error))}")
