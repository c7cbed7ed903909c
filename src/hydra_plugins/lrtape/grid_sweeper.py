"""``hydra/sweeper=lrtape_grid``, the default of lrtape's app."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridSweeperConfig:
    """What can be set: ``hydra.sweeper.max_batch_size``, how many jobs the launcher is given at a time; null: all."""

    _target_: str = "hydra_plugins.lrtape.grid_sweeper.GridSweeper"
    max_batch_size: int | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="lrtape_grid", node=GridSweeperConfig, provider="lrtape")


class GridSweeper(Sweeper):
    """Trains every point of a grid, or of a union of grids, as the children of one run."""

    def __init__(self, max_batch_size: int | None = None) -> None:
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra, before `sweep`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Called by Hydra with the overrides of the command line; raises what `lrtape.app.sweep.driver.drive` does."""
        from lrtape.app.sweep.driver import drive  # late: it takes seconds to import

        assert self.config is not None  # noqa: S101 - Hydra has called setup
        assert self.hydra_context is not None  # noqa: S101
        return drive(self.config, self.hydra_context, self.task_function, arguments, self.max_batch_size)
