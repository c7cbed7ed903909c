"""Searches as a person runs them: real commands, real stores, real studies."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra `optuna` is not installed")

from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from lrtape.app.schedule import Schedule
from lrtape.app.sweep import optuna_version
from lrtape.tracking.history import read_run
from lrtape.tracking.tags import BEST, NOTE, OBJECTIVE, PRUNED, REFUSED, SAME, SWEEP, TRIALS, VALUES

TRAIN = Path(__file__).parents[3] / "train.py"
N_EPOCHS = 5
SEARCH = ["-m", "hydra/sweeper=lrtape_optuna", "hydra.sweeper.sampler=random"]
TINY = [
    *("experiment=one_group", "model.hidden=[4]", "param_groups=head_and_backbone", "scheduler=steplr"),
    *(f"trainer.epochs={N_EPOCHS}", "trainer.device=cpu", "trainer.print_every_n_epochs=null", "checks=off"),
    "tracking.log_model=off",
]
GAMMA, STEP_SIZE = "scheduler.gamma=interval(0.1,0.9)", "scheduler.step_size=range(1,5)"
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"

FATAL = """
import os, pathlib
import torch
from lrtape.app.data import Data, one_sample

calls = iter(range(1000))

def killed(in_features, out_features, at, number):
    data = one_sample(in_features, out_features)

    def loss(outputs, targets):
        if next(calls) == at and not pathlib.Path("killed").exists():
            pathlib.Path("killed").touch()
            os.kill(os.getpid(), number)
        return torch.nn.functional.mse_loss(outputs, targets)

    return Data(train=data.train, val=None, loss=loss)
"""

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], tuple[list[Any], list[Any]]]:
    """The parents in the store of the folder, and the children of the newest one, each in the order of their starts."""

    def look() -> tuple[list[Any], list[Any]]:
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("lrtape")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
        parents = [run for run in found if SWEEP in run.data.tags]
        children = [run for run in found if SWEEP not in run.data.tags]
        ids = {parent.info.run_id for parent in parents}
        assert {child.data.tags["mlflow.parentRunId"] for child in children} <= ids, "every child is nested"
        assert "RUNNING" not in {run.info.status for run in found}
        return parents, [run for run in children if run.data.tags["mlflow.parentRunId"] == parents[-1].info.run_id]

    return look


def study_of(parent: Any, folder: Path) -> list[FrozenTrial]:
    """The trials of a parent's study, as optuna itself reads them."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    journal = folder / ".lrtape" / "sweeps" / parent.data.tags[SWEEP] / "optuna.journal"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    return optuna.load_study(study_name=parent.info.run_id, storage=storage).trials


def assert_every_step_is_there(child: Any, n_steps: int, folder: Path) -> None:
    """Of every group, with the lr that StepLR gives, and of the loss."""
    tape = read_run(child.info.run_id, f"sqlite:///{folder / 'mlflow.db'}")
    gamma, size = float(child.data.params["scheduler.gamma"]), int(child.data.params["scheduler.step_size"])
    lr = float(child.data.params["optimizer.lr"])
    for key, base in (("lr/head", lr), ("lr/backbone", 0.1 * lr)):
        assert list(tape[key].steps) == list(range(n_steps))
        assert list(tape[key].values) == pytest.approx([base * gamma ** (step // size) for step in range(n_steps)])
    assert list(tape["train/loss"].steps) == list(range(n_steps))
    assert child.data.tags["lrtape.complete"] == "true"


def test_twelve_trials_with_pruning_on_a_fresh_store(command: Command, runs: Any, tmp_path: Path) -> None:
    """Exactly the right children, nested, called by their values, with every step: finished, or KILLED with a tag that
    says why; a pruned trial is no failure, and the best one stands on the parent.
    """
    code, _ = command(*SEARCH, *TINY, GAMMA, STEP_SIZE, LR, "hydra.sweeper.n_trials=12", "hydra.sweeper.pruner=asha")
    (parent,), children = runs()
    trials = study_of(parent, tmp_path)

    assert code == 0
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[TRIALS] == "12"
    assert len(children) == len(trials) == 12
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for child, trial in zip(children, trials, strict=True):
        values = {key: repr(value) for key, value in trial.params.items()}
        assert json.loads(child.data.tags[VALUES]) == values
        gamma, size, lr = (trial.params[key] for key in ("scheduler.gamma", "scheduler.step_size", "optimizer.lr"))
        assert child.info.run_name == f"gamma={gamma:.4g} step_size={size} lr={lr:.4g}"
        reported = trial.intermediate_values
        assert list(reported) == list(range(1, len(reported) + 1)), "after every epoch, by how many were made"
        assert_every_step_is_there(child, len(reported), tmp_path)
        if trial.state == TrialState.PRUNED:
            assert child.info.status == "KILLED"
            assert child.data.tags[PRUNED].startswith(f"epoch {len(reported)}: train/loss ")
            assert len(reported) < N_EPOCHS
            assert "lrtape.error" not in child.data.tags
        else:
            assert child.info.status == "FINISHED"
            assert PRUNED not in child.data.tags
            assert float(child.data.tags[OBJECTIVE]) == trial.value == reported[N_EPOCHS]
    best = min((run for run in children if OBJECTIVE in run.data.tags), key=lambda run: float(run.data.tags[OBJECTIVE]))
    assert parent.data.tags[BEST] == f"{best.info.run_name}: train/loss {float(best.data.tags[OBJECTIVE]):.4g}"
    assert parent.data.params["sweep.scheduler.step_size"] == "1 to 4"


@pytest.mark.usefixtures("store")
def test_the_same_command_goes_on(command: Command, runs: Any, tmp_path: Path) -> None:
    """After a driver that died in its second trial: the first one is untouched, the one that was cut off is KILLED,
    told FAIL, and does not count.
    """
    (tmp_path / "fatal_kill.py").write_text(textwrap.dedent(FATAL))
    data = f"+data={{_target_:fatal_kill.killed,in_features:10,out_features:2,at:{N_EPOCHS + 2},number:9}}"
    search = [*SEARCH, *TINY, "~data", data, GAMMA, STEP_SIZE, LR, "hydra.sweeper.n_trials=2"]
    cut = subprocess.run(
        [sys.executable, str(TRAIN), *search],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert cut.returncode == -9, cut.stderr
    code, _ = command(*search)
    (parent,), children = runs()
    trials = study_of(parent, tmp_path)

    assert code == 0
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED", "KILLED", "FINISHED"]
    assert not any(PRUNED in child.data.tags for child in children)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    for child in (children[0], children[2]):
        assert_every_step_is_there(child, N_EPOCHS, tmp_path)


@pytest.mark.usefixtures("store")
def test_a_search_that_is_interrupted_says_how_to_go_on(command: Command, runs: Any, tmp_path: Path) -> None:
    """Nobody is left RUNNING, in the store or in the study; the same command does go on, in the same run."""
    (tmp_path / "fatal_term.py").write_text(textwrap.dedent(FATAL))
    data = "+data={_target_:fatal_term.killed,in_features:10,out_features:2,at:2,number:15}"
    search = [*SEARCH, *TINY, "~data", data, GAMMA, "hydra.sweeper.n_trials=1"]
    code, errors = command(*search)
    (parent,), (child,) = runs()

    assert code == 143
    assert errors.splitlines()[-1].startswith("To go on:   python train.py -m hydra/sweeper=lrtape_optuna ")
    assert (parent.info.status, child.info.status) == ("KILLED", "KILLED")
    assert [trial.state for trial in study_of(parent, tmp_path)] == [TrialState.FAIL]

    assert command(*search)[0] == 0
    (parent,), children = runs()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED", "KILLED", "FINISHED"]


@pytest.mark.usefixtures("store")
def test_two_at_a_time(command: Command, runs: Any, tmp_path: Path) -> None:
    """With joblib, in processes of their own: as many as it has jobs; their epochs reach the study, too."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=3"]
    code, errors = command(*SEARCH, *TINY, *joblib, GAMMA, STEP_SIZE, LR, "hydra.sweeper.pruner=asha")
    (parent,), children = runs()
    trials = study_of(parent, tmp_path)

    assert code == 0, errors
    assert parent.info.status == "FINISHED"
    assert len(children) == len(trials) == 3
    assert {child.info.status for child in children} <= {"FINISHED", "KILLED"}
    assert all(trial.state.is_finished() and trial.intermediate_values for trial in trials)
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
    assert starts[1] < ends[0], "the first two are asked for together"
    assert starts[2] > max(ends[:2])


@pytest.mark.usefixtures("store")
def test_equal_schedules_are_trained_once(command: Command, runs: Any, tmp_path: Path) -> None:
    """What a trial came to is told of all that have its learning rates. More trials go on with the same
    study, and so does what says only how it is run.
    """
    search = [*SEARCH, *TINY, "scheduler.step_size=choice(10,20,30)"]
    assert command(*search, "hydra.sweeper.n_trials=4")[0] == 0
    assert command(*search, "hydra.sweeper.n_trials=6", "trainer.num_workers=0", "sweep.on_failure=stop")[0] == 0
    (parent,), (child,) = runs()
    trials = study_of(parent, tmp_path)
    same = json.loads(parent.data.tags[SAME])

    assert parent.info.status == "FINISHED"
    assert [trial.value for trial in trials] == [float(child.data.tags[OBJECTIVE])] * 6
    assert len({trial.params["scheduler.step_size"] for trial in trials}) > 1
    names = {f"step_size={trial.params['scheduler.step_size']}" for trial in trials}
    assert set(same) == names - {child.info.run_name}
    assert set(same.values()) == {child.data.tags["lrtape.trial"]}
    equal = parent.data.tags[NOTE].partition("### The same learning rates, trained once")[2].strip().splitlines()[0]
    first, _, others = equal.removeprefix("- ").partition(": ")
    assert first == child.info.run_name
    assert set(others.split(", ")) == set(same)

    assert command(*search, "hydra.sweeper.n_trials=1")[0] == 0
    assert len(runs()[0]) == 2, "a search that has all of its results is begun anew"


@pytest.mark.usefixtures("store")
def test_a_bad_suggestion_costs_the_others_nothing(command: Command, runs: Any, tmp_path: Path) -> None:
    """One that cannot be built, or diverges, is told FAIL, with the reason, and fails the parent; the others are
    trained. The same command trains others in their place.
    """
    space = ["optimizer.lr=choice(0.01,1e30)", "scheduler.gamma=choice(0.5,-1)", "hydra.sweeper.n_trials=9"]
    code, errors = command(*SEARCH, *TINY, *space)
    (parent,), children = runs()
    trials = study_of(parent, tmp_path)
    told: dict[Any, set[TrialState]] = {}
    for trial in trials:
        told.setdefault((trial.params["optimizer.lr"], trial.params["scheduler.gamma"]), set()).add(trial.state)

    assert code == 1
    assert parent.info.status == "FAILED"
    assert told == {
        ("0.01", "0.5"): {TrialState.COMPLETE},
        ("1e+30", "0.5"): {TrialState.FAIL},
        ("0.01", "-1"): {TrialState.FAIL},
        ("1e+30", "-1"): {TrialState.FAIL},
    }
    assert {child.info.run_name: child.info.status for child in children} == {
        "lr=0.01 gamma=0.5": "FINISHED",
        "lr=1e+30 gamma=0.5": "FAILED",
    }
    assert len(children) == 2
    assert (
        "`scheduler.gamma` must be a number > 0, but is -1" in json.loads(parent.data.tags[REFUSED])["lr=0.01 gamma=-1"]
    )
    assert "train/loss must be a finite number after each epoch of a search" in errors
    assert errors.rstrip().splitlines()[-2] == "The same command trains others in their place."


@pytest.mark.usefixtures("store")
def test_a_finding_prunes(command: Command, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a search, what `trainer.stop_on` names ends a trial as a pruner would; the tag has its code."""
    monkeypatch.setattr(Schedule, "after_epoch", lambda *_: None)
    stop_on = "trainer.stop_on=[scheduler-not-stepped]"
    code, _ = command(*SEARCH, *TINY, LR, "scheduler.step_size=1", stop_on, "hydra.sweeper.n_trials=1")
    (parent,), (child,) = runs()

    assert code == 0
    assert (parent.info.status, child.info.status) == ("FINISHED", "KILLED")
    assert child.data.tags[PRUNED].startswith("epoch 2: ")
    assert "scheduler-not-stepped" in child.data.tags[PRUNED]
    assert [trial.state for trial in study_of(parent, tmp_path)] == [TrialState.PRUNED]


@pytest.mark.usefixtures("store")
def test_enough_failures_end_it(command: Command, runs: Any, tmp_path: Path) -> None:
    """`max_failed`, and `sweep.on_failure=stop` for none."""
    bad = ["scheduler.gamma=choice(0.5,-1,-2,-3,-4,-5)", "hydra.sweeper.n_trials=50"]
    assert command(*SEARCH, *TINY, *bad, "hydra.sweeper.max_failed=2")[0] == 1
    (parent,), _ = runs()
    assert sum(trial.state == TrialState.FAIL for trial in study_of(parent, tmp_path)) == 3

    assert command(*SEARCH, *TINY, *bad, "sweep.on_failure=stop")[0] == 1
    assert sum(trial.state == TrialState.FAIL for trial in study_of(runs()[0][0], tmp_path)) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a search must have something to vary, but nothing is. Give a range"),
        (["scheduler.gamma=interval(0.9,0.1)"], "`scheduler.gamma` must go from a lower to a higher number"),
        (["scheduler.gama=interval(0.1,0.9)"], "`scheduler.gama` is not a key of this config. Valid there: "),
        ([GAMMA, "scheduler=choice(steplr,constant)"], "give a list of spaces, `sweep.space`."),
        (["scheduler=choice(steplr,stepplr)"], "Could not find 'scheduler/stepplr'"),
        (["scheduler.gamma=interval(-3,-1)"], "`scheduler.gamma` must be a number > 0, but is -2.0 instead.\nNo trial"),
        ([GAMMA, "sweep.objective=val/f1"], "`sweep.objective` must be one of train/loss, but is 'val/f1' instead."),
        ([GAMMA, "sweep.grids=[{scheduler.gamma:[1]}]"], "`sweep.grids` must be empty for hydra/sweeper=lrtape_optuna"),
        ([GAMMA, "sweep.seeds=2"], "`sweep.seeds` must be 1 in a search, but is 2 instead."),
        ([GAMMA, "tracking=off"], "`tracking.enabled` must be true for hydra/sweeper=lrtape_optuna"),
        ([GAMMA, "hydra.sweeper.n_trials=0"], "`hydra.sweeper.n_trials` must be at least 1, but is 0 instead."),
        ([GAMMA, "hydra.sweeper.n_jobs=0"], "`hydra.sweeper.n_jobs` must be at least 1, but is 0 instead."),
        ([GAMMA, "hydra.sweeper.n_trials=many"], "`hydra.sweeper.n_trials`: Value 'many' of type 'str'"),
        ([GAMMA, "hydra.sweeper.sampler=tea"], "`hydra.sweeper.sampler` must be one of tpe, random, cmaes"),
        ([GAMMA, "hydra.sweeper.pruner=ahsa"], "`hydra.sweeper.pruner` must be one of none, median, asha, hyperband"),
        ([GAMMA, "hydra.sweeper.trials=3"], "trials"),
    ],
)
def test_what_concerns_every_trial_is_refused(
    arguments: list[str], said: str, command: Command, store: str, tmp_path: Path
) -> None:
    """One message, exit code 2, and nothing is begun."""
    code, errors = command(*SEARCH, *TINY, *arguments)

    assert code == 2, errors
    assert said in errors
    assert MlflowClient(tracking_uri=store).get_experiment_by_name("lrtape") is None
    assert not (tmp_path / ".lrtape").exists()


@pytest.mark.parametrize(
    ("version", "said"), [(None, "is not installed"), ("3.6.0", "must be at least 4"), ("6.0", "below 6")]
)
def test_an_optuna_that_does_not_fit_is_refused(
    version: str | None, said: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs one."""

    def find(_: str) -> str:
        if version is None:
            raise PackageNotFoundError
        return version

    monkeypatch.setattr(optuna_version, "version", find)
    code, errors = command(*SEARCH, *TINY, GAMMA)

    assert code == 2
    assert said in errors
    assert 'pip install "lrtape[optuna]"' in errors


@pytest.mark.parametrize("sweep", ["optuna_steplr", "optuna_schedules"])
def test_the_spaces_that_are_shipped_can_be_searched(
    sweep: str, command: Command, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run tries a point of each of them, and begins nothing: it needs no Slurm, and no server."""
    dry_run = ("hydra/launcher=lrtape_slurm", "sweep.dry_run=true")
    code, errors = command("-m", "hydra/sweeper=lrtape_optuna", f"sweep={sweep}", *dry_run)

    assert code == 0, errors
    assert MlflowClient(tracking_uri=store).get_experiment_by_name("lrtape") is None


def test_hydra_does_not_import_optuna_for_its_plugins() -> None:
    """Every command and tab completion imports them all."""
    script = "import sys, hydra_plugins.lrtape.optuna_sweeper; print({'optuna', 'torch', 'mlflow'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)

    assert ended.stdout == "set()\n"
