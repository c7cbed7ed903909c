import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from lrtape.tracking.history import read_run
from noting import NotingSGD

EXAMPLES = Path(__file__).parents[2] / "examples"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.head(self.backbone(batch)).square().mean()
        return loss


def two_groups(net: Net) -> NotingSGD:
    return NotingSGD(
        [
            {"params": net.backbone.parameters(), "lr": 0.1, "name": "backbone"},
            {"params": net.head.parameters(), "lr": 0.01, "name": "head"},
        ]
    )


def train_of(recipe: str) -> Callable[..., None]:
    train: Callable[..., None] = runpy.run_path(str(EXAMPLES / recipe))["train"]
    return train


def check(store: str, run_id: str, optimizer: NotingSGD, steps: range) -> None:
    tape = read_run(run_id, store)
    assert [list(tape[key].values) for key in ("lr/backbone", "lr/head")] == optimizer.used
    assert all(list(tape[key].steps) == list(steps) for key in ("lr/backbone", "lr/head", "train/loss"))


def test_accelerate(store: str) -> None:
    """With accumulation over 4 batches: every group's lr of every update is what it used, beside the loss."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    net = Net()
    optimizer = two_groups(net)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    batches: Any = torch.utils.data.DataLoader(torch.randn(24, 4), batch_size=2)  # type: ignore[arg-type]
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
        train_of("accelerate_recipe.py")(accelerator, net, optimizer, scheduler, batches)

    assert len(optimizer.used[0]) == 3
    check(store, run.info.run_id, optimizer, range(3))


def test_ignite(store: str) -> None:
    """Every group's lr of every iteration is what the update used, under Ignite's own number, as is the loss."""
    engine = pytest.importorskip("ignite.engine", reason="ignite is not installed: pip install pytorch-ignite")
    net = Net()
    optimizer = two_groups(net)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def update(_: Any, batch: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = net(batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return float(loss.detach())

    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        train_of("ignite_recipe.py")(engine.Engine(update), optimizer, list(torch.randn(5, 2, 4)), max_epochs=2)

    assert len(optimizer.used[0]) == 10
    check(store, run.info.run_id, optimizer, range(1, 11))
