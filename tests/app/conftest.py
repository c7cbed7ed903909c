import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lrtape.app.config import check
from lrtape.app.main import FULL_ERROR, main
from lrtape.app.train import train

Compose = Callable[..., DictConfig]
Train = Callable[..., float]
Command = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def no_hydra_left_over() -> Iterator[None]:
    """Hydra keeps its state in the process: no test inherits another one's."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`train.py` with these arguments, in an empty folder: its exit code, and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv(FULL_ERROR, raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else -1
        return code, capsys.readouterr().err

    yield run
    os.environ.pop(FULL_ERROR, None)  # `main` tells Hydra so how to report errors


@pytest.fixture
def compose() -> Iterator[Compose]:
    """Composes the training's config with real Hydra: `compose("scheduler=steplr", "trainer.epochs=2")`.

    Without the model of the run, which takes a second and which one test file is about.
    """
    with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
        yield lambda *overrides: hydra.compose("train", ["tracking.log_model=off", *overrides])


@pytest.fixture
def train_in_process(compose: Compose, tmp_path: Path) -> Train:
    """Composes, checks and trains as the command does, with `tmp_path` as Hydra's folder of the run."""

    def run(*overrides: str) -> float:
        cfg = compose(*overrides)
        return train(cfg, check(cfg, Path.cwd()), tmp_path / "output", overrides)

    return run
