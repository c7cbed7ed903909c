import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

import lrtape
from lrtape.app.build import build_data, build_model, build_optimizer
from lrtape.app.checkpoint import Checkpoints, load_checkpoint
from lrtape.app.config import check
from lrtape.app.console import Console
from lrtape.app.data import Data
from lrtape.app.interrupts import Interrupts
from lrtape.app.models import MLP
from lrtape.app.overrides import portable
from lrtape.app.schedule import Length, build_schedule, resolve_horizons
from lrtape.app.trainer import Trainer
from lrtape.errors import ConfigError, TrainingDivergedError
from lrtape.session import Session
from lrtape.tape import Point, Tape
from lrtape.tracking.history import read_run

Compose = Callable[..., DictConfig]
Train = Callable[..., float]


class NotingSGD(torch.optim.SGD):
    """Notes what its update really uses: the truth, independent of any hook."""

    last: ClassVar["NotingSGD"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used: list[list[float]] = []
        self.norms: list[float] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        NotingSGD.last = self  # not in __init__: the schedule is rehearsed on another one
        self.used.append([float(group["lr"]) for group in self.param_groups])
        gradients = []
        for group in self.param_groups:
            for param in group["params"]:
                gradients.append(param.grad.clone())
                param -= group["lr"] * param.grad
        self.norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))


class NotingMLP(MLP):
    """Notes the type of its outputs."""

    dtypes: ClassVar[list[torch.dtype]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        if self.training:
            self.dtypes.append(outputs.dtype)
        return outputs


def far_sample() -> Data:
    """One sample whose target is so far away that its gradient, times GradScaler's first scale, has no float16."""
    dataset = TensorDataset(torch.ones(1, 10), torch.full((1, 2), 100.0))
    return Data(train=dataset, val=dataset, loss=nn.functional.mse_loss)


NOTING = ["optimizer=sgd", f"optimizer._target_={NotingSGD.__module__}.NotingSGD"]
ONE_SAMPLE = ["data=one_sample", "model.in_features=10", "model.out_features=2", "trainer.batch_size=1"]


class Memory:
    """A real session without a run, which also keeps what the trainer logs, and the recorded lrs at each loss."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._points: list[Point] = []
        self.lrs: list[list[float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def log(self, key: str, value: float, step: int) -> None:
        self._session.log(key, value, step)
        self._points.append(Point(key, step, 0, value))
        last = self._session.last
        if key == "train/loss" and last is not None and last.step == step:
            self.lrs.append(last.lrs)

    @property
    def tape(self) -> Tape:
        return Tape(self._points)


@dataclass
class Fitted:
    memory: Memory
    trainer: Trainer
    checkpoints: Checkpoints

    @property
    def used(self) -> list[list[float]]:
        return NotingSGD.last.used


@pytest.fixture
def fit(compose: Compose, tmp_path: Path) -> Iterator[Callable[..., Fitted]]:
    """Trains with the app's own parts; what is recorded stays in memory instead of going to MLflow."""

    def run(*overrides: str) -> Fitted:
        cfg = compose(*overrides)
        settings = check(cfg, Path.cwd())
        torch.manual_seed(settings.seed)
        data = build_data(cfg)
        length = Length.of(data, settings.trainer)
        cfg = resolve_horizons(cfg, length)
        model = build_model(cfg, data)
        optimizer = build_optimizer(cfg, model)
        schedule = build_schedule(cfg, optimizer)
        trainer = Trainer(model, data, optimizer, schedule, settings.trainer, torch.device("cpu"), settings.seed)
        checkpoints = Checkpoints(tmp_path / "checkpoints", "a_run", trainer.parts, portable(cfg), length)
        with (
            lrtape.attach(optimizer, run=None) as session,
            Console(settings.trainer, [group.name for group in session.groups], *length) as console,
        ):
            memory = Memory(session)
            trainer.fit(cast("Session", memory), console, checkpoints, Interrupts())
        return Fitted(memory, trainer, checkpoints)

    yield run
    NotingMLP.dtypes.clear()


def only_run(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(("accumulate", "steps_per_epoch"), [(1, 6), (4, 2)])
def test_what_is_in_mlflow_is_what_the_optimizer_used(
    train_in_process: Train, store: str, interval: str, accumulate: int, steps_per_epoch: int
) -> None:
    """Every group's lr of every step, equal, none missing, none doubled; also of the incomplete window at the end of an
    epoch: six batches, four at a time, are two steps. The loss is there at each step, validation at each epoch's last.
    """
    train_in_process(
        *NOTING,
        "param_groups=layerwise",
        "param_groups.factors={layer1: 0.1, layer3: 3}",
        "scheduler=steplr",
        f"scheduler.interval={interval}",
        "scheduler.step_size=2",
        "scheduler.gamma=0.7",
        "trainer.epochs=3",
        "trainer.batch_size=256",
        f"trainer.accumulate_grad_batches={accumulate}",
    )
    tape = read_run(only_run(store).info.run_id, store)
    used = NotingSGD.last.used
    n_steps = 3 * steps_per_epoch

    assert len(used) == n_steps
    assert [list(tape[f"lr/layer{i}"].values) for i in (1, 2, 3)] == [
        list(column) for column in zip(*used, strict=True)
    ]
    assert set(tape.lr) == {"lr/layer1", "lr/layer2", "lr/layer3"}
    for key in (*tape.lr, "train/loss"):
        assert list(tape[key].steps) == list(range(n_steps))
    for key in ("val/loss", "val/acc"):
        assert list(tape[key].steps) == [steps_per_epoch - 1, 2 * steps_per_epoch - 1, n_steps - 1]
    moved = {"step": (n_steps - 1) // 2, "epoch": 1}[interval]
    assert used[-1] == pytest.approx([factor * 0.1 * 0.7**moved for factor in (0.1, 1, 3)], rel=1e-12)


class NestedSGD(NotingSGD):
    """A user's own optimizer, whose `step()` calls its parent's: torch then calls the hooks of both."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)


def test_a_step_that_calls_its_parents_is_one_step(fit: Callable[..., Fitted]) -> None:
    """For the trainer as for the recorder: losses and lrs have the same indices, and the training is not cut short."""
    NotingSGD([nn.Parameter(torch.zeros(1))], lr=1.0)  # from now on NotingSGD.step has hooks of its own
    fitted = fit(*ONE_SAMPLE, "optimizer=sgd", f"optimizer._target_={__name__}.NestedSGD", "trainer.epochs=4")

    assert len(fitted.used) == 4
    assert list(fitted.memory.tape["train/loss"].steps) == [0, 1, 2, 3]
    assert fitted.memory.lrs == fitted.used


def test_accumulated_batches_are_one_big_batch(fit: Callable[..., Fitted]) -> None:
    """Four batches of 100 make the step that one batch of 400 makes, also where the last ones are smaller."""
    losses = []
    for size, accumulate in ((400, 1), (100, 4)):
        fitted = fit(
            *NOTING, "trainer.epochs=2", f"trainer.batch_size={size}", f"trainer.accumulate_grad_batches={accumulate}"
        )
        losses.append(list(fitted.memory.tape["train/loss"].values))

    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_step_that_overflows_is_no_step(fit: Callable[..., Fitted], interval: str) -> None:
    """GradScaler's first scale is too large here: the steps that it skips have no lr and no loss, and move no schedule.
    An epoch without a step moves none either, and its validation, which has no step to belong to, is not logged.
    """
    fitted = fit(
        *NOTING,
        *ONE_SAMPLE,
        "~data",
        f"+data._target_={__name__}.far_sample",
        "trainer.precision='16'",
        "trainer.epochs=16",
        "optimizer.lr=0.01",
        "scheduler=steplr",
        f"scheduler.interval={interval}",
        "scheduler.step_size=1",
        "scheduler.gamma=0.5",
    )
    n_steps = len(fitted.used)

    assert 0 < n_steps < 15
    assert fitted.trainer.scaler.get_scale() == 65536.0 / 2 ** (16 - n_steps)
    assert fitted.memory.lrs == fitted.used == [[0.01 * 0.5**step] for step in range(n_steps)]
    for key in ("train/loss", "val/loss"):
        assert list(fitted.memory.tape[key].steps) == list(range(n_steps))
    assert load_checkpoint(fitted.checkpoints.last)["next_step"] == n_steps


def test_a_fused_optimizer_that_overflows_makes_no_step(fit: Callable[..., Fitted]) -> None:
    """Its ``step()`` is called all the same, and updates nothing: tape and schedule are those without fusing."""
    plain, fused = (
        fit(
            *ONE_SAMPLE,
            "~data",
            f"+data._target_={__name__}.far_sample",
            "trainer.precision='16'",
            "trainer.epochs=16",
            "optimizer=sgd",
            "optimizer.lr=0.01",
            "optimizer.momentum=0",
            f"optimizer.fused={is_fused}",
            "scheduler=steplr",
            "scheduler.interval=step",
            "scheduler.step_size=1",
            "scheduler.gamma=0.5",
        )
        for is_fused in (False, True)
    )
    assert 0 < len(plain.memory.lrs) < 15
    assert fused.memory.lrs == plain.memory.lrs
    assert fused.trainer.skipped_steps == plain.trainer.skipped_steps
    for key in ("train/loss", "val/loss"):
        assert list(fused.memory.tape[key].steps) == list(plain.memory.tape[key].steps)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("'32'", torch.float32), ("bf16", torch.bfloat16), ("'16'", torch.float16)]
)
def test_the_precision_is_the_one_asked_for(fit: Callable[..., Fitted], precision: str, dtype: torch.dtype) -> None:
    """The model computes in that type, and learns."""
    fitted = fit(
        "optimizer=sgd",
        "optimizer.lr=0.05",
        f"model._target_={NotingMLP.__module__}.NotingMLP",
        "trainer.epochs=4",
        f"trainer.precision={precision}",
    )
    losses = fitted.memory.tape["val/loss"].values

    assert set(NotingMLP.dtypes) == {dtype}
    assert losses[-1] < 0.5 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_max_steps_ends_the_training(fit: Callable[..., Fitted]) -> None:
    """Whatever `epochs` says; the last epoch is cut short, validates, and the horizon is the real number of steps."""
    fitted = fit(
        *NOTING,
        "scheduler=cosineannealinglr",
        "trainer.max_steps=7",
        "trainer.epochs=1",
        "trainer.batch_size=512",
    )
    tape = fitted.memory.tape

    assert len(fitted.used) == 7
    assert fitted.memory.lrs == fitted.used
    assert fitted.trainer.length == Length(epochs=3, steps=7)
    assert list(tape["val/loss"].steps) == [2, 5, 6]
    assert fitted.trainer.schedule.scheduler.state_dict()["T_max"] == 7
    assert NotingSGD.last.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("precision", ["'32'", "'16'"])
def test_gradients_are_clipped(fit: Callable[..., Fitted], precision: str) -> None:
    """All gradients together are no longer than asked for when the optimizer gets them, scaled or not."""
    given = [*NOTING, "optimizer.lr=0.01", "trainer.epochs=3", f"trainer.precision={precision}"]
    fit(*given)
    free = NotingSGD.last.norms
    fit(*given, "trainer.clip_grad_norm=0.05")
    clipped = NotingSGD.last.norms

    assert min(free) > 0.1
    assert clipped == pytest.approx([0.05] * len(free), rel=1e-3)


def test_no_validation_between_epochs(fit: Callable[..., Fitted]) -> None:
    """`val_every_n_epochs` validates every so many epochs, and after the last one in any case."""
    tape = fit(*NOTING, "trainer.epochs=5", "trainer.batch_size=2000", "trainer.val_every_n_epochs=2").memory.tape

    assert list(tape["val/loss"].steps) == [1, 3, 4]


@pytest.mark.parametrize("every", [1, 2])
def test_best_is_the_lowest_loss_of_what_was_validated(fit: Callable[..., Fitted], every: int) -> None:
    """An epoch that does not validate is not best, however low its train/loss is."""
    fitted = fit("trainer.epochs=12", "trainer.batch_size=100", f"trainer.val_every_n_epochs={every}")
    losses = fitted.memory.tape["val/loss"]
    lowest = losses.steps[list(losses.values).index(min(losses.values))]

    assert load_checkpoint(fitted.checkpoints.best)["next_step"] == lowest + 1


def test_best_without_validation_is_the_lowest_train_loss(fit: Callable[..., Fitted]) -> None:
    """Data without `val` has a best checkpoint too."""
    fitted = fit(*NOTING, *ONE_SAMPLE, "optimizer.lr=0.6", "scheduler=steplr", "scheduler.gamma=9", "trainer.epochs=9")
    losses = list(fitted.memory.tape["train/loss"].values)

    assert losses.index(min(losses)) < 8, "the case is wrong: the last epoch is the best"
    assert load_checkpoint(fitted.checkpoints.best)["epoch"] == losses.index(min(losses)) + 1


def test_the_checkpoints_hold_everything(fit: Callable[..., Fitted]) -> None:
    """`last` and `best` load without executing anything; `best` is the epoch of the lowest val/loss, to the bit."""
    fitted = fit(
        *NOTING,
        "optimizer.lr=0.1",
        "scheduler=steplr",
        "scheduler.step_size=3",
        "scheduler.gamma=100",
        "trainer.epochs=6",
    )
    losses = fitted.memory.tape["val/loss"]
    last, best = (load_checkpoint(path) for path in (fitted.checkpoints.last, fitted.checkpoints.best))

    for checkpoint in (last, best):
        assert set(checkpoint) == {
            *("format", "run_id", "config", "length", "next_lrs", "rng"),
            *("model", "optimizer", "scheduler", "scheduler_calls", "scaler"),
            *("epoch", "next_step", "first_step", "losses", "order", "lowest", "stalled", "used_lrs"),
        }
        assert checkpoint["run_id"] == "a_run"
        assert set(checkpoint["rng"]) == {"python", "numpy", "torch", "cuda"}
    assert last["epoch"] == 6
    assert last["next_step"] == len(fitted.used)
    lowest = min(range(6), key=lambda epoch: losses.values[epoch])
    assert lowest < 5, "the case is wrong: the last epoch is the best"
    assert (best["epoch"], best["next_step"]) == (lowest + 1, losses.steps[lowest] + 1)

    model = fitted.trainer.model
    for checkpoint, loss in ((best, losses.values[lowest]), (last, losses.values[-1])):
        model.load_state_dict(checkpoint["model"])
        assert validate(model, fitted.trainer) == pytest.approx(loss, rel=1e-5)
    assert not list(fitted.checkpoints.folder.glob("*.new"))


@torch.no_grad()
def validate(model: nn.Module, trainer: Trainer) -> float:
    val: Any = trainer.data.val
    inputs, targets = default_collate([val[index] for index in range(len(val))])
    return float(trainer.data.loss(model.eval()(inputs), targets))


def test_a_checkpoint_fits_what_it_came_from(fit: Callable[..., Fitted]) -> None:
    """Optimizer, scheduler, scaler and generator take their states back from the file."""
    fitted = fit("scheduler=onecyclelr", "trainer.epochs=2", "trainer.precision='16'")
    checkpoint = load_checkpoint(fitted.checkpoints.last)
    trainer = fitted.trainer
    trainer.optimizer.load_state_dict(checkpoint["optimizer"])
    trainer.schedule.scheduler.load_state_dict(checkpoint["scheduler"])
    trainer.scaler.load_state_dict(checkpoint["scaler"])
    torch.set_rng_state(checkpoint["rng"]["torch"])

    assert checkpoint["scheduler"]["last_epoch"] == checkpoint["next_step"]
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == trainer.optimizer.param_groups[0]["lr"]


PLATEAU = [
    "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "+scheduler.patience=0",
    "+scheduler.factor=0.5",
]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("monitor", ["val/loss", "train/loss"])
def test_a_scheduler_that_takes_a_metric(fit: Callable[..., Fitted], monitor: str, every: int) -> None:
    """ReduceLROnPlateau gets the monitored metric of each epoch that has it: the lrs are those of torch's own class
    that is given the recorded metric. In an epoch without validation it is not stepped.
    """
    fitted = fit(
        *NOTING,
        *PLATEAU,
        f"scheduler.monitor={monitor}",
        "optimizer.lr=3",
        "trainer.epochs=8",
        "trainer.batch_size=2000",
        f"trainer.val_every_n_epochs={every}",
    )
    series = fitted.memory.tape[monitor]
    metrics = dict(zip(series.steps, series.values, strict=True))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    expected = []
    for epoch in range(8):
        expected.append([float(optimizer.param_groups[0]["lr"])])
        if epoch in metrics:
            scheduler.step(metrics[epoch])

    assert fitted.memory.lrs == fitted.used == expected
    assert len(metrics) == (8 if monitor == "train/loss" or every == 1 else 4)
    assert expected[-1] < expected[0], "the case is wrong: nothing was reduced"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*PLATEAU, "scheduler.monitor=val/los"], "must be one of train/loss, val/loss, val/acc, but is 'val/los'"),
        ([*ONE_SAMPLE, *PLATEAU, "scheduler.monitor=val/loss"], "must be one of train/loss, but is 'val/loss'"),
        (PLATEAU, "`scheduler.monitor` must be set for ReduceLROnPlateau"),
        (["scheduler=steplr", "scheduler.monitor=val/loss"], "`scheduler.monitor` must be null for StepLR"),
        (["scheduler=constant", "scheduler.monitor=val/loss"], "`scheduler.monitor` must be null for Constant"),
        (["trainer.device=cuda"], "torch finds no CUDA"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    train_in_process: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], said: str
) -> None:
    """Before training: a metric that nobody measures, and a scheduler that takes none or needs one."""
    if "trainer.device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("there is CUDA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        train_in_process("trainer.epochs=1", "trainer.batch_size=2000", *overrides, "tracking=off")
    assert list(tmp_path.iterdir()) == []


DIVERGING = [*NOTING, *ONE_SAMPLE, "optimizer.lr=1e30", "trainer.epochs=6"]
"""The loss is finite, then infinite, then NaN."""


def test_a_loss_that_is_not_finite_is_recorded(train_in_process: Train, store: str) -> None:
    """The run goes on to its end; MLflow has the loss where it is finite, and `health/...` says where it is not."""
    train_in_process(*DIVERGING)
    run = only_run(store)
    metrics = {
        key: [row.step for row in MlflowClient(tracking_uri=store).get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }

    assert run.info.status == "FINISHED"
    assert metrics == {
        "lr/all": [0, 1, 2, 3, 4, 5],
        "train/loss": [0],
        "health/inf/train/loss": [1],
        "health/nan/train/loss": [2, 3, 4, 5],
    }


def test_a_loss_that_is_not_finite_ends_the_run_where_that_is_asked_for(train_in_process: Train, store: str) -> None:
    """`stop_on_nonfinite`: the error says which step, which loss and which lr; the run is FAILED and has all of it."""
    with pytest.raises(
        TrainingDivergedError, match=r"the loss of step 1 is inf.*learning rates of that step were \[1e\+30\]"
    ):
        train_in_process(*DIVERGING, "trainer.stop_on_nonfinite=true")
    run = only_run(store)

    assert run.info.status == "FAILED"
    assert len(NotingSGD.last.used) == 2
    tape = read_run(run.info.run_id, store)
    assert list(tape["lr/all"].values) == [1e30, 1e30]
    assert list(tape["train/loss"].values)[1] == math.inf


def test_of_changes_the_steps_of_the_checkpoints_are_stored_too(train_in_process: Train, store: str) -> None:
    """`tracking.record=changes`: the first and the last step, both sides of a drop, and the last one of each epoch, of
    which there is a checkpoint; everything else as ever. `tracking.lr_log10` goes with them.
    """
    train_in_process(
        *(
            "trainer.epochs=4",
            "trainer.batch_size=400",
            "scheduler=steplr",
            "scheduler.step_size=2",
            "optimizer.lr=1e-6",
        ),
        *("tracking.record=changes", "tracking.lr_log10=true"),
    )
    tape = read_run(only_run(store).info.run_id, store)
    n_steps = len(tape["train/loss"]) // 4

    assert n_steps > 2
    assert list(tape["train/loss"].steps) == list(range(4 * n_steps))
    for key in ("lr/all", "lr_log10/all"):
        assert list(tape[key].steps) == [0, n_steps - 1, 2 * n_steps - 1, 2 * n_steps, 3 * n_steps - 1, 4 * n_steps - 1]
    assert sorted(set(tape["lr_log10/all"].values)) == [-7.0, -6.0]


def test_the_seed_decides_everything(train_in_process: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same loss and the same weights, bit for bit; another one does not."""
    monkeypatch.chdir(tmp_path)
    results = []
    for seed in (1, 1, 2):
        loss = train_in_process(f"seed={seed}", "trainer.epochs=2", "trainer.batch_size=256", "tracking=off")
        checkpoint = load_checkpoint(tmp_path / "output" / "checkpoints" / "last.pt")
        results.append((loss, checkpoint["model"]["layer1.weight"].tolist(), checkpoint["rng"]["torch"].tolist()))

    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    assert results[0][1] != results[2][1]
