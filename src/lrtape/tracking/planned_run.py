"""The run of a training that makes no request itself: planned in the folder of its spool, created by another process.

That is a companion, before the training starts; or, where the store is away, whoever ships the spool later. So a
training need not import mlflow, which takes seconds; only what goes wrong makes it do so.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lrtape.errors import ConfigError
from lrtape.forks import call_in_forked_children
from lrtape.lines import warn
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Point, Status, now_ms
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.links import Links
from lrtape.tracking.run_spec import RunSpec, read_spec, write_spec
from lrtape.tracking.tags import ERROR, MAX_TAG_CHARACTERS, encodable, error_text
from lrtape.tracking.uri import mask_credentials

PLANNED_ID = "planned-"
"""Begins the id that stands for such a run's until it is there; the id of its recording follows."""
MAX_HELD_BYTES = 1 << 20
"""Of an artifact that is held in memory, too, for somebody may delete the folder."""


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
        self.folder = SpoolFolder.create(root, PLANNED_ID.rstrip("-"))
        self.tracking_uri = tracking_uri
        self.run_id = PLANNED_ID + self.folder.recording_id
        self.is_recorded = False
        self._views: Collection[str] = ()
        self._links: Links | None = None
        self._is_over = False
        self._tags: dict[str, str] = {}
        self._kept: dict[str, Path | bytes] = {}
        """What is in the artifacts, or the path of a large one, by their paths there."""
        self._spec = RunSpec(
            self.folder.recording_id,
            experiment,
            run_name,
            {key: encodable(str(value)) for key, value in params.items()},
            {key: encodable(text) for key, text in tags.items()},
            now_ms(),
            parent_run_id,
            encodable(sys.argv[0]),
            tracking_uri=mask_credentials(tracking_uri),
        )
        self._held: IO[bytes] | None = None
        call_in_forked_children(self.let_go)
        try:
            self._held = self.folder.hold()
            write_spec(self.folder, self._spec)
        except OSError as error:
            self.discard()
            raise ConfigError(f"`folder` must be a place where lrtape can write, but is not ({error}).") from error

    @property
    def is_created(self) -> bool:
        """Whether the run is there, as far as this process knows."""
        return self._links is not None

    def discard(self) -> None:
        """Leave nothing of the plan; nobody uses it."""
        self.let_go()
        self.folder.remove()
        if self._new_root is not None:
            with contextlib.suppress(OSError):  # Somebody else has begun to use it.
                self._new_root.rmdir()

    def let_go(self) -> None:
        """Hold the folder no longer: see `SpoolFolder.hold`."""
        if self._held is not None:
            self._held.close()
            self._held = None

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
        with _warning_of_failure(f"keep {path}"):
            self._kept[path] = encodable(text).encode()
            self._keep(path)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file for `folder` of the artifacts. It may be replaced later, but not be written to."""
        name = f"{folder}/{path.name}" if folder else path.name
        with _warning_of_failure(f"keep {path}"):
            self._kept[name] = path.read_bytes() if path.stat().st_size <= MAX_HELD_BYTES else path
            try:
                self._keep(name)
            except OSError:  # The disk is full: this process has to upload it.
                if not self.is_created:
                    raise
                from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

                MlflowRun.join(self.run_id, self.tracking_uri).upload(path, folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep tags, which the run gets before it ends."""
        self._tags |= {key: encodable(text)[:MAX_TAG_CHARACTERS] for key, text in tags.items()}
        with _warning_of_failure(f"keep the tags {sorted(tags)}"):
            self.folder.save_tags(self._tags)

    def log_datasets(self, datasets: Sequence[LoggedDataset]) -> None:
        """Keep what the training trains on for the run; called before it is recorded."""
        with _warning_of_failure("keep what the data are"):
            said = read_spec(self.folder) if self.folder.run_spec.exists() else self._spec  # with MLflow's own tags
            self._spec = replace(said, datasets=list(datasets))
            write_spec(self.folder, self._spec)

    def restore(self) -> None:
        """Keep everything once more, where somebody has deleted the folder; before the recording ends."""
        with _warning_of_failure("keep what the run is"):
            self.folder.path.mkdir(parents=True, exist_ok=True)
            write_spec(self.folder, self._spec)
            self.folder.save_tags(self._tags)
        for path in self._kept:
            with _warning_of_failure(f"keep {path}"):
                self._keep(path)

    def _keep(self, path: str) -> None:
        """Keep an artifact, which appears in one piece: it may be uploaded at once."""
        source, target, new = self._kept[path], self.folder.artifacts / path, self.folder.path / "artifact.new"
        target.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        if isinstance(source, bytes):
            new.write_bytes(source)
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
        """End a run that was never recorded, once; any other is left to whoever ships the spool."""
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
                    run.put_tags({**self._tags, **({ERROR: text} if (text := error_text(error)) else {})})
                    note_datasets(self.folder, run)
                    upload_artifacts(self.folder, run)
                run.finish(status)
        self.let_go()
        self.folder.remove()

    def leave(self) -> None:
        """The end is left to others in any case."""

    def how_to_look(self) -> str:
        """Lines for people: where the run is."""
        if self._links is not None:
            return self._links.how_to_look(self._views)
        if self.folder.run_spec.exists() and not self.folder.load_progress().run_id:
            return f"The run is still to be created: {self.folder.rescue_command}"
        return "The tracking store came back while training, and has the run now."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_unrecorded(Status.after(error), error)
        self.let_go()


@contextlib.contextmanager
def _warning_of_failure(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - neither a full disk nor a store may fail the training
        warn(f"lrtape could not {what}: {mask_credentials(str(error))}")
