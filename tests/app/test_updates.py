from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from lrtape.app.updates import Updates
from lrtape.errors import StoppedOnFindingError
from lrtape.groups import ParamGroup, frozen_backbone, layerwise, thaw

Train = Callable[..., float]


class Forgetful(nn.Module):
    """Has a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 8)
        self.aside = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(pictures.flatten(1)).relu())
        return outputs


def without_the_flag(model: nn.Module, lr: float) -> list[ParamGroup]:
    """Somebody's own groups, one of which is frozen, and nobody says so."""
    for name, layer in model.named_children():
        layer.requires_grad_(name != "layer1")
    return [
        {"params": list(layer.named_parameters()), "lr": lr, "name": name} for name, layer in model.named_children()
    ]


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 1, 8, 8)).pow(2).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        lambda groups: torch.optim.SGD(groups, lr=0.1, fused=True),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
        lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    ],
)
def test_a_group_without_a_gradient_is_missing(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """And no other, whatever the optimizer keeps; weight decay does not move it either."""
    model = Forgetful()
    optimizer = make(layerwise(model, 0.1))
    updates = Updates(optimizer)
    assert updates.missing() == [0, 1, 2]
    before = model.aside.weight.clone()
    for _ in range(2):
        step(model, optimizer)
        assert updates.missing() == [1]
    assert torch.equal(model.aside.weight, before)


def test_what_has_moved_once_is_not_missing_later() -> None:
    """Also where the optimizer keeps nothing, and the gradients are gone by now."""
    model = Forgetful()
    optimizer = torch.optim.SGD(layerwise(model, 0.1), lr=0.1, fused=True)
    updates = Updates(optimizer)
    step(model, optimizer)
    updates.missing()
    optimizer.zero_grad()

    assert updates.missing() == [1]


def test_a_group_that_is_frozen_is_not_missed() -> None:
    """It is not to move; once thawed, it is."""
    model = Forgetful()
    optimizer = torch.optim.SGD(frozen_backbone(model, 0.1, unfreeze_at_epoch=1), lr=0.1)
    updates = Updates(optimizer)
    step(model, optimizer)
    assert updates.missing() == []
    thaw(optimizer.param_groups, 1)
    assert updates.missing() == [0]
    step(model, optimizer)
    assert updates.missing() == []


def verdict(store: str) -> str:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    text: str = run.data.tags["lr.verdict"]
    return text


HERE = __name__
FORGETFUL = ("~model", f"+model._target_={HERE}.Forgetful", "trainer.batch_size=512", "trainer.epochs=4")


@pytest.mark.parametrize(
    ("groups", "key"),
    [
        (("param_groups=layerwise",), "lr/aside"),
        (("~param_groups", f"+param_groups._target_={HERE}.without_the_flag", "model.hidden=[8]"), "lr/layer1"),
    ],
)
def test_a_training_names_the_group_that_never_moves(
    train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str], groups: tuple[str, ...], key: str
) -> None:
    """Once on stderr, and in the verdict; also after it was resumed, when all parameters have been loaded."""
    model = FORGETFUL if key == "lr/aside" else FORGETFUL[2:]
    train_in_process(*model, *groups)
    assert verdict(store).startswith(f"warning group-never-updated: {key} has an lr, and its parameters never change")
    assert capsys.readouterr().err.count("lrtape: ") == 1
    train_in_process("trainer.resume=last", "trainer.epochs=5", "trainer.resume_override=true")
    assert verdict(store).startswith(f"warning group-never-updated: {key} ")


def test_it_can_end_the_training(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """After its first epoch; a training in which all groups move goes on."""
    stop = "trainer.stop_on=[group-never-updated]"
    with pytest.raises(StoppedOnFindingError, match="names group-never-updated: lr/aside has an lr"):
        train_in_process(*FORGETFUL, "param_groups=layerwise", stop)
    assert torch.load(tmp_path / "output/checkpoints/last.pt", weights_only=True)["epoch"] == 1

    train_in_process("param_groups=layerwise", "trainer.epochs=2", "trainer.batch_size=512", "tracking=off", stop)
