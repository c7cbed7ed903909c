import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from torch import Tensor

from lrtape.app.checkpoint import load_checkpoint
from lrtape.app.config import check
from lrtape.app.data import digits
from lrtape.app.models import MLP
from lrtape.errors import ConfigError
from lrtape.recover import recover
from lrtape.tracking.history import History, read_run
from lrtape.tracking.saved_model import save_model
from lrtape.tracking.tags import COMPLETE, NOTE

Train = Callable[..., float]
Compose = Callable[..., Any]

SHORT = ["tracking.log_model=best", "trainer.epochs=2", "trainer.batch_size=1000", "param_groups=layerwise"]
N_STEPS = 2
"""In an epoch."""
DEADLINE_S = 60
GONE = "http://127.0.0.1:9"

PREDICT = """
import sys, mlflow, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model(sys.argv[2])
assert "lrtape" not in sys.modules
with torch.no_grad():
    torch.save([model(inputs) for inputs in torch.load(sys.argv[3])], sys.argv[3])
"""

MY_NET = """
import threading, torch

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        self.lock = threading.Lock()

    def forward(self, pictures):
        with self.lock:
            outputs = super().forward(pictures.flatten(1))
        return outputs * 2 if outputs.sum().item() > 0 else outputs
"""


def only_run(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name("lrtape")
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return run


def models_of(store: str, run: Any) -> list[Any]:
    return list(MlflowClient(tracking_uri=store).search_logged_models([run.info.experiment_id]))


def predicted_elsewhere(store: str, uri: str, folder: Path, batches: list[Tensor]) -> list[Tensor]:
    """What a fresh process, in an empty folder and without lrtape's path, predicts with a stored model."""
    folder.mkdir()
    file = folder / "batches.pt"
    torch.save(batches, file)
    command = [sys.executable, "-I", "-c", PREDICT, store, uri, str(file)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    predicted: list[Tensor] = torch.load(file)
    return predicted


def pictures() -> list[Tensor]:
    """Batches of three sizes."""
    val = digits().val
    assert val is not None
    return [torch.stack([val[index][0] for index in range(n_samples)]) for n_samples in (1, 2, 7)]


def test_the_best_checkpoint_is_the_model_of_its_run(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """A fresh process loads it by the run, without lrtape, and predicts exactly what the checkpoint does. It has a
    signature, an example, and the params of its run; the data are inputs of the run, and everything of the best step,
    the lrs too, is linked to the model and to the data, without one row more in the run.
    """
    train_in_process("scheduler=steplr", *SHORT)
    run = only_run(store)
    (model,) = models_of(store, run)
    best = load_checkpoint(tmp_path / "output" / "checkpoints" / "best.pt")
    step = best["next_step"] - 1

    net = MLP(64, [128, 64], 10).eval()
    net.load_state_dict(best["model"])
    with torch.no_grad():
        expected = [net(batch) for batch in pictures()]
    predicted = predicted_elsewhere(store, f"runs:/{run.info.run_id}/model", tmp_path / "elsewhere", pictures())
    assert [torch.equal(*pair) for pair in zip(predicted, expected, strict=True)] == [True] * 3

    assert (str(model.status), model.source_run_id) == ("READY", run.info.run_id)
    of_checkpoint = {"lrtape.epoch": str(best["epoch"] - 1), "lrtape.step": str(step), "lrtape.format": "pt2"}
    assert model.params == run.data.params | of_checkpoint
    assert model.tags["lr.verdict"] == run.data.tags["lr.verdict"]
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, step)]

    sides = {item.dataset.name: item for item in run.inputs.dataset_inputs}
    assert {name: {tag.key: tag.value for tag in side.tags} for name, side in sides.items()} == {
        "digits-train": {"mlflow.data.context": "train"},
        "digits-val": {"mlflow.data.context": "val"},
    }
    profile = {"num_samples": 1437, "input_shape": [1, 8, 8], "target_shape": [], "digest_of": "every sample"}
    train = sides["digits-train"].dataset
    assert json.loads(train.profile) == profile
    assert json.loads(train.source) == {"tags": {"target": "lrtape.app.data.digits"}}

    tape = read_run(run.info.run_id, store)
    of_step = {key: dict(zip(series.steps, series.values, strict=True))[step] for key, series in tape.items()}
    assert {*of_step} == {*(f"lr/layer{index}" for index in (1, 2, 3)), "train/loss", "val/loss", "val/acc"}
    assert {metric.key: metric.value for metric in model.metrics} == of_step
    data_of = {metric.key: (metric.dataset_name, metric.dataset_digest) for metric in model.metrics}
    assert data_of["val/acc"] == ("digits-val", sides["digits-val"].dataset.digest)
    assert data_of["train/loss"] == ("digits-train", train.digest)
    assert data_of["lr/layer1"] == (None, None)
    for key, series in tape.items():
        assert len(History(run.info.run_id, store).points(key)) == len(series) == len({*series.steps})

    files = Path(model.artifact_location)
    described = Model.load(str(files))
    assert str(described.signature.inputs) == "[Tensor('float32', (-1, 1, 8, 8))]"
    assert str(described.signature.outputs) == "[Tensor('float32', (-1, 10))]"
    example: Any = described.load_input_example(str(files))
    assert example.shape == (2, 1, 8, 8)
    assert (described.model_id, described.run_id) == (model.model_id, run.info.run_id)


def test_a_model_that_cannot_be_saved_fails_no_training(
    train_in_process: Train, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither traced nor pickled: one warning says where the checkpoint is, and the run is complete without."""
    (tmp_path / "my_locked_net.py").write_text(MY_NET)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=r"will have no model.*It is safe in .*best\.pt") as warned:
        train_in_process("~model", "+model._target_=my_locked_net.Net", *SHORT)
    run = only_run(store)

    assert sum("no model" in str(warning.message) for warning in warned) == 1
    assert (run.info.status, run.data.tags["lrtape.complete"]) == ("FINISHED", "true")
    assert models_of(store, run) == []


def test_a_resumed_training_has_one_model_at_the_end(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """Where its best step lies before it was resumed, too: that is linked to what an earlier recording has of it."""
    train_in_process("scheduler=steplr", *SHORT, "tracking.log_model=off")
    run = only_run(store)
    assert models_of(store, run) == []
    last = tmp_path / "output" / "checkpoints" / "last.pt"
    worse = ["trainer.epochs=3", "optimizer.lr=100", "trainer.resume_override=true", f"trainer.resume={last}"]
    with pytest.warns(UserWarning, match="jumps where the training was resumed"):
        train_in_process("scheduler=steplr", *SHORT, *worse)
    (model,) = models_of(store, run)
    step = 2 * N_STEPS - 1

    assert (str(model.status), model.params["lrtape.step"]) == ("READY", str(step))
    tape = read_run(run.info.run_id, store)
    assert len(tape["lr/layer1"].steps) == 3 * N_STEPS
    assert {metric.key: metric.value for metric in model.metrics} == {
        key: dict(zip(series.steps, series.values, strict=True))[step] for key, series in tape.items()
    }


def test_what_was_recorded_does_not_wait_for_the_model(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are there while the model is made, and the run has its page; it ends when it has the model, too."""
    seen: list[tuple[str, bool, int]] = []

    def save_late(*args: Any) -> str:
        deadline = time.monotonic() + DEADLINE_S
        while NOTE not in (run := only_run(store)).data.tags and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.append((run.info.status, NOTE in run.data.tags, len(read_run(run.info.run_id, store)["lr/layer1"])))
        return save_model(*args)

    monkeypatch.setattr("lrtape.app.best_model.save_model", save_late)
    train_in_process(*SHORT)
    (model,) = models_of(store, only_run(store))

    assert seen == [("RUNNING", True, 2 * N_STEPS)]
    assert only_run(store).info.status == "FINISHED"
    assert str(model.status) == "READY"


def test_who_interrupts_while_the_model_is_made_has_killed_the_training(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is there, and no model; the page says so, too."""

    def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrtape.app.best_model.save_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_in_process(*SHORT)
    run = only_run(store)

    assert run.info.status == "KILLED"
    assert run.data.tags[COMPLETE] == "true"
    assert len(read_run(run.info.run_id, store)["lr/layer1"]) == 2 * N_STEPS
    assert "the training was killed" in run.data.tags[NOTE]
    assert models_of(store, run) == []


def test_without_a_server_data_and_model_come_with_the_run(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recover` creates the run, its inputs and its model; no path of this machine is in what was planned of them."""
    monkeypatch.setattr("lrtape.shipper_process.ShipperProcess._start", lambda _: None)  # it would go on trying
    away = [f"tracking.uri={GONE}", "tracking.when_unreachable=spool", "tracking.close_timeout_s=0"]
    with pytest.warns(UserWarning, match="lrtape recover"):
        train_in_process(*SHORT, *away)
    (result,) = recover(Path(".lrtape"), store)
    run = only_run(store)
    (model,) = models_of(store, run)

    assert (result.problem, result.is_complete) == ("", True)
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["digits-train", "digits-val"]
    assert str(model.status) == "READY"
    assert {metric.key for metric in model.metrics} >= {"val/loss", "lr/layer1"}


def test_what_is_no_choice_is_refused(compose: Compose, tmp_path: Path) -> None:
    """Before anything is trained."""
    with pytest.raises(ConfigError, match=r"`tracking.log_model` must be one of best, off, but is 'all' instead"):
        check(compose("tracking.log_model=all"), tmp_path)
