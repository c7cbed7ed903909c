import json
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import Dataset

from lrtape.app.bookmark import Bookmark
from lrtape.app.checkpoint import load_checkpoint
from lrtape.app.data import Data
from lrtape.app.interrupts import Interrupted
from lrtape.errors import ConfigError, TrackingError
from lrtape.spool import SpoolReader
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Finding
from lrtape.tracking.history import read_run
from rig.shippers import kill_shipper

Train = Callable[..., float]

N_EPOCHS = 4
N_STEPS = 12
"""Five batches make three steps of two batches at most."""


class Trace:
    """What a training did, seen by its own optimizer and loss; and when to press Ctrl-C."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[float]]] = []
        self.stop_at_step: int | None = None
        self.stop_at_validation: int | None = None

    @property
    def steps(self) -> int:
        return sum(kind == "lrs" for kind, _ in self.seen)

    @property
    def validations(self) -> int:
        return sum(kind == "val" for kind, _ in self.seen)


trace = Trace()


@pytest.fixture(autouse=True)
def fresh_trace() -> Iterator[None]:
    trace.__init__()  # type: ignore[misc]
    yield
    trace.__init__()  # type: ignore[misc]


class TracedAdam(torch.optim.Adam):
    """Notes the lrs that it uses; at the asked step somebody presses Ctrl-C in its midst."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if trace.steps == trace.stop_at_step:
            os.kill(os.getpid(), signal.SIGINT)
        trace.seen.append(("lrs", [float(group["lr"]) for group in self.param_groups]))
        super().step(closure)


class Net(nn.Module):
    """Has dropout, and draws from the global generator whenever it trains."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Linear(3, width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.drop(self.body(inputs).relu()))
        return outputs


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Twenty samples with noise from the global generator: an augmentation."""

    def __init__(self) -> None:
        self.inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs = self.inputs[index]
        return inputs + 0.1 * torch.randn(3), inputs[:2].sign()


def noisy() -> Data:
    is_first = True

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal is_first
        value = nn.functional.mse_loss(outputs, targets)
        if is_first:  # The model is tried on a batch before it is trained.
            is_first = False
        elif torch.is_grad_enabled():
            trace.seen.append(("loss", [value.item()]))
        else:
            if trace.validations == trace.stop_at_validation:
                os.kill(os.getpid(), signal.SIGINT)
            trace.seen.append(("val", [value.item()]))
        return value

    return Data(train=Noisy(), val=Noisy(), loss=loss)


def sequential(optimizer: Optimizer) -> lr_scheduler.SequentialLR:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.MultiStepLR(optimizer, [1, 4])]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


def chained(optimizer: Optimizer) -> lr_scheduler.ChainedScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.8)]
    return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)


def lambda_lr(optimizer: Optimizer) -> lr_scheduler.LambdaLR:
    return lr_scheduler.LambdaLR(optimizer, lambda call: 0.9**call)


def multiplicative(optimizer: Optimizer) -> lr_scheduler.MultiplicativeLR:
    return lr_scheduler.MultiplicativeLR(optimizer, lambda call: 1 - 0.1 / call)


HERE = __name__
SCHEDULERS: dict[str, dict[str, object]] = {
    "StepLR": {"step_size": 2, "gamma": 0.7},
    "MultiStepLR": {"milestones": "[1,3,7]", "gamma": 0.7},
    "ConstantLR": {"factor": 0.3, "total_iters": 2},
    "LinearLR": {"start_factor": 0.3, "total_iters": 7},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 12, "power": 0.5},
    "CosineAnnealingLR": {"T_max": 5, "eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 3, "mode": "exp_range", "gamma": 0.9},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 12},
    "ReduceLROnPlateau": {"patience": 0, "factor": 0.5, "threshold": 1.0},
    "LambdaLR": {"_target_": f"{HERE}.lambda_lr"},
    "MultiplicativeLR": {"_target_": f"{HERE}.multiplicative"},
    "SequentialLR": {"_target_": f"{HERE}.sequential"},
    "ChainedScheduler": {"_target_": f"{HERE}.chained"},
    "SWALR": {"_target_": "torch.optim.swa_utils.SWALR", "swa_lr": 0.01, "anneal_epochs": 9},
}

UNGROUPED = [
    *("~data", f"+data._target_={HERE}.noisy"),
    *("~model", f"+model._target_={HERE}.Net"),
    *("optimizer=adam", f"optimizer._target_={HERE}.TracedAdam"),
    *(f"trainer.epochs={N_EPOCHS}", "trainer.batch_size=4", "trainer.accumulate_grad_batches=2"),
]
TINY = [*UNGROUPED, "param_groups=layerwise", "param_groups.factors=[0.5,1.0]"]


def scheduler(name: str, interval: str) -> list[str]:
    arguments = dict(SCHEDULERS[name])
    target = arguments.pop("_target_", f"torch.optim.lr_scheduler.{name}")
    monitor = ["scheduler.monitor=val/loss"] if name == "ReduceLROnPlateau" else []
    given = [f"+scheduler.{key}={value}" for key, value in arguments.items()]
    return [f"scheduler._target_={target}", f"scheduler.interval={interval}", *monitor, *given]


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """Where `train_in_process` writes its last checkpoint."""
    return tmp_path / "output" / "checkpoints" / "last.pt"


def whole_and_resumed(train: Train, last: Path, *overrides: str, **stop: int) -> None:
    """Train once in one piece, and once in two, and see that they are the same to the bit."""
    train(*TINY, *overrides, "tracking=off")
    whole, in_one_piece = trace.seen, load_checkpoint(last)
    trace.__init__()  # type: ignore[misc]
    for name, value in stop.items():
        setattr(trace, name, value)
    with pytest.raises(Interrupted):
        train(*TINY, *overrides, "tracking=off")
    before = trace.seen
    trace.__init__()  # type: ignore[misc]
    with warnings.catch_warnings(record=True) as warned:
        train(*TINY, *overrides, "tracking=off", f"trainer.resume={last}")
    assert [str(warning.message) for warning in warned] == []
    in_two = load_checkpoint(last)

    # Validation is made anew from its beginning where it was interrupted.
    while "stop_at_validation" in stop and before[-1][0] == "val":
        before.pop()
    assert before
    assert trace.seen
    assert len(before) < len(whole)
    assert before + trace.seen == whole
    assert sum(kind == "lrs" for kind, _ in whole) == N_STEPS
    for part in ("model", "optimizer", "scheduler", "rng", "order", "lowest", "used_lrs", "next_lrs", "epoch"):
        assert equal(in_one_piece[part], in_two[part]), part


def equal(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return set(one) == set(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_every_scheduler_of_torch_is_tried() -> None:
    """The table has every public class of `torch.optim.lr_scheduler`, but for the base class."""
    classes = set(lr_scheduler.__all__) - {"LRScheduler"}

    assert classes <= set(SCHEDULERS), classes - set(SCHEDULERS)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_training_is_the_uninterrupted_one(
    train_in_process: Train, last: Path, name: str, interval: str
) -> None:
    """Every lr, every loss, every validation and the final states are equal to the bit, whatever the scheduler, after
    a checkpoint in the middle of an epoch, with accumulation, dropout and augmentation.
    """
    if name == "ReduceLROnPlateau" and interval == "step":
        pytest.skip("it is given a metric of the epoch")
    whole_and_resumed(train_in_process, last, *scheduler(name, interval), stop_at_step=4)
    lrs = {tuple(lrs) for kind, lrs in trace.seen if kind == "lrs"}

    assert name == "ConstantLR" or len(lrs) > 1, "the case is wrong: no lr changed after the checkpoint"


@pytest.mark.parametrize("step", range(N_STEPS - 1))
def test_it_does_not_matter_where_it_was_interrupted(train_in_process: Train, last: Path, step: int) -> None:
    """After any step, the last of an epoch too."""
    whole_and_resumed(train_in_process, last, *scheduler("StepLR", "epoch"), stop_at_step=step)


@pytest.mark.parametrize("batch", [0, 3, 12])
def test_an_interrupted_validation_is_made_anew(train_in_process: Train, last: Path, batch: int) -> None:
    """It draws the random numbers that it would have drawn, and the schedule that follows it is not stepped twice."""
    whole_and_resumed(train_in_process, last, *scheduler("ReduceLROnPlateau", "epoch"), stop_at_validation=batch)


def test_the_workers_of_the_data_go_on_too(train_in_process: Train, last: Path) -> None:
    """With worker processes the batches are the same; signals are left to the main process."""
    whole_and_resumed(train_in_process, last, "trainer.num_workers=1", "trainer.epochs=4", stop_at_step=4)


def test_a_scaler_goes_on_too(train_in_process: Train, last: Path) -> None:
    """The scale of `GradScaler` is in the checkpoint."""
    overrides = ["trainer.precision='16'", *scheduler("LinearLR", "step")]
    whole_and_resumed(train_in_process, last, *overrides, stop_at_step=4)

    assert load_checkpoint(last)["scaler"]["_growth_tracker"] == N_STEPS


# --- what is refused


def interrupted(train: Train, *overrides: str, step: int = 4, tiny: Sequence[str] = TINY) -> None:
    trace.stop_at_step = step
    with pytest.raises(Interrupted):
        train(*tiny, *overrides)
    trace.__init__()  # type: ignore[misc]


@pytest.fixture
def checkpoint(train_in_process: Train, last: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a training that was interrupted in its fifth step, with a schedule."""
    monkeypatch.chdir(tmp_path)
    interrupted(train_in_process, "scheduler=steplr", "scheduler.step_size=25%", "tracking=off")
    return last


def test_the_checkpoints_config_wins(train_in_process: Train, checkpoint: Path) -> None:
    """`trainer.resume=PATH` alone goes on with everything as it was, however the defaults of the command line are."""
    train_in_process(f"trainer.resume={checkpoint}", "tracking=off")

    assert trace.steps == N_STEPS - 5
    assert load_checkpoint(checkpoint)["config"]["model"] == {"_target_": f"{HERE}.Net"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["scheduler=steplr", "scheduler.step_size=25%", "scheduler.gamma=0.5"],
            ["scheduler.gamma: checkpoint has 0.1, command line has 0.5"],
        ),
        (
            ["scheduler=cosineannealinglr"],
            [
                "scheduler.T_max: checkpoint has nothing, command line has 100%",
                "scheduler.gamma: checkpoint has 0.1, command line has nothing",
            ],
        ),
        (["seed=3", "trainer.epochs=9"], ["seed: checkpoint has 0, command line has 3", "trainer.epochs: checkpoint"]),
        (["experiment=one_group"], ["and ", " more", "data._target_: checkpoint has"]),
        (
            ["~model", f"+model._target_={HERE}.Net", "+model.width=4"],
            ["model.width: checkpoint has nothing, command line has 4"],
        ),
        (["tracking.experiment=other"], ["tracking.experiment: checkpoint has lrtape, command line has other"]),
    ],
)
def test_a_command_line_that_differs_is_refused(
    train_in_process: Train, checkpoint: Path, overrides: list[str], said: list[str]
) -> None:
    """With a line for each key, what the checkpoint has and what was given; nothing is trained."""
    with pytest.raises(ConfigError, match="must not differ from the checkpoint's config") as refused:
        train_in_process(*overrides, f"trainer.resume={checkpoint}", "tracking=off")

    assert [part for part in said if part not in str(refused.value)] == [], str(refused.value)
    assert "trainer.resume_override=true" in str(refused.value)
    assert trace.seen == []


def test_the_original_command_resumes(train_in_process: Train, checkpoint: Path) -> None:
    """Repeated as it was, with shares and all, and with keys of the machine changed."""
    overrides = [*TINY, "scheduler=steplr", "scheduler.step_size=25%", "tracking=off", "tracking.folder=elsewhere"]
    train_in_process(*overrides, "trainer.print_every_n_epochs=2", "trainer.device=cpu", f"trainer.resume={checkpoint}")

    assert trace.steps == N_STEPS - 5


def test_an_override_is_taken_over(train_in_process: Train, checkpoint: Path) -> None:
    """What the command line names is the command line's; the optimizer keeps its moments, and a new scheduler has been
    stepped as often as the old one.
    """
    with pytest.warns(UserWarning, match=r"lr/body jumps where .* step 5 was to use 5e-05, and it used 0\.00025"):
        train_in_process(
            f"trainer.resume={checkpoint}", "scheduler.gamma=0.5", "scheduler=steplr", "scheduler.step_size=1",
            "trainer.resume_override=true", "tracking=off",
        )  # fmt: skip
    lrs = [lrs for kind, lrs in trace.seen if kind == "lrs"]

    assert lrs[0] == [0.00025, 0.0005]
    assert [lr for _, lr in lrs] == [0.0005] + [0.00025] * 3 + [0.000125] * 3
    after = load_checkpoint(checkpoint)
    assert after["config"]["scheduler"]["gamma"] == 0.5
    assert {float(state["step"]) for state in after["optimizer"]["state"].values()} == {N_STEPS}


def test_another_lr_is_not_undone_by_the_optimizers_state(train_in_process: Train, checkpoint: Path) -> None:
    """`optimizer.load_state_dict` would bring the old lr back."""
    with pytest.warns(UserWarning, match="jumps where the training was resumed"):
        train_in_process(
            f"trainer.resume={checkpoint}", "optimizer.lr=0.1", "trainer.resume_override=true", "tracking=off"
        )

    assert trace.seen[0][0] == "loss"
    assert next(lrs for kind, lrs in trace.seen if kind == "lrs") == pytest.approx([0.005, 0.01], rel=1e-12)


def test_a_finished_training_can_be_made_longer(train_in_process: Train, last: Path, tmp_path: Path) -> None:
    """It is refused, with the way to do so; which then trains the epochs that were added, and no other."""
    train_in_process(*TINY, "tracking=off")
    trace.__init__()  # type: ignore[misc]
    with pytest.raises(
        ConfigError, match=r"nothing is left to do after .* 4 epochs and 12 steps.*trainer\.epochs="
    ) as no:
        train_in_process(f"trainer.resume={last}", "tracking=off")
    assert "trainer.resume_override=true" in str(no.value)
    train_in_process(f"trainer.resume={last}", "tracking=off", "trainer.epochs=6", "trainer.resume_override=true")

    assert trace.steps == 6
    assert load_checkpoint(last)["next_step"] == 18


def test_another_optimizer_begins_without_moments(train_in_process: Train, checkpoint: Path) -> None:
    """Adam's state would mean nothing to SGD; that it is left out is said."""
    with (
        pytest.warns(UserWarning, match="jumps where the training was resumed"),
        pytest.warns(UserWarning, match="begins without moments"),
    ):
        train_in_process(
            f"trainer.resume={checkpoint}", "optimizer=sgd", "trainer.resume_override=true", "tracking=off"
        )

    assert all(
        set(state) == {"momentum_buffer"} for state in load_checkpoint(checkpoint)["optimizer"]["state"].values()
    )


def test_a_better_best_is_not_forgotten(train_in_process: Train, last: Path, tmp_path: Path) -> None:
    """`best.pt` of the epochs before goes along into a new folder."""
    interrupted(train_in_process, "tracking=off", "optimizer.lr=0.0")
    (tmp_path / "output").rename(tmp_path / "before")
    train_in_process(f"trainer.resume={tmp_path / 'before' / 'checkpoints' / 'last.pt'}", "tracking=off")

    assert load_checkpoint(last.with_name("best.pt"))["epoch"] >= 1


def bad_files(folder: Path, checkpoint: Path) -> dict[str, tuple[Path, str]]:
    torn = folder / "torn.pt"
    torn.write_bytes(checkpoint.read_bytes()[:1000])
    text = folder / "text.pt"
    text.write_text("hello")
    other = folder / "other.pt"
    torch.save({"state_dict": {}}, other)
    newer = folder / "newer.pt"
    torch.save(load_checkpoint(checkpoint) | {"format": 99}, newer)
    poor = folder / "poor.pt"
    torch.save({key: value for key, value in load_checkpoint(checkpoint).items() if key != "rng"}, poor)
    code = folder / "code.pt"
    torch.save({"format": 1, "model": nn.Linear(1, 1)}, code)
    return {
        "missing": (folder / "nowhere.pt", "does not exist"),
        "folder": (folder, "is a folder"),
        "torn": (torn, "cannot be read as one"),
        "text": (text, "cannot be read as one"),
        "code": (code, "cannot be read as one"),
        "other": (other, "it has no `format`"),
        "newer": (newer, "has format 99, and this version of lrtape reads 1"),
        "poor": (poor, "lacks rng"),
    }


@pytest.mark.parametrize("kind", ["missing", "folder", "torn", "text", "code", "other", "newer", "poor"])
def test_what_is_no_checkpoint_is_refused(train_in_process: Train, checkpoint: Path, tmp_path: Path, kind: str) -> None:
    """Before anything is built; the message names the path, what is wrong with it, and what to do."""
    path, said = bad_files(tmp_path, checkpoint)[kind]
    with pytest.raises(ConfigError, match=r"`trainer\.resume` must be the path of a checkpoint") as refused:
        train_in_process(f"trainer.resume={path}", "tracking=off")

    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_a_model_that_has_changed_is_refused(train_in_process: Train, checkpoint: Path) -> None:
    """The states of a checkpoint fit the model that it was written with."""
    with pytest.raises(ConfigError, match=r"`model` must be what it was when .*last\.pt was written.*size mismatch"):
        train_in_process(
            f"trainer.resume={checkpoint}", "~model", f"+model._target_={HERE}.Net", "+model.width=5",
            "trainer.resume_override=true", "tracking=off",
        )  # fmt: skip


class StrangeLR(lr_scheduler.LRScheduler):
    """A user's own scheduler with an object in its state."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.strange = nn.Linear(1, 1)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [group["lr"] for group in self.optimizer.param_groups]


def test_a_scheduler_that_could_not_be_resumed_is_refused(train_in_process: Train) -> None:
    """When it starts, not when it is too late."""
    with pytest.raises(ConfigError, match=r"StrangeLR\.state_dict\(\) has not"):
        train_in_process(*TINY, f"scheduler._target_={HERE}.StrangeLR", "tracking=off")


# --- last


def test_last_is_refused_where_there_is_none(train_in_process: Train, store: str) -> None:
    """With where it was looked for, and what to do; a file that is gone, or cannot be read, is named."""
    with pytest.raises(ConfigError, match=r"needs a training of the experiment 'lrtape'.*lrtape\.json.*Give the path"):
        train_in_process("trainer.resume=last")
    bookmark = Bookmark(Path.cwd() / ".lrtape", "lrtape")
    bookmark.put(Path("/nowhere/last.pt"), "")
    with pytest.raises(ConfigError, match=r"/nowhere/last\.pt is gone"):
        train_in_process("trainer.resume=last")
    bookmark.path.write_text("{")
    with pytest.raises(ConfigError, match="cannot read"):
        train_in_process("trainer.resume=last")


def test_last_needs_tracking(train_in_process: Train, checkpoint: Path) -> None:
    """Where nothing is tracked nothing is noted, and the last tracked training is another one."""
    with pytest.raises(ConfigError, match="must be the path of a checkpoint where nothing is tracked"):
        train_in_process("trainer.resume=last", "tracking=off")


@pytest.mark.parametrize("name", ["lrtape", "a/b", "a_b", "../up", ".hidden", "über uns", "x" * 300])
def test_every_experiment_has_a_bookmark_of_its_own(tmp_path: Path, name: str) -> None:
    """In one folder, whatever its name; it is found again, and is another one's not."""
    bookmark, other = Bookmark(tmp_path, name), Bookmark(tmp_path, name + "'")
    target = tmp_path / "last.pt"
    target.touch()
    bookmark.put(target, "a_run")

    assert bookmark.path.parent == tmp_path / "last"
    assert bookmark.find() == target
    assert json.loads(bookmark.path.read_text()) == {"checkpoint": str(target), "run_id": "a_run"}
    with pytest.raises(ConfigError):
        other.find()


def test_a_bookmark_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    """It is warned about, with the path that resumes all the same."""
    (tmp_path / "last").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"trainer\.resume=/x/last\.pt can"):
        Bookmark(tmp_path, "lrtape").put(Path("/x/last.pt"), "")


# --- the same run


def the_run(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_it_goes_on_in_the_same_run(train_in_process: Train, store: str) -> None:
    """`last` finds checkpoint and run; the run is KILLED, then FINISHED; each step is there once, with its own lr."""
    interrupted(train_in_process, "scheduler=steplr", "scheduler.step_size=25%")
    run = the_run(store)
    assert run.info.status == "KILLED"
    assert list(read_run(run.info.run_id, store)["lr/body"].steps) == list(range(5))
    train_in_process("trainer.resume=last")
    run = the_run(store)
    tape = read_run(run.info.run_id, store)

    assert run.info.status == "FINISHED"
    for key in ("lr/body", "lr/head", "train/loss"):
        assert list(tape[key].steps) == list(range(N_STEPS))
    assert list(tape["val/loss"].steps) == [2, 5, 8, 11]
    assert list(tape["lr/head"].values) == pytest.approx([0.001] * 3 + [1e-4] * 3 + [1e-5] * 3 + [1e-6] * 3, rel=1e-12)


@pytest.mark.parametrize("step", [4, 5, 6, 7])
def test_a_frozen_group_is_thawed_where_it_would_have_been(train_in_process: Train, store: str, step: int) -> None:
    """Interrupted before the epoch in which it is thawed, at its edge, or within it: its curve begins with the first
    step of that epoch, without a gap, with the lr that the schedule has for it by then, and nothing is said to jump.
    """
    frozen = ("param_groups=frozen_backbone", "param_groups.unfreeze_at_epoch=2")
    interrupted(train_in_process, "scheduler=steplr", "scheduler.step_size=25%", *frozen, step=step, tiny=UNGROUPED)
    with warnings.catch_warnings(record=True) as warned:
        train_in_process("trainer.resume=last")
    run = the_run(store)
    tape = read_run(run.info.run_id, store)

    assert list(tape["lr/head"].steps) == list(range(N_STEPS))
    assert list(tape["lr/backbone"].steps) == list(range(6, N_STEPS))
    assert list(tape["lr/backbone"].values) == pytest.approx([1e-6] * 3 + [1e-7] * 3, rel=1e-12)
    assert list(tape["frozen/backbone"].steps) == [0, 3, 6, 9]
    assert run.data.tags["lr.verdict"] == "ok"
    assert [str(warning.message) for warning in warned] == []


def test_what_was_recorded_after_the_checkpoint_is_not_written_twice(
    train_in_process: Train, store: str, last: Path
) -> None:
    """Resumed from an older checkpoint, the run has each step once; the first record stays, also where the resumed
    training uses another lr, which is found and said.
    """
    train_in_process(*TINY, "scheduler=steplr", "scheduler.step_size=25%", "optimizer.lr=0.0")
    run_id = the_run(store).info.run_id
    before = read_run(run_id, store)
    best = load_checkpoint(last.with_name("best.pt"))
    first = best["next_step"]
    assert first < N_STEPS, "the case is wrong: the last epoch is the best"
    (last.parent.parent).rename(last.parent.parent.with_name("before"))
    old = last.parent.parent.with_name("before") / "checkpoints" / "best.pt"

    train_in_process(f"trainer.resume={old}")
    assert read_run(run_id, store) == before

    with pytest.warns(UserWarning, match="resumed") as warned:
        train_in_process(
            f"trainer.resume={old}", "optimizer.lr=0.7", "trainer.resume_override=true", "tracking.keep_spool=true"
        )
    texts = [str(warning.message) for warning in warned]
    assert read_run(run_id, store) == before
    assert sum(f"of step {first} was 0.0 before this training was resumed" in text for text in texts) == 1
    assert sum("jumps where the training was resumed" in text for text in texts) == 1
    (spool,) = SpoolFolder.find(Path(".lrtape"))
    with SpoolReader(spool.spool) as reader:
        found = [frame for frame in reader.frames() if isinstance(frame, Finding)]
    assert [finding.code for finding in found] == ["jump-on-resume", "replay-differs"]


def test_a_training_that_is_alive_is_not_resumed(train_in_process: Train, store: str) -> None:
    """Two trainings would write one curve: the second one is refused, and the first one named."""
    interrupted(train_in_process)
    run_id = the_run(store).info.run_id
    import lrtape

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    from lrtape.tracking.mlflow_run import MlflowRun

    with (
        lrtape.attach(optimizer, run=MlflowRun.join(run_id, store)),
        pytest.raises(ConfigError, match=f"one of run {run_id} still records into .*Stop that one first"),
    ):
        train_in_process("trainer.resume=last")


@pytest.mark.parametrize("fate", ["deleted", "elsewhere"])
def test_a_run_that_is_gone_is_refused(train_in_process: Train, store: str, fate: str) -> None:
    """A deleted run, or a store that does not have it, is an error of tracking that says so."""
    interrupted(train_in_process)
    client = MlflowClient(tracking_uri=store)
    run_id = the_run(store).info.run_id
    overrides = []
    if fate == "deleted":
        client.delete_run(run_id)
    else:
        overrides = ["tracking.uri=sqlite:///other.db"]
    with pytest.raises(TrackingError, match="must not be deleted" if fate == "deleted" else "not found"):
        train_in_process("trainer.resume=last", *overrides)


def test_a_run_that_was_only_planned_is_resumed(train_in_process: Train, store: str) -> None:
    """The store was away when the training began, and is there when it is resumed: then the run is created from what
    the dead training left, and the resumed one goes on in it.
    """
    with pytest.warns(UserWarning, match="have not arrived"):
        interrupted(
            train_in_process,
            *("tracking.uri=http://127.0.0.1:9", "tracking.when_unreachable=spool", "tracking.close_timeout_s=0"),
        )
    kill_shipper(Path.cwd())  # It would wait for its store for minutes.
    train_in_process("trainer.resume=last")
    run = the_run(store)
    tape = read_run(run.info.run_id, store)

    assert run.info.status == "FINISHED"
    assert list(tape["lr/body"].steps) == list(tape["train/loss"].steps) == list(range(N_STEPS))
    assert run.data.params["trainer.epochs"] == str(N_EPOCHS)


def test_an_untracked_training_can_be_tracked_from_now_on(
    train_in_process: Train, store: str, checkpoint: Path
) -> None:
    """Its checkpoint has no run: a new one is made, which begins with the next step."""
    train_in_process(f"trainer.resume={checkpoint}")
    tape = read_run(the_run(store).info.run_id, store)

    assert list(tape["lr/body"].steps) == list(range(5, N_STEPS))
    assert all(map(math.isfinite, tape["train/loss"].values))
