"""The trial that this process trains now: how the training learns that its run is a child."""

import json
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from lrtape.app.sweep.study_link import StudyLink
from lrtape.tracking.tags import OBJECTIVE, POINT, RUN_COLOR, SEED, SLURM_JOB, THREADS, TRIAL, VALUES
from lrtape.trials import Trial


@dataclass(slots=True)
class Child:
    """A child of a sweep's run. Made by `SweepCallback` where a job begins, in the process that trains it.

    Attributes:
        parent_run_id: of the sweep's run.
        trial: what is trained.
        is_begun: whether it has a run.
        study: where its epochs are reported to; ``None`` in a grid.
        position: in the sweep, from 0; its colour.
    """

    parent_run_id: str
    trial: Trial
    is_begun: bool = False
    study: StudyLink | None = None
    position: int = 0

    def tags(self, folder: Path) -> dict[str, str]:
        """Of its run.

        Args:
            folder: where spools are, absolute.
        """
        import torch  # late: it takes a second to import

        from lrtape.app.sweep.liveness import whereabouts
        from lrtape.leaderboard import point_name
        from lrtape.tracking.run_colors import color_at

        return {
            RUN_COLOR: color_at(self.position),
            POINT: point_name(self.trial.name),
            TRIAL: self.trial.id,
            VALUES: json.dumps(dict(self.trial.values)),
            SEED: str(self.trial.seed),
            **whereabouts(folder),
            THREADS: str(torch.get_num_threads()),
            **({SLURM_JOB: job} if (job := slurm_job()) else {}),
        }


def slurm_job() -> str:
    """The job of Slurm that this process is; empty where it is none, or only runs in one that may outlive it."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return ""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def objective_tag(value: float) -> Mapping[str, str]:
    """What a child says of its objective."""
    return {OBJECTIVE: repr(value)}


current_child: ContextVar[Child | None] = ContextVar("current_child", default=None)
"""``None`` outside of a sweep."""
