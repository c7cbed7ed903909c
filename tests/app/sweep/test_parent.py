"""Beginning a sweep, and going on with one: whose run it is, and who may."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lrtape.app.config import Settings
from lrtape.app.sweep.liveness import bury, is_alive, is_sweep_alive, whereabouts
from lrtape.app.sweep.parent import LOCK, Parent
from lrtape.app.sweep.planning import SweepPlan
from lrtape.app.sweep.slurm_submission import Backlog
from lrtape.errors import ConfigError
from lrtape.tape import now_ms
from lrtape.tracking.sweep_runs import SweepRuns
from lrtape.tracking.tags import FOLDER, HOST, TRIAL
from lrtape.trials import TrialRun, folder_of_sweep

Plan = Callable[..., SweepPlan]
SettingsOf = Callable[..., Settings]

SWEPT = ("scheduler=steplr", "scheduler.gamma=0.1,0.5")
LONG_AGO_MS = now_ms() - 100_000_000


def statuses(store: str) -> list[str]:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def add_child(store: str, parent_run_id: str, trial_id: str, status: str, tags: dict[str, str] | None = None) -> str:
    """A child as a training leaves it; one that runs has begun long ago, and recorded a value just now."""
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    made = {TRIAL: trial_id, "mlflow.parentRunId": parent_run_id, "lrtape.sweep.objective": "0.5", **(tags or {})}
    run = client.create_run(experiment.experiment_id, start_time=LONG_AGO_MS, tags=made)
    client.log_metric(run.info.run_id, "lr/all", 0.1, timestamp=now_ms())
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


@pytest.fixture
def settings(store: str, settings_of: SettingsOf) -> Settings:
    return settings_of(f"tracking.uri={store}")


def test_two_drivers_never_share_a_sweep(plan: Plan, settings: Settings) -> None:
    """The second one is refused as long as the first one is at it, and then goes on in the same run."""
    planned = plan(*SWEPT)
    with Parent.open(planned, settings, "first") as parent, pytest.raises(ConfigError, match="still goes on"):
        Parent.open(planned, settings, "second")
    with Parent.open(planned, settings, "third") as other:
        assert other.run_id == parent.run_id


def test_a_driver_that_has_no_run_yet_keeps_others_out(plan: Plan, settings: Settings, store: str) -> None:
    """Two that are started in the same moment see no run of each other's; the lock of the sweep lets one begin."""
    planned = plan(*SWEPT)
    folder = folder_of_sweep(Path(settings.tracking.folder), planned.id)
    folder.mkdir(parents=True)
    with (folder / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="still goes on"):
            Parent.open(planned, settings, "second")

    assert MlflowClient(tracking_uri=store).get_experiment_by_name("lrtape") is None


def test_what_fails_at_the_begin_is_ended(plan: Plan, settings: Settings, store: str) -> None:
    """A sweep whose folder cannot be written has no run, or one that is FAILED; none stays RUNNING."""
    planned = plan(*SWEPT)
    in_the_way = folder_of_sweep(Path(settings.tracking.folder), planned.id) / "sweep.json"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        Parent.open(planned, settings, "command")

    assert statuses(store) == ["FAILED"]
    in_the_way.rmdir()
    with Parent.open(planned, settings, "command"):
        pass  # and its lock is free again


def test_a_name_compares_one_thing(plan: Plan, settings: Settings, store: str, settings_of: SettingsOf) -> None:
    """A sweep of the same name that compares another metric is refused: its numbers would be mixed."""
    named = [f"tracking.uri={store}", "sweep.name=mine"]
    with Parent.open(plan(*SWEPT, base=named), settings_of(*named), "command"):
        pass
    other = [*named, "sweep.objective=val/acc"]
    with pytest.raises(ConfigError, match=r"compares the min of val/loss, and not the max of val/acc.*sweep.name"):
        Parent.open(plan(*SWEPT, base=other), settings_of(*other), "command")


def test_a_finished_sweep_with_a_name_takes_more_values(plan: Plan, store: str, settings_of: SettingsOf) -> None:
    """With values that it has not had it goes on in its run; with none the same command begins a new one."""
    named = [f"tracking.uri={store}", "sweep.name=mine"]
    settings = settings_of(*named)
    first = plan(*SWEPT, base=named)
    with Parent.open(first, settings, "command") as parent:
        for trial in first.trials:
            add_child(store, parent.run_id, trial.id, "FINISHED")
    with Parent.open(plan("scheduler=steplr", "scheduler.gamma=0.1,0.5,0.7", base=named), settings, "more") as more:
        assert more.run_id == parent.run_id
    with Parent.open(first, settings, "again") as again:
        assert again.run_id != parent.run_id


def run_of(store: SweepRuns, parent: Parent) -> TrialRun:
    (run,) = store.children(parent.run_id)
    return run


@pytest.mark.parametrize("elsewhere", [{HOST: "other"}, {FOLDER: "/somewhere/else"}])
def test_what_is_trained_elsewhere_is_alive_as_long_as_it_records(
    plan: Plan, settings: Settings, store: str, elsewhere: dict[str, str]
) -> None:
    """A run of another machine, or of another folder of this one, has a spool that cannot be seen: its values tell."""
    folder = Path(settings.tracking.folder)
    backlog = Backlog(folder)
    with Parent.open(plan(*SWEPT), settings, "command") as parent:
        add_child(store, parent.run_id, "a", "RUNNING", {**whereabouts(folder), **elsewhere})
        runs = SweepRuns(store, "lrtape")
        child = run_of(runs, parent)
        driver = TrialRun(child.run_id, "", "driver", "RUNNING", start_ms=LONG_AGO_MS, tags=child.tags)

        assert is_alive(child, folder, runs, backlog)
        assert is_sweep_alive(TrialRun(parent.run_id, "", "", "RUNNING", tags=elsewhere), folder, runs, backlog)
        MlflowClient(tracking_uri=store).set_terminated(child.run_id, "KILLED")
        assert not is_alive(run_of(runs, parent), folder, runs, backlog)
        assert not is_sweep_alive(driver, folder, runs, backlog)


def test_what_was_trained_here_and_has_no_spool_is_dead(plan: Plan, settings: Settings, store: str) -> None:
    """On this machine and in this folder a spool would be seen; whatever the run says, its process is gone."""
    folder = Path(settings.tracking.folder)
    with Parent.open(plan(*SWEPT), settings, "command") as parent:
        add_child(store, parent.run_id, "a", "RUNNING", whereabouts(folder))
        runs = SweepRuns(store, "lrtape")
        child = run_of(runs, parent)

        assert not is_alive(child, folder, runs, Backlog(folder))
        bury(child, folder, runs)
        assert run_of(runs, parent).status == "KILLED"


def test_a_run_that_has_ended_is_not_ended_again(plan: Plan, settings: Settings, store: str) -> None:
    """Between a look and the burial a trial may have been finished: it stays FINISHED."""
    folder = Path(settings.tracking.folder)
    with Parent.open(plan(*SWEPT), settings, "command") as parent:
        add_child(store, parent.run_id, "a", "FINISHED", whereabouts(folder))
        runs = SweepRuns(store, "lrtape")
        bury(run_of(runs, parent), folder, runs)

        assert run_of(runs, parent).status == "FINISHED"
        assert run_of(runs, parent).error == ""


def test_nothing_secret_is_kept_of_a_sweep(plan: Plan, settings: Settings, store: str) -> None:
    """A password in a value reaches neither the record of a sweep nor the artifacts or tags of its run."""
    planned = plan("scheduler=steplr", "scheduler.name='http://me:hush42@host/a','http://me:hush42@host/b'")
    with Parent.open(planned, settings, "lrtape train http://me:hush42@host") as parent:
        run: Any = MlflowClient(tracking_uri=store).get_run(parent.run_id)
    files = [path for path in Path.cwd().rglob("*") if path.is_file()]

    assert "hush42" not in str(run.to_dictionary())
    assert [path for path in files if path.suffix != ".db" and b"hush42" in path.read_bytes()] == []
