"""``hydra/launcher=lrtape_ray``: a sweep on Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.sweep.ray_settings import RaySettings


@dataclass
class RayLauncherConfig(RaySettings):
    """What can be set: ``hydra.launcher.address`` and so on."""

    _target_: str = "hydra_plugins.lrtape.ray_launcher.RayLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="lrtape_ray", node=RayLauncherConfig, provider="lrtape")


class RayLauncher(Launcher):
    """Trains each trial in a task of Ray; one that dies costs the others nothing, and is not begun again."""

    def __init__(self, **settings: Any) -> None:
        self.settings = RaySettings(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra, before `launch`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Called by a sweeper, in the driver; see `lrtape.app.sweep.ray_launch.launch_on_ray`."""
        from lrtape.app.sweep.ray_launch import launch_on_ray  # late: Ray is an extra

        return launch_on_ray(
            self.settings, self.hydra_context, self.task_function, self.config, job_overrides, initial_job_idx
        )
