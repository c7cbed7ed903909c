import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from lrtape.tape import Tape
from lrtape.tracking.history import read_run
from noting import NotingSGD

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install lrtape[transformers]")
pytest.importorskip("transformers", reason="transformers is not installed: pip install lrtape[transformers]")
os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import MLflowCallback

from lrtape.adapters.transformers import LRTapeCallback

pytestmark = pytest.mark.filterwarnings("ignore")  # what others have to say about tiny trainings
BATCHES = 10


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.head(self.backbone(x)).square().mean()}


def trainer(net: Net, optimizer: Any, *callbacks: Any, **options: Any) -> Trainer:
    """Trains `net` on batches of 2, logs every step, and prints nothing."""
    defaults = {"output_dir": "out", "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    args = TrainingArguments(logging_steps=1, per_device_train_batch_size=2, **defaults | options)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    rows = [{"x": torch.randn(4)} for _ in range(2 * BATCHES)]
    return Trainer(net, args, train_dataset=rows, callbacks=list(callbacks), optimizers=(optimizer, schedule))


def two_groups(net: Net) -> NotingSGD:
    return NotingSGD([{"params": net.backbone.parameters(), "lr": 0.1}, {"params": net.head.parameters(), "lr": 0.01}])


def columns(tape: Tape, *keys: str) -> list[list[float]]:
    return [list(tape[key].values) for key in keys]


class CrashAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise ArithmeticError("the training's own")


@dataclass
class Resumed:
    used: list[list[float]]
    tape: Tape
    run_ids: list[str]
    run: Any


@pytest.fixture(scope="module")
def resumed(module_store: str) -> Resumed:
    """Fails in step 8 of 12; goes on from a checkpoint of step 5. MLflowCallback is once ahead, once behind."""
    mlflow.set_tracking_uri(module_store)
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5}
    net = Net()
    first = two_groups(net)
    with pytest.raises(ArithmeticError, match="the training's own"):
        trainer(net, first, MLflowCallback(), LRTapeCallback(), CrashAt(8), **options).train()
    client = MlflowClient(tracking_uri=module_store)
    (run,) = client.search_runs(["0"])  # ended by MLflowCallback, when it was deleted
    run_id = run.info.run_id
    net = Net()
    second = two_groups(net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_RUN_ID", run_id)
        trainer(net, second, LRTapeCallback(), MLflowCallback(), **options).train(
            resume_from_checkpoint="out/checkpoint-5"
        )
    assert (len(first.used[0]), len(second.used[0])) == (8, 7)
    return Resumed(
        [one[:5] + other for one, other in zip(first.used, second.used, strict=True)],
        read_run(run_id, module_store),
        [run.info.run_id for run in client.search_runs(["0"])],
        client.get_run(run_id),
    )


def test_what_every_step_used_resume_included(resumed: Resumed) -> None:
    """Every group's lr of every step is what the update took, each step once, under the Trainer's own number."""
    assert columns(resumed.tape, "lr/backbone", "lr/head") == resumed.used
    assert list(resumed.tape["lr/head"].steps) == list(range(1, 13))


def test_one_run_whichever_callback_comes_first(resumed: Resumed) -> None:
    """MLflowCallback ahead or behind: loss and lr are in its run, at the same steps, and there is no other run."""
    assert resumed.run_ids == [resumed.run.info.run_id]
    assert resumed.run.info.status == "FINISHED"
    assert resumed.run.data.tags["lrtape.complete"] == "true"
    assert sorted(set(resumed.tape["loss"].steps)) == list(resumed.tape["lr/head"].steps)


class Thaw(TrainerCallback):
    def on_epoch_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any, model: Any, **kwargs: Any) -> None:
        if state.epoch == 2:
            optimizer.add_param_group({"params": list(model.backbone.parameters()), "lr": 0.003})


class Overflow(Net):
    """The gradients of the 12th batch, which is in the fourth update, are infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.batches += 1
        loss = super().forward(x)["loss"]
        return {"loss": loss * torch.inf if self.batches == 12 else loss}


def test_accumulation_a_skipped_step_and_a_group_added_later_after_a_failure(store: str) -> None:
    """A training that an exception ended leaves a FAILED run, and no trace in the next one. There: a row an update; a
    step that a GradScaler skipped leaves a hole; a group that is added begins with its first used lr, renaming nobody.
    """
    mlflow.set_tracking_uri(store)
    net = Net()
    with pytest.raises(ArithmeticError):
        trainer(net, two_groups(net), LRTapeCallback(), CrashAt(2)).train()
    active = mlflow.active_run()
    assert active is not None
    failed_id = active.info.run_id

    net = Overflow()
    optimizer = NotingSGD(net.head.parameters(), lr=0.01)
    training = trainer(
        net, optimizer, LRTapeCallback(), Thaw(), num_train_epochs=3, gradient_accumulation_steps=4, max_grad_norm=0
    )
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # accelerate makes one on a GPU only
    training.train()

    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs(["0"], f"attributes.run_id != '{failed_id}'")
    tape = read_run(run.info.run_id, store)
    assert columns(tape, "lr/head", "lr/backbone") == optimizer.used
    assert list(tape["lr/head"].steps) == [1, 2, 3, 5, 6, 7, 8, 9]
    assert list(tape["lr/backbone"].steps) == [7, 8, 9]
    assert set(tape) == {"lr/head", "lr/backbone", "health/skipped_steps"}
    assert run.info.status == "FINISHED"
    assert client.get_run(failed_id).info.status == "FAILED"
    assert len(read_run(failed_id, store)["lr/head"]) == 2


def test_the_trainers_own_optimizer_and_schedule(store: str) -> None:
    """The groups that the Trainer makes by itself follow its warm-up and decay; MLflowCallback has the first alone."""
    mlflow.set_tracking_uri(store)
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=16, **sizes))
    rows = [{"input_ids": torch.randint(16, (5,)), "labels": 0} for _ in range(20)]
    args = TrainingArguments(
        "out",
        report_to="mlflow",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        max_steps=10,
        warmup_steps=4,
        learning_rate=1e-3,
        logging_steps=1,
    )
    with mlflow.start_run() as run:
        Trainer(model, args, train_dataset=rows, callbacks=[LRTapeCallback()]).train()

    tape = read_run(run.info.run_id, store)
    expected = [1e-3 * (step / 4 if step < 4 else (10 - step) / 6) for step in range(10)]
    keys = sorted(key for key in tape if key.startswith("lr/"))
    assert keys == ["lr/group_00", "lr/group_01"]
    for key in keys:
        assert list(tape[key].values) == pytest.approx(expected)
        assert list(tape[key].steps) == list(tape["learning_rate"].steps) == list(range(1, 11))
    assert list(tape["learning_rate"].values) == list(tape["lr/group_00"].values)


def test_where_nothing_steps_nothing_is_opened(store: str) -> None:
    """An evaluation leaves no run and no spool."""
    mlflow.set_tracking_uri(store)
    net = Net()
    rows = [{"x": torch.randn(4)}]
    trainer(net, two_groups(net), LRTapeCallback(), label_names=[]).evaluate(rows)

    assert mlflow.active_run() is None
    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []
    assert not Path(".lrtape").exists()
