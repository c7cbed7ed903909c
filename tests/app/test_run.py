import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import OmegaConf

from lrtape.app.run import flatten

ROOT = Path(__file__).parents[2]
Train = Callable[..., float]

SHORT = ["param_groups=layerwise", "trainer.epochs=10", "trainer.batch_size=1000"]


def only_run(store: str, experiment: str = "lrtape") -> Any:
    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_a_run_explains_itself(
    train_in_process: Train, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Params are the config in dotted keys, with shares resolved; tags say what was asked for; the config and the last
    checkpoint are there as artifacts; the console ends with how to look at all this; no spool is left.
    """
    overrides = ("scheduler=steplr", *SHORT, "seed=7")
    train_in_process(*overrides)
    run = only_run(store)
    params, tags = run.data.params, run.data.tags

    assert params["scheduler.name"] == "steplr"
    assert params["scheduler._target_"] == "torch.optim.lr_scheduler.StepLR"
    assert params["scheduler.step_size"] == "3"
    assert params["scheduler.gamma"] == "0.1"
    assert params["optimizer.betas"] == "[0.9, 0.999]"
    assert params["model.hidden"] == "[128, 64]"
    assert (params["seed"], params["trainer.epochs"], params["trainer.max_steps"]) == ("7", "10", "None")
    assert not any("${" in text or "%" in text for text in params.values())
    assert run.info.run_name == "steplr"

    assert tags["lrtape.version"] == version("lrtape")
    assert tags["lrtape.overrides"] == " ".join(overrides)

    client = MlflowClient(tracking_uri=store)
    artifacts = {
        file.path for folder in client.list_artifacts(run.info.run_id) for file in folder_of(client, run, folder)
    }
    tapes = {path for path in artifacts if fnmatch(path, "lr/tape-????????.parquet")}
    assert len(tapes) == 1
    of_the_lr = {f"lr/{name}" for name in ("curve.svg", "curve.html", "changes.csv", "findings.json")}
    config = {"config/resolved.yaml", "config/environment.json"}
    assert artifacts == {*config, "checkpoints/last.pt", "lr/planned-000000000.parquet", *of_the_lr, *tapes}
    downloaded = Path(client.download_artifacts(run.info.run_id, "config/resolved.yaml"))
    resolved = OmegaConf.load(downloaded)
    assert resolved.scheduler.step_size == 3
    assert flatten(OmegaConf.to_container(resolved)) == params
    checkpoint = torch.load(client.download_artifacts(run.info.run_id, "checkpoints/last.pt"), weights_only=True)
    assert checkpoint["run_id"] == run.info.run_id
    assert checkpoint["next_step"] == 20

    lines = capsys.readouterr().out.splitlines()
    assert f"To look:   mlflow ui --backend-store-uri {store}" in lines[-3:]
    assert f"/runs/{run.info.run_id}?workflowType=machine_learning" in lines[-1]
    assert "Learning rates: ok" in lines
    assert [path.name for path in (tmp_path / ".lrtape").iterdir()] == ["last"]
    assert set(run.data.metrics) == {*("lr/layer1", "lr/layer2", "lr/layer3", "train/loss", "val/loss", "val/acc")}


def folder_of(client: MlflowClient, run: Any, folder: Any) -> list[Any]:
    return list(client.list_artifacts(run.info.run_id, folder.path))


def test_where_and_under_which_name_is_a_matter_of_config(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """A URI is relative to the folder where the command was started; experiment and run have the given names."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "mlflow.db").rename(tmp_path / "deep" / "mine.db")
    train_in_process(
        "experiment=one_group",
        "trainer.epochs=1",
        "tracking.uri=sqlite:///deep/mine.db",
        "tracking.experiment=other",
        "tracking.run_name=first",
        "tracking.folder=spools",
    )
    run = only_run(f"sqlite:///{tmp_path / 'deep' / 'mine.db'}", "other")

    assert run.info.run_name == "first"
    assert run.data.metrics["lr/all"] == 0.001
    assert not (tmp_path / "mlflow.db").exists()
    assert [path.name for path in (tmp_path / "spools").iterdir()] == ["last"]
    assert not (tmp_path / ".lrtape").exists()


def test_without_tracking_nothing_is_left_but_checkpoints(
    train_in_process: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tracking=off` makes no store and no spool, and says so."""
    monkeypatch.chdir(tmp_path)
    train_in_process("experiment=one_group", "tracking=off")

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "output/checkpoints/best.pt",
        "output/checkpoints/last.pt",
    ]
    assert capsys.readouterr().out.splitlines()[-1].startswith("Nothing was tracked")
    assert torch.load(tmp_path / "output/checkpoints/last.pt", weights_only=True)["run_id"] == ""


def test_the_run_names_its_commit(store: str, tmp_path: Path) -> None:
    """Started from a git checkout, the run says which commit it was; the store is where the command was started."""
    git = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    (tmp_path / "train.py").write_bytes((ROOT / "train.py").read_bytes())
    for arguments in (["init", "-q"], ["add", "train.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True, cwd=tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, cwd=tmp_path, capture_output=True, text=True)
    ended = subprocess.run(
        [sys.executable, "train.py", "experiment=steplr", "trainer.epochs=2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ,
    )
    assert ended.returncode == 0, ended.stderr
    run = only_run(store)

    assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()
    assert run.data.tags["lrtape.overrides"] == "experiment=steplr trainer.epochs=2"
    assert f"mlflow ui --backend-store-uri {store}" in ended.stdout


def test_a_config_becomes_dotted_texts() -> None:
    """Nested mappings become dotted keys; lists and empty mappings stay texts; a URI loses its credentials."""
    config = {"a": {"b": {"c": 1}, "empty": {}}, "d": [1, 2], "e": None, "uri": "https://me:hush@host/x"}

    assert flatten(config) == {
        "a.b.c": "1",
        "a.empty": "{}",
        "d": "[1, 2]",
        "e": "None",
        "uri": "https://***@host/x",
    }
