"""The main job as a stranger runs it: a real command, a real store, every row compared."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from sklearn.datasets import load_digits

from lrtape.tracking.history import read_run

TRAIN_PY = Path(__file__).parents[2] / "train.py"
LRTAPE = Path(sys.executable).with_name("lrtape")
COMMANDS = {"train.py": [sys.executable, str(TRAIN_PY)], "lrtape train": [str(LRTAPE), "train"]}
N_TRAIN = len(load_digits().target) * 4 // 5
N_STEPS_PER_EPOCH = -(-N_TRAIN // 64)


def run(command: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    if command == "train.py" and not TRAIN_PY.exists():
        pytest.skip("the wheel is tested here, and train.py is not part of it")
    return subprocess.run([*COMMANDS[command], *overrides], cwd=folder, capture_output=True, text=True, check=True)


def steplr_by_torch_alone(lr: float, step_size: int, n_epochs: int) -> list[float]:
    """The lr that every step uses, from torch's own optimizer and scheduler, with no lrtape in sight."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size, 0.1)
    used = []
    for _ in range(n_epochs):
        for _ in range(N_STEPS_PER_EPOCH):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parametrize("command", COMMANDS)
def test_the_main_job_records_every_lr_of_every_group(command: str, tmp_path: Path) -> None:
    """`... scheduler=steplr`: 95 % of the digits right, and each row equal to what torch used."""
    begin = time.monotonic()
    out = run(command, tmp_path, "scheduler=steplr", "param_groups=layerwise", "param_groups.factors=[0.1,1.0,0.5]")
    seconds = time.monotonic() - begin
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (finished,) = client.search_runs([experiment.experiment_id])
    tape = read_run(finished.info.run_id, uri)

    assert seconds < 240  # a fifth of it where nothing else runs
    assert f"mlflow ui --backend-store-uri {uri}" in out.stdout
    assert finished.info.status == "FINISHED"
    assert finished.data.metrics["val/acc"] >= 0.95
    assert set(tape.lr) == {"lr/layer1", "lr/layer2", "lr/layer3"}
    for layer, factor in (("layer1", 0.1), ("layer2", 1.0), ("layer3", 0.5)):
        used = steplr_by_torch_alone(0.01 * factor, step_size=6, n_epochs=20)
        assert list(tape[f"lr/{layer}"].values) == used
        assert list(tape[f"lr/{layer}"].steps) == list(range(len(used)))
    assert len(tape["train/loss"]) == len(used)
    assert len(tape["val/acc"]) == 20
    assert list((tmp_path / ".lrtape").glob("*/spool")) == []
