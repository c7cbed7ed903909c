"""``hydra/launcher=lrtape_slurm``: a sweep on Slurm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.sweep.slurm_settings import SlurmSettings


@dataclass
class SlurmLauncherConfig(SlurmSettings):
    """What can be set: ``hydra.launcher.partition`` and so on."""

    _target_: str = "hydra_plugins.lrtape.slurm_launcher.SlurmLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="lrtape_slurm", node=SlurmLauncherConfig, provider="lrtape")


class SlurmLauncher(Launcher):
    """Trains several trials in each job of Slurm; a job that dies costs the others nothing."""

    def __init__(self, **settings: Any) -> None:
        self.settings = SlurmSettings(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra, before `launch`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by a sweeper, in the driver; see `lrtape.app.sweep.slurm.SlurmLaunch.run`."""
        from lrtape.app.sweep.slurm import SlurmLaunch  # late: submitit is an extra

        launch = SlurmLaunch(self.settings, self.hydra_context, self.task_function, self.config)
        return launch.run(job_overrides, initial_job_idx)
