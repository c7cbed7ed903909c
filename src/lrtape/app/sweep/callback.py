"""Tells every job of a sweep, wherever it runs, whose child it is. Imports nothing heavy: every command makes one."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig

from lrtape.app.sweep.child import Child, current_child
from lrtape.app.sweep.gpu_claims import claim_gpu
from lrtape.app.sweep.study_link import StudyLink
from lrtape.tracking.uri import mask_credentials, resolve_tracking_uri
from lrtape.trials import Trial


class SweepCallback(Callback):
    """A Hydra callback: made in the driver of a sweep, and copied by the launcher into the process of every job.

    So what it holds travels under every launcher, where environment variables and overrides do not.

    Attributes:
        parent_run_id: the sweep's run; empty where there is none, and outside of a sweep.
        experiment: of that run.
        tracking_uri: where it is; empty where that holds credentials, which every job has in its own environment.
        sweep_folder: of the driver, for what belongs to this sweep; empty where there is no run.
        gpus: of which each process that trains is to have one; see `claim_gpu`.
        trials: what a job trains, by its overrides.
        study: where a trial reports its epochs to; ``None`` in a grid.
    """

    def __init__(self) -> None:
        self.parent_run_id = ""
        self.experiment = ""
        self.tracking_uri = ""
        self.sweep_folder = ""
        self.gpus: tuple[str, ...] = ()
        self.trials: dict[tuple[str, ...], Trial] = {}
        self.study: StudyLink | None = None

    @classmethod
    def of(cls, context: HydraContext) -> "SweepCallback":
        """The one of a Hydra app; a new one, which no job will see, where its config has none."""
        return next((found for found in context.callbacks.callbacks if isinstance(found, cls)), cls())

    def join(self, parent_run_id: str, experiment: str, tracking_uri: str, sweep_folder: Path) -> None:
        """Make the jobs that are launched from now on the children of a run."""
        self.parent_run_id = parent_run_id
        self.experiment = experiment
        # Launchers write this to disk.
        self.tracking_uri = "" if mask_credentials(tracking_uri) != tracking_uri else tracking_uri
        self.sweep_folder = str(sweep_folder)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra in the process of a job, before it trains."""
        claim_gpu(self.gpus)
        overrides = tuple(config.hydra.overrides.task)
        trial = self.trials.get(overrides)
        child = None
        if trial is not None and self.parent_run_id:
            position = [*self.trials].index(overrides) if trial.number is None else trial.number
            child = Child(self.parent_run_id, trial, study=self.study, position=position)
        current_child.set(child)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Called by Hydra in the process of a job, when it has trained, or failed with an exception.

        A job that has failed before it had a run gets one, which says why.
        """
        child = current_child.get()
        current_child.set(None)
        if child is None or child.is_begun or job_return.status != JobStatus.FAILED:
            return
        from lrtape.tracking.sweep_runs import SweepRuns  # late: mlflow takes a second to import

        error = job_return._return_value
        uri = self.tracking_uri or resolve_tracking_uri(
            config.tracking.uri, Path(config.hydra.runtime.cwd), "`tracking.uri`"
        )
        tags = child.tags(Path(config.hydra.runtime.cwd, config.tracking.folder))
        store = SweepRuns(uri, self.experiment)
        store.put_failed(self.parent_run_id, child.trial.name, tags, f"{type(error).__name__}: {error}")
