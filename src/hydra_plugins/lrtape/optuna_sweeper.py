"""``hydra/sweeper=lrtape_optuna``: a search instead of a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lrtape.app.sweep.optuna_settings import OptunaSettings


@dataclass
class OptunaSweeperConfig(OptunaSettings):
    """What can be set: ``hydra.sweeper.n_trials`` and so on."""

    _target_: str = "hydra_plugins.lrtape.optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False  # the jobs build the pruner, too


ConfigStore.instance().store(group="hydra/sweeper", name="lrtape_optuna", node=OptunaSweeperConfig, provider="lrtape")


class OptunaSweeper(Sweeper):
    """Trains what a study of optuna's suggests, as the children of one run."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OptunaSettings(**{name: _plain(value) for name, value in settings.items()})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra, before `sweep`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Called by Hydra with the overrides of the command line; raises what `drive_search` does.

        Raises:
            ConfigError: optuna is not installed, or is another one than lrtape knows.
        """
        from lrtape.app.sweep.optuna_version import require_optuna  # late: everything here takes seconds to import

        require_optuna()

        from lrtape.app.sweep.search import drive_search

        assert self.config is not None  # noqa: S101 - Hydra has called setup
        assert self.hydra_context is not None  # noqa: S101
        return drive_search(self.config, self.hydra_context, self.task_function, arguments, self.settings)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
