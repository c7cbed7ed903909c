"""What pages take for granted: the names that their Python uses and does not make, and the files that it reads."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

import lrtape
from lrtape.tape import Point
from lrtape.tape_file import write_tape

Names = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """A page that is read.

    Attributes:
        folder: where its blocks are run.
        run_id: of a training that was recorded there.
        stack: is closed at the end of the page.
    """

    folder: Path
    run_id: str
    stack: ExitStack


def a_loop(reading: Reading) -> Names:
    """Three steps of a backbone and a head, and the run of another training."""
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer = SGD(
        [
            {"params": backbone.parameters(), "lr": 1e-5, "name": "backbone"},
            {"params": head.parameters(), "lr": 1e-3, "name": "head"},
        ]
    )
    scheduler = ExponentialLR(optimizer, 0.1)

    def train_step() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = head(backbone(torch.ones(1, 2))).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    def train() -> None:
        for _ in range(3):
            train_step()
            scheduler.step()

    names: Names = {"optimizer": optimizer, "scheduler": scheduler, "train": train, "train_step": train_step}
    names |= {"model": nn.Sequential(backbone, head), "n_steps": 10, "run_id": reading.run_id}
    return names | {"torch": torch, "lrtape": lrtape}


def a_schedule_that_is_wrong(reading: Reading) -> Names:
    """A gamma that is meant for epochs, in a training of 200 steps."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = ExponentialLR(optimizer, 0.9)
    tape = lrtape.simulate(optimizer, scheduler, 200)
    return {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "loader": [0] * 20,
        "epochs": 10,
        "tape": tape,
        "lrtape": lrtape,
    }


def a_tape_file(reading: Reading) -> Names:
    """The file that the page reads."""
    write_tape(reading.folder / "tape-1a2b3c4d.parquet", [Point("lr/all", 0, 1, 0.1)], {"recording_id": "1a2b3c4d"})
    return {}


def a_study(reading: Reading) -> Names:
    """Optuna's record of a search, as lrtape leaves it behind."""
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder = reading.folder / ".lrtape" / "sweeps" / "SWEEP"
    folder.mkdir(parents=True)
    study = create_study(
        study_name="RUN_ID", storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    )
    study.optimize(lambda trial: trial.suggest_float("scheduler.gamma", 0.1, 0.9), n_trials=4)
    return {}


def one_rank(reading: Reading) -> Names:
    """A process that torchrun has started, alone."""
    patch = reading.stack.enter_context(pytest.MonkeyPatch.context())
    store = f"file://{reading.folder}/rendezvous"
    init = torch.distributed.init_process_group
    patch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend: init(backend, init_method=store, rank=0, world_size=1),
    )
    reading.stack.callback(torch.distributed.destroy_process_group)
    model = nn.Linear(2, 1)

    def train() -> None:
        model(torch.ones(1, 2)).sum().backward()

    names: Names = {"torch": torch, "model": model, "train": train, "lrtape": lrtape}
    return names | {"DistributedDataParallel": DistributedDataParallel}


def a_net_for_frameworks(reading: Reading) -> Names:
    """A model and data that Lightning and transformers both can train."""
    lightning: Any = pytest.importorskip("lightning.pytorch", reason="not installed: pip install lrtape[lightning]")
    pytest.importorskip("accelerate", reason="not installed: pip install lrtape[transformers]")
    patch = reading.stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("HF_HUB_OFFLINE", "1")

    class Net(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.head(x).square().mean()}

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            return self.forward(**batch)["loss"]

        def configure_optimizers(self) -> SGD:
            return SGD(self.named_parameters(), lr=0.1)

    class Rows(list[dict[str, Tensor]]):
        """Lightning would take a list for several loaders."""

    return {"model": Net(), "data": Rows({"x": torch.randn(4)} for _ in range(8))}


SET_UP: dict[str, Callable[[Reading], Names]] = {
    "README.md": a_loop,
    "docs/ddp.md": one_rank,
    "docs/findings.md": a_schedule_that_is_wrong,
    "docs/frameworks.md": a_net_for_frameworks,
    "docs/optuna.md": a_study,
    "docs/record.md": a_loop,
    "docs/tape.md": a_tape_file,
}
"""By page. A page that is not here makes all names that it uses."""
