import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf

from lrtape.app.main import main
from lrtape.app.sweep import reporting
from lrtape.report.winner import config_of
from lrtape.tracking.tags import NOTE, OBJECTIVE, SWEEP
from lrtape.trials import SweepRun, TrialRun

TRAIN = Path(__file__).parents[3] / "train.py"
SMALL = [
    "tracking.log_model=off",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "data.classes=[0,1,2]",
    "model.out_features=3",
]

Command = Callable[..., str]


@pytest.fixture
def command(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python train.py` with these arguments, in a folder with an empty store: what it printed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(TRAIN), *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        capsys.readouterr()
        main()
        return capsys.readouterr().out

    return run


def runs_of(store: str) -> list[Any]:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each of several trainings at a time has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def id_of(run: Any) -> str:
    return str(run.info.run_id)


@pytest.mark.usefixtures("one_thread")
def test_the_printed_command_trains_the_winner_again_to_the_last_digit(command: Command, store: str) -> None:
    """Of schedules whose length follows from the run's, on shuffled data: every row of every metric."""
    grids = "sweep.grids=[{scheduler:steplr},{scheduler:cosineannealinglr,scheduler.eta_min:1e-05}]"
    printed = command("-m", grids, "seed=7", "optimizer.lr=0.003", "sweep.objective=val/acc", *SMALL)
    (parent,) = (run for run in runs_of(store) if SWEEP in run.data.tags)
    children = [run for run in runs_of(store) if run.info.run_id != parent.info.run_id]

    lines = printed.splitlines()
    again = lines[next(index for index, line in enumerate(lines) if line.startswith("To train the best")) + 1].strip()
    prefix = "" if len(os.sched_getaffinity(0)) == 1 else "OMP_NUM_THREADS=1 "
    assert again == f"{prefix}python {TRAIN} --config-dir .lrtape/sweeps/{parent.data.tags[SWEEP]} --config-name best"
    assert again in parent.data.tags[NOTE]
    typed = again.replace("python", shlex.quote(sys.executable), 1)
    ended = subprocess.run(typed, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

    (made,) = [run for run in runs_of(store) if run.info.run_id not in {parent.info.run_id, *map(id_of, children)}]
    winner = max(children, key=lambda run: float(run.data.tags[OBJECTIVE]))
    assert made.data.metrics == winner.data.metrics
    assert made.data.metrics["val/acc"] == float(winner.data.tags[OBJECTIVE])
    assert made.data.params == winner.data.params
    client = MlflowClient(tracking_uri=store)
    for key in winner.data.metrics:
        rows = [
            sorted((row.step, row.value) for row in client.get_metric_history(run.info.run_id, key))
            for run in (made, winner)
        ]
        assert rows[0] == rows[1], key


def test_the_winners_config_is_a_training_like_any_other(command: Command, compose: Callable[..., DictConfig]) -> None:
    """Hydra's own settings are those of `conf/train.yaml`, and a sweep can start from it."""
    resolved = OmegaConf.to_yaml(compose("experiment=steplr", "trainer.epochs=2"), resolve=True)
    sweep = SweepRun("r", "s", "title", "FINISHED", "lrtape", "train/loss", "min")
    Path("best.yaml").write_text(config_of(resolved, sweep, TrialRun("r", "t", "name", "FINISHED")))
    best = ("--config-dir", ".", "--config-name", "best")
    GlobalHydra.instance().clear()

    own, usual = (OmegaConf.create(command(*arguments, "--cfg", "hydra")).hydra for arguments in (best, ()))
    for key in ("callbacks", "sweeper", "launcher"):
        assert own[key] == usual[key], key
    for key in ("run", "sweep"):
        assert re.sub(r"\d", "0", own[key].dir) == re.sub(r"\d", "0", usual[key].dir)
    assert (own.job.name, own.job.chdir) == (usual.job.name, usual.job.chdir)
    assert "2 trials, 2 to be trained" in command(*best, "-m", "optimizer.lr=0.1,0.2", "sweep.dry_run=true")


def test_a_report_that_cannot_be_made_does_not_fail_the_sweep(
    command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is warned about, the plain results are printed, and the sweep is FINISHED."""

    def refuses(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(reporting, "Reporter", refuses)
    with pytest.warns(UserWarning, match=r"could not report the sweep: no space left on device\n`lrtape report \w+`"):
        printed = command("-m", "experiment=steplr", "trainer.epochs=2")

    (parent,) = [run for run in runs_of(store) if SWEEP in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert re.search(r"\nsteplr  train/loss [\d.e-]+\n", printed)
