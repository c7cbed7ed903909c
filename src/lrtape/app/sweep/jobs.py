"""The trainings of a sweep as Hydra sees them: their configs, and the launcher that they are given to."""

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from lrtape.app.config import Settings, check
from lrtape.app.sweep.callback import SweepCallback
from lrtape.app.sweep.grid import quote
from lrtape.app.sweep.launchers import gpus_to_share, prepare_launcher
from lrtape.app.sweep.planning import Compose
from lrtape.trials import Trial

Launch = Callable[[Sequence[Trial]], Sequence[JobReturn]]
"""Trains some trials, and returns when they are done; it raises where it has lost some of them."""

_MAX_FOLDER_CHARACTERS = 100


def check_sweep(config: DictConfig) -> Settings:
    """The settings of a sweep, as Hydra composed it, with Hydra's own node; raises what `check` does."""
    return check(_of_the_task(config), Path(config.hydra.runtime.cwd))


def choice_of(config: DictConfig) -> str:
    """Which config of the group ``sweep`` was chosen, for people; empty for none."""
    choice = config.hydra.runtime.choices.get("sweep")
    return "" if choice in {None, "default"} else str(choice)


def composing(config: DictConfig, context: HydraContext) -> Compose:
    """What makes the config of a trial from its overrides."""

    def compose(overrides: Sequence[str]) -> DictConfig:
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        HydraConfig.instance().set_config(composed)
        return _of_the_task(composed)

    return compose


class JobLauncher:
    """Gives trials to a launcher of Hydra's, with folders that are named after what is trained in them."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._n_launched = 0

    @classmethod
    def of(
        cls,
        config: DictConfig,
        context: HydraContext,
        task_function: TaskFunction,
        settings: Settings,
        n_trials: int,
    ) -> "JobLauncher":
        """The one that the config asks for, fit to this machine; raises what `prepare_launcher` does."""
        prepare_launcher(config, settings.tracking.uri if settings.tracking.enabled else None, n_trials)
        SweepCallback.of(context).gpus = gpus_to_share(config)
        return cls(
            Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=config)
        )

    def __call__(self, trials: Sequence[Trial]) -> Sequence[JobReturn]:
        """Train these, and return when they are done."""
        jobs = [[*trial.overrides, f"hydra.sweep.subdir={quote(_folder(trial))}"] for trial in trials]
        returns = self._launcher.launch(jobs, initial_job_idx=self._n_launched)
        self._n_launched += len(trials)
        return returns


def _folder(trial: Trial) -> str:
    name = re.sub(r"[^\w.=,+-]+", "_", trial.name)[:_MAX_FOLDER_CHARACTERS].strip("._")
    return f"{name}-{trial.id}"


def _of_the_task(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own node."""
    task = copy.deepcopy(config)
    with read_write(task):
        task._set_flag("struct", False)
        del task["hydra"]
        task._set_flag("struct", True)
    return task
