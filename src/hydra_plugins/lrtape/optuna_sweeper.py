"""``hydra/sweeper=lrtape_optuna``: a search instead of a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class OptunaSweeperConfig:
    """What can be set, as ``hydra.sweeper.n_trials=40``; ``docs/optuna.md`` says what each key means."""

    _target_: str = "hydra_plugins.lrtape.optuna_sweeper.OptunaSweeper"
    _recursive_: bool = False  # the jobs build the pruner, too
    n_trials: int = 20
    n_jobs: int | None = None
    sampler: Any = "tpe"
    pruner: Any = "none"
    seed: int = 0
    max_failed: int | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="lrtape_optuna", node=OptunaSweeperConfig, provider="lrtape")


class OptunaSweeper(Sweeper):
    """Trains what a study of optuna's suggests, as the children of one run."""

    def __init__(
        self, n_trials: int, n_jobs: int | None, sampler: Any, pruner: Any, seed: int, max_failed: int | None
    ) -> None:
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.sampler = _plain(sampler)
        self.pruner = _plain(pruner)
        self.seed = seed
        self.max_failed = max_failed

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
        from lrtape.app.sweep.search_plan import SearchOptions

        assert self.config is not None  # noqa: S101 - Hydra has called setup
        assert self.hydra_context is not None  # noqa: S101
        options = SearchOptions(self.n_trials, self.n_jobs, self.sampler, self.pruner, self.seed, self.max_failed)
        return drive_search(self.config, self.hydra_context, self.task_function, arguments, options)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
