from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import DictConfig

from lrtape.app.build import build_data, build_model
from lrtape.tracking.history import read_run

Train = Callable[..., float]


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "output" / "checkpoints" / "last.pt", weights_only=True)["model"]
    return found


def test_lbfgs_trains_as_in_a_loop_by_hand_and_each_step_is_recorded_once(
    train_in_process: Train,
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
) -> None:
    """However often it evaluates the model, a step is one step; its loss is the one before the update."""
    monkeypatch.chdir(tmp_path)
    cfg = compose("experiment=steplr")
    lbfgs = "optimizer={_target_: torch.optim.LBFGS, lr: 0.5, max_iter: 4, line_search_fn: strong_wolfe}"
    train_in_process("experiment=steplr", "~optimizer", f"+{lbfgs}", "trainer.epochs=4")

    torch.manual_seed(cfg.seed)
    data = build_data(cfg)
    model = build_model(cfg, data)
    sample = data.train[0]
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    losses = []

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = data.loss(model(sample[0][None]), sample[1][None])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.5 if step < 2 else 0.05
        losses.append(optimizer.step(evaluate).item())  # type: ignore[no-untyped-call]

    for name, weight in weights(tmp_path).items():
        torch.testing.assert_close(weight, model.state_dict()[name])
    client = MlflowClient(store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    tape = read_run(run.info.run_id, store)
    assert tape["lr/all"].values == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert tape["train/loss"].values == pytest.approx(losses, rel=1e-5)


def test_lbfgs_sees_all_batches_of_a_step(
    train_in_process: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With accumulation each evaluation is over the whole window: two halves are one batch."""
    monkeypatch.chdir(tmp_path)
    found = []
    for batches in (["trainer.batch_size=1437"], ["trainer.batch_size=719", "trainer.accumulate_grad_batches=2"]):
        # One iteration: a second one would make much of the last digit of the gradients.
        train_in_process("optimizer=lbfgs", "optimizer.max_iter=1", *batches, "trainer.epochs=1", "tracking=off")
        found.append(weights(tmp_path))

    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4)
