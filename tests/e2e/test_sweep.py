"""Sweeps as a person runs them: real commands on fresh stores, drivers that are really killed, every row compared."""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from lrtape.tracking.history import read_run
from lrtape.tracking.tags import OBJECTIVE, SWEEP

LRTAPE = str(Path(sys.executable).with_name("lrtape"))
DEADLINE_S = 120.0
N_STEPS = 10
N_EPOCHS = 5

MY_DATA = """
import os, pathlib, time
import torch
from torch.utils.data import TensorDataset
from lrtape.app.data import Data

def points(mode: str = "good", seed: int = 0):
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs[:, :2].sign())
    calls = iter(range(10**9))

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            number = next(calls)
            if number == 0:
                with open("trained.txt", "a") as file:
                    print(mode, file=file)
            if mode == "raises" and number == 4:
                raise RuntimeError("the cable was pulled")
            if mode == "killed" and number == 4:
                os.kill(os.getpid(), 9)
            time.sleep(float(os.environ.get("PAUSE_S", "0")))
        factor = float("nan") if mode == "diverges" else 1.0
        return torch.nn.functional.mse_loss(outputs, targets) * factor

    return Data(train=dataset, val=dataset, loss=loss)
"""

TINY = [
    *("~data", "+data._target_=my_data.points", "~model", "+model._target_=torch.nn.Linear", "+model.in_features=3"),
    *("+model.out_features=2", "scheduler=steplr", "scheduler.step_size=2", "optimizer=sgd", "trainer.device=cpu"),
    *(f"trainer.epochs={N_EPOCHS}", "trainer.batch_size=4", "trainer.print_every_n_epochs=null", "checks=off"),
    "tracking.log_model=off",
]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, start_process: Start) -> Start:
    """Starts `lrtape train -m`, in a folder with a user's module and no store at all."""
    (tmp_path / "my_data.py").write_text(textwrap.dedent(MY_DATA))
    return lambda *overrides, **environment: start_process(LRTAPE, "train", "-m", *TINY, *overrides, **environment)


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], tuple[Any, list[Any]]]:
    """The one parent in the store of the folder, and its children in the order in which they were begun."""

    def look() -> tuple[Any, list[Any]]:
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("lrtape")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
        (parent,) = [run for run in found if SWEEP in run.data.tags]
        children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len(children) + 1 == len(found), "every run is the parent, or a child of it"
        return parent, children

    return look


def wait_for(what: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def used_lrs(gamma: float) -> list[float]:
    """The lr that every step uses, from torch alone: two steps an epoch, StepLR(2)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma)
    used = []
    for _ in range(N_EPOCHS):
        for _ in range(N_STEPS // N_EPOCHS):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    return used


def assert_every_step_is_there(run: Any, folder: Path) -> None:
    tape = read_run(run.info.run_id, f"sqlite:///{folder / 'mlflow.db'}")
    assert list(tape["lr/all"].values) == used_lrs(float(run.data.params["scheduler.gamma"]))
    assert list(tape["lr/all"].steps) == list(range(N_STEPS))
    assert run.data.tags["lrtape.complete"] == "true"


def trained(folder: Path) -> int:
    """How many trainings have begun."""
    return len((folder / "trained.txt").read_text().split()) if (folder / "trained.txt").exists() else 0


def test_a_grid_on_a_fresh_store(start: Start, runs: Callable[[], tuple[Any, list[Any]]], tmp_path: Path) -> None:
    """Each point is one finished child with every step, named by its values; the parent says what was swept."""
    process = start("scheduler.gamma=0.1,0.5", "optimizer.momentum=0,0.9")
    out, err = process.communicate(timeout=DEADLINE_S)
    parent, children = runs()

    assert process.returncode == 0, err
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sweep.scheduler.gamma"] == "0.1, 0.5"
    assert parent.data.params["sweep.objective"] == "val/loss"
    assert "scheduler.gamma=0.1,0.5" in parent.data.tags["lrtape.sweep.command"]
    assert sorted(child.info.run_name for child in children) == [
        *("gamma=0.1 momentum=0", "gamma=0.1 momentum=0.9"),
        *("gamma=0.5 momentum=0", "gamma=0.5 momentum=0.9"),
    ]
    for child in children:
        assert child.info.status == "FINISHED"
        assert_every_step_is_there(child, tmp_path)
        assert float(child.data.tags[OBJECTIVE]) == child.data.metrics["val/loss"]
        assert "sweep.seeds" not in child.data.params
    best = min(children, key=lambda child: child.data.metrics["val/loss"])
    assert best.info.run_name in out
    assert list((tmp_path / ".lrtape").glob("*/spool")) == []


def test_bad_trials_cost_the_others_nothing(
    start: Start, runs: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    """One trial raises, one diverges: the others are FINISHED, the parent is FAILED, and the end says which and why.
    The same command tries those two alone once more.
    """
    sweep = ["+data.mode=raises,good,diverges,fine", "scheduler.gamma=0.1"]
    process = start(*sweep)
    _, err = process.communicate(timeout=DEADLINE_S)
    parent, children = runs()
    status = {child.info.run_name: child.info.status for child in children}

    assert process.returncode == 1
    assert parent.info.status == "FAILED"
    assert status == {
        "mode=raises": "FAILED",
        "mode=good": "FINISHED",
        "mode=diverges": "FAILED",
        "mode=fine": "FINISHED",
    }
    errors = {child.info.run_name: child.data.tags.get("lrtape.error", "") for child in children}
    assert "the cable was pulled" in errors["mode=raises"]
    assert "val/loss must be a finite number" in errors["mode=diverges"]
    assert "2 of 4 trials" in err
    assert "mode=raises: RuntimeError: the cable was pulled" in err

    again = start(*sweep)
    _, err = again.communicate(timeout=DEADLINE_S)
    _, children = runs()
    assert again.returncode == 1
    assert len(children) == trained(tmp_path) == 4 + 2


def test_a_killed_driver(start: Start, runs: Callable[[], tuple[Any, list[Any]]], tmp_path: Path) -> None:
    """SIGKILL in the middle: the same command trains what is missing, leaves what is finished alone, and nobody is
    RUNNING in the end.
    """
    sweep = ["scheduler.gamma=0.1,0.2,0.3,0.4"]
    process = start(*sweep, PAUSE_S="0.1")
    wait_for(lambda: trained(tmp_path) == 2, process)
    time.sleep(0.4)
    process.kill()
    process.communicate()
    _, before = runs()
    finished = {run.info.run_id for run in before if run.info.status == "FINISHED"}
    again = start(*sweep)
    out, err = again.communicate(timeout=DEADLINE_S)
    parent, children = runs()

    assert again.returncode == 0, err
    assert len(finished) == 1
    assert "1 of 4 trials are finished already" in out
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in children].count("FINISHED") == 4
    (cut,) = [run for run in children if run.info.status != "FINISHED"]
    assert cut.info.status == "KILLED"
    assert finished < {run.info.run_id for run in children}
    assert trained(tmp_path) == 5
    for run in children:
        if run is not cut:
            assert_every_step_is_there(run, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nobody_running(
    number: signal.Signals, start: Start, runs: Callable[[], tuple[Any, list[Any]]], tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM end the trial and the sweep in good order: both are KILLED, no other trial is begun, and the
    end says how to go on.
    """
    process = start("scheduler.gamma=0.1,0.2,0.3", PAUSE_S="0.2")
    wait_for(lambda: trained(tmp_path) == 2, process)
    time.sleep(0.4)
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_S)
    parent, children = runs()

    assert process.returncode == 128 + number, err
    assert "To go on:   lrtape train -m" in err
    assert "Checkpoint: " in err
    assert parent.info.status == "KILLED"
    assert [run.info.status for run in children] == ["FINISHED", "KILLED"]
    assert trained(tmp_path) == 2


def test_a_sweep_that_stops_on_failure(start: Start, runs: Callable[[], tuple[Any, list[Any]]], tmp_path: Path) -> None:
    """`sweep.on_failure=stop` begins nothing after a trial has failed."""
    process = start("+data.mode=good,raises,fine,fair", "sweep.on_failure=stop")
    _, err = process.communicate(timeout=DEADLINE_S)
    parent, children = runs()

    assert process.returncode == 1
    assert [run.info.status for run in children] == ["FINISHED", "FAILED"]
    assert parent.info.status == "FAILED"
    assert "mode=fine: not begun" in err


def test_so_does_one_that_is_not_tracked(start: Start, tmp_path: Path) -> None:
    """What would have been begun after a failure is named, and was not trained."""
    _, err = start("+data.mode=good,raises,fine,fair", "sweep.on_failure=stop", "tracking=off").communicate(
        timeout=DEADLINE_S
    )

    assert "3 of 4 trials have no result:" in err
    assert "mode=fine: not begun" in err
    assert trained(tmp_path) == 2


def test_a_running_sweep_is_not_begun_twice(start: Start, tmp_path: Path) -> None:
    """The same command beside a sweep that goes on is refused, and disturbs nothing."""
    first = start("scheduler.gamma=0.1,0.2", PAUSE_S="0.3")
    wait_for(lambda: trained(tmp_path) == 1, first)
    second = start("scheduler.gamma=0.1,0.2")
    _, err = second.communicate(timeout=DEADLINE_S)
    _, first_err = first.communicate(timeout=DEADLINE_S)

    assert second.returncode == 2
    assert "still goes on" in err
    assert first.returncode == 0, first_err
    assert trained(tmp_path) == 2
