from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from lrtape.errors import ConfigError
from lrtape.tape import Tape
from lrtape.tracking.history import read_run
from noting import NotingSGD

pytest.importorskip("lightning.pytorch", reason="lightning is not installed: pip install lrtape[lightning]")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, Callback, ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.plugins import MixedPrecision

from lrtape.adapters.lightning import LRTape

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning has to say about tiny trainings
BATCHES = 10


class Net(LightningModule):
    """Two groups; the optimizer notes what it used."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.head(self.backbone(batch)).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.head(self.backbone(batch)).square().mean())

    def configure_optimizers(self) -> Any:
        self.noting = NotingSGD(
            [{"params": self.backbone.parameters(), "lr": 0.1}, {"params": self.head.parameters(), "lr": 0.01}]
        )
        scheduler = torch.optim.lr_scheduler.StepLR(self.noting, 3, 0.5)
        return [self.noting], [{"scheduler": scheduler, "interval": "step"}]


def data(batches: int = BATCHES) -> torch.utils.data.DataLoader[torch.Tensor]:
    return torch.utils.data.DataLoader(torch.randn(2 * batches, 4), batch_size=2)  # type: ignore[arg-type]


def trainer(logger: Any, *callbacks: Any, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    saving = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return Trainer(
        accelerator="cpu", logger=logger, callbacks=list(callbacks), enable_checkpointing=saving, **quiet | options
    )


def columns(tape: Tape, *keys: str) -> list[list[float]]:
    return [list(tape[key].values) for key in keys]


@dataclass
class Resumed:
    first: Net
    second: Net
    error: BaseException
    status_after_error: str
    tape: Tape
    run: Any


class WarmUp(Net):
    """Sets the lr of both groups in optimizer_step, ahead of the step, for the first 4 steps."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.trainer.global_step < 4:
            for index, group in enumerate(optimizer.param_groups):
                group["lr"] = (self.trainer.global_step + 1) / 4 * 0.1 ** (index + 1)
        optimizer.step(closure=optimizer_closure)


class Crash(Callback):
    def on_train_batch_end(self, trainer: Any, *args: object) -> None:
        if trainer.global_step == 8:
            raise ArithmeticError("the training's own")


@pytest.fixture(scope="module")
def resumed(module_store: str) -> Resumed:
    """Fails after step 7; goes on from a checkpoint of after step 4, in the same run."""
    first, second = WarmUp(), WarmUp()
    logger = MLFlowLogger(tracking_uri=module_store)
    saving = ModelCheckpoint("checkpoints", every_n_train_steps=5, save_top_k=-1)
    with pytest.raises(ArithmeticError) as caught:
        trainer(logger, LRTape(), saving, Crash(), max_steps=12).fit(first, data())
    status = MlflowClient(tracking_uri=module_store).get_run(logger.run_id).info.status
    again = MLFlowLogger(tracking_uri=module_store, run_id=logger.run_id)
    (checkpoint,) = Path("checkpoints").iterdir()
    trainer(again, LRTape(), max_steps=12).fit(second, data(), ckpt_path=str(checkpoint))
    run = MlflowClient(tracking_uri=module_store).get_run(logger.run_id)
    return Resumed(first, second, caught.value, status, read_run(logger.run_id, module_store), run)


def test_what_every_step_used_warm_up_and_resume_included(resumed: Resumed) -> None:
    """Every group's lr of every step is what the update took, also where optimizer_step sets it; each step once."""
    assert (len(resumed.first.noting.used[0]), len(resumed.second.noting.used[0])) == (8, 7)
    expected = [
        one[:5] + other for one, other in zip(resumed.first.noting.used, resumed.second.noting.used, strict=True)
    ]
    assert columns(resumed.tape, "lr/backbone", "lr/head") == expected
    assert list(resumed.tape["lr/head"].steps) == list(range(12))
    assert expected[0][:4] == [step / 4 * 0.1 for step in (1, 2, 3, 4)]


def test_lr_and_loss_share_their_steps(resumed: Resumed) -> None:
    """A row is under the number that Lightning's logger gives to the loss of the same batch, also after a resume."""
    assert sorted(set(resumed.tape["train/loss"].steps)) == list(resumed.tape["lr/backbone"].steps)


def test_an_exception_is_the_trainings_own(resumed: Resumed) -> None:
    """What the training raised comes out as it was, its run is FAILED, and FINISHED once it was resumed."""
    assert str(resumed.error) == "the training's own"
    assert (resumed.status_after_error, resumed.run.info.status) == ("FAILED", "FINISHED")
    assert resumed.run.data.tags["lrtape.complete"] == "true"


class Overflow(Net):
    """The gradients of the 12th batch, which is in the fourth update, are infinite."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.inf if self.trainer.fit_loop.epoch_loop.total_batch_idx == 11 else loss

    def configure_optimizers(self) -> Any:
        self.noting = NotingSGD(self.head.parameters(), lr=0.01)
        return [self.noting], [torch.optim.lr_scheduler.ExponentialLR(self.noting, 0.5)]


def test_accumulation_a_skipped_step_and_a_group_added_later(store: str) -> None:
    """Under accumulation a row an update; a step that a GradScaler skipped leaves a hole in both lr and numbering; the
    group that a fine-tuning callback adds begins with its first used lr, and renames nobody.
    """
    scaling = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
    net = Overflow()
    logger = MLFlowLogger(tracking_uri=store)
    finetuning = BackboneFinetuning(2, backbone_initial_lr=0.003)
    options = {"max_epochs": 3, "accumulate_grad_batches": 4, "plugins": [scaling]}
    trainer(logger, LRTape(), finetuning, **options).fit(net, data())

    tape = read_run(logger.run_id, store)
    assert columns(tape, "lr/head", "lr/backbone") == net.noting.used
    assert list(tape["lr/head"].steps) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert list(tape["lr/backbone"].steps) == [6, 7, 8]
    assert sorted(set(tape["train/loss"].steps)) == list(range(9))
    assert {key for key in tape if key.startswith("lr/")} == {"lr/head", "lr/backbone"}


class Gan(Net):
    """Two optimizers, stepped by hand; that of the critic three times a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        generator, critic = self.optimizers()
        for optimizer, times in ((generator, 1), (critic, 3)):
            for _ in range(times):
                optimizer.zero_grad()
                self.manual_backward(self.head(self.backbone(batch)).square().mean())
                optimizer.step()
                for group in optimizer.param_groups:
                    group["lr"] *= 0.9

    def configure_optimizers(self) -> Any:
        self.opt_g = NotingSGD(self.backbone.parameters(), lr=0.1)
        self.opt_d = NotingSGD(self.head.parameters(), lr=0.01)
        return [self.opt_g, self.opt_d]


def test_several_optimizers_have_their_names_and_their_own_counts(store: str) -> None:
    """Each is called by its attribute and counts by itself, where it makes several steps a batch; also resumed."""
    first, second = Gan(), Gan()
    logger = MLFlowLogger(tracking_uri=store)
    saving = ModelCheckpoint("checkpoints", every_n_train_steps=8, save_top_k=-1)  # optimizer steps: after 2 batches
    trainer(logger, LRTape(), saving, max_epochs=1, limit_train_batches=3).fit(first, data())
    again = MLFlowLogger(tracking_uri=store, run_id=logger.run_id)
    (checkpoint,) = Path("checkpoints").iterdir()
    trainer(again, LRTape(), max_epochs=1, limit_train_batches=5).fit(second, data(), ckpt_path=str(checkpoint))

    tape = read_run(logger.run_id, store)
    assert columns(tape, "lr/opt_g/backbone", "lr/opt_d/head") == [
        first.opt_g.used[0][:2] + second.opt_g.used[0],
        first.opt_d.used[0][:6] + second.opt_d.used[0],
    ]
    assert [list(tape[key].steps) for key in ("lr/opt_g/backbone", "lr/opt_d/head")] == [
        list(range(5)),
        list(range(15)),
    ]


class SetsInTrainingStep(Net):
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if batch_idx == 5:
            raise KeyboardInterrupt
        self.noting.param_groups[1]["lr"] = 0.1 * 0.5**batch_idx
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("always:lr/")
def test_an_lr_set_in_training_step_without_a_logger(store: str, recwarn: pytest.WarningsRecorder) -> None:
    """Lightning runs training_step within the optimizer's step: what it sets is what is used, and recorded, without a
    warning. Where there is no MLFlowLogger it goes into a new run, which is KILLED after Ctrl-C.
    """
    mlflow.set_tracking_uri(store)
    net = SetsInTrainingStep()
    with pytest.raises(SystemExit):
        trainer(False, LRTape(), max_steps=10).fit(net, data())

    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    tape = read_run(run.info.run_id, store)
    assert columns(tape, "lr/backbone", "lr/head") == net.noting.used
    assert list(tape["lr/head"].values) == [0.1 * 0.5**step for step in range(5)]
    assert run.info.status == "KILLED"
    assert [warning.message for warning in recwarn if "lr/" in str(warning.message)] == []


def test_an_option_that_does_not_exist_is_refused_at_once() -> None:
    """Not only when the training begins."""
    with pytest.raises(ConfigError, match="print_every is given"):
        LRTape(print_every=1)  # type: ignore[call-arg]


def test_a_second_training_in_one_run_has_a_name_of_its_own(store: str) -> None:
    """Without one it is refused before its first step; so no curve has two trainings in it."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        trainer(False, LRTape(), max_steps=2).fit(Net(), data())
        with pytest.raises(ConfigError, match=r"has a curve 'lr/backbone' already.*Start another run.*names="):
            trainer(False, LRTape(), max_steps=2).fit(Net(), data())
        trainer(False, LRTape(names=["again"]), max_steps=3).fit(Net(), data())

    tape = read_run(run.info.run_id, store)
    assert {key: len(series) for key, series in tape.lr.items()} == {
        "lr/backbone": 2,
        "lr/head": 2,
        "lr/again/backbone": 3,
        "lr/again/head": 3,
    }


class NoOptimizer(Net):
    def configure_optimizers(self) -> None:
        return None


@pytest.mark.parametrize(
    "use",
    [
        lambda net: trainer(False, LRTape()).validate(net, data(), verbose=False),
        lambda net: trainer(False, LRTape(), max_steps=0).fit(net, data()),
        lambda net: trainer(False, LRTape(), max_steps=1).fit(NoOptimizer(), data()),
        lambda net: trainer(False, LRTape(), fast_dev_run=True).fit(net, data()),
    ],
    ids=["validate", "no steps", "no optimizer", "fast_dev_run"],
)
def test_where_nothing_steps_nothing_is_opened(store: str, use: Callable[[Net], object]) -> None:
    """Validation, a fit without steps, one without an optimizer and a trial one leave no run and no spool."""
    mlflow.set_tracking_uri(store)
    use(Net())

    assert mlflow.active_run() is None
    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []
    assert not Path(".lrtape").exists()
