"""`tracking=server`: where it stands that there is none, and what a resumed training makes of its address."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lrtape.app.config import check
from lrtape.app.overrides import portable
from lrtape.app.resume import Resumption

URI = "http://ada:s3cret@tracking:5000"

Command = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    "sweep", [(), ("-m", "scheduler=steplr", "scheduler.gamma=0.1,0.5")], ids=["training", "sweep"]
)
def test_without_an_address_nothing_is_begun(command: Command, tmp_path: Path, sweep: tuple[str, ...]) -> None:
    """Exit code 2 and one sentence, before a store or a spool is made; in a sweep, too."""
    code, text = command(*sweep, "tracking=server")

    assert code == 2
    assert "$MLFLOW_TRACKING_URI must be the address of a tracking server with tracking=server, but is not set" in text
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / ".lrtape").exists()


@pytest.mark.parametrize("choice", ["server", "mlflow"])
def test_a_resumed_training_takes_its_address_from_the_environment_again(
    compose: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """Where it may hold a password, which stays out of the config."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    cfg = compose(f"tracking={choice}", "trainer.resume=last.pt")
    resumption = Resumption(Path("last.pt"), {"config": portable(cfg)})
    merged, settings = resumption.configure(cfg, check(cfg, Path.cwd()), [])

    assert settings.tracking.uri == URI
    assert merged.tracking.uri is None
