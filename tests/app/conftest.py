from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lrtape.app.config import check
from lrtape.app.train import train

Compose = Callable[..., DictConfig]
Train = Callable[..., float]


@pytest.fixture(autouse=True)
def no_hydra_left_over() -> Iterator[None]:
    """Hydra keeps its state in the process: no test inherits another one's."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def compose() -> Iterator[Compose]:
    """Composes the training's config with real Hydra: `compose("scheduler=steplr", "trainer.epochs=2")`."""
    with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
        yield lambda *overrides: hydra.compose("train", list(overrides))


@pytest.fixture
def train_in_process(compose: Compose, tmp_path: Path) -> Train:
    """Composes, checks and trains as the command does, with `tmp_path` as Hydra's folder of the run."""

    def run(*overrides: str) -> float:
        cfg = compose(*overrides)
        return train(cfg, check(cfg, Path.cwd()), tmp_path / "output", overrides)

    return run
