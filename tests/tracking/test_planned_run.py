import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape.cli.status import status
from lrtape.errors import ConfigError, TrackingError
from lrtape.recover import recover
from lrtape.tape import Status
from lrtape.tracking.history import read_run
from lrtape.tracking.planned_run import PlannedRun
from lrtape.tracking.realize import create, realize

GONE = "http://127.0.0.1:9"


def plan(root: Path = Path(".lrtape")) -> PlannedRun:
    return PlannedRun(root, GONE, "mine", "steplr", {"lr": 0.1}, {"team": "blue"})


def train(run: PlannedRun) -> None:
    """Two steps, with a server that never answers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    session = lrtape.attach(optimizer, run=run, close_timeout_s=0.0)
    optimizer.step()
    optimizer.step()
    run.log_text("a: 1\n", "config/resolved.yaml")
    with pytest.warns(UserWarning, match="lrtape recover"):
        session.close()


def kill_shippers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let none start: it would go on trying to reach the server."""
    monkeypatch.setattr("lrtape.shipper_process.ShipperProcess._start", lambda _: None)


def test_a_training_without_a_server_gets_its_run_later(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recover` creates the run as it would have been: name, params, tags, artifacts, rows, times and status."""
    kill_shippers(monkeypatch)
    run = plan()
    with pytest.raises(TrackingError):
        create(run.folder, GONE)  # as who trains has it tried first
    started_ms = json.loads(run.folder.run_spec.read_text())["start_ms"]
    train(run)
    (result,) = recover(Path(".lrtape"), store)
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (created,) = client.search_runs([experiment.experiment_id])

    assert (result.problem, result.points, result.is_complete) == ("", 2, True)
    assert (created.info.run_name, created.info.status, created.info.start_time) == ("steplr", "FINISHED", started_ms)
    assert created.data.params == {"lr": "0.1"}
    assert created.data.tags["team"] == "blue"
    assert created.data.tags["mlflow.user"]
    assert created.data.tags["lrtape.complete"] == "true"
    assert list(read_run(created.info.run_id, store)["lr/group_00"].values) == [0.5, 0.5]
    assert "config/resolved.yaml" in [item.path for item in client.list_artifacts(created.info.run_id, "config")]
    assert not run.folder.path.exists()


def test_a_run_is_created_once(store: str) -> None:
    """Whoever is stopped halfway leaves a run that the next one finds."""
    run = plan()
    first, second = realize(run.folder, store), realize(run.folder, store)

    assert first.run_id == second.run_id


def test_a_plan_that_was_never_used_is_removed(store: str) -> None:
    """A training that is refused before its first step leaves nothing behind."""
    with plan() as run:
        run.log_text("a: 1\n", "config/resolved.yaml")
    assert not run.folder.path.exists()


def test_it_says_where_the_run_is(store: str) -> None:
    """As long as it is only planned: the command that creates it."""
    run = plan()
    assert run.how_to_look() == f"The run is still to be created: lrtape recover {run.folder.path}"
    run.finish(Status.FINISHED)
    assert "has the run now" in run.how_to_look()


def test_a_folder_that_cannot_be_written_is_refused(store: str, tmp_path: Path) -> None:
    """Before the training starts."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="`folder` must be a place where lrtape can write"):
        plan(tmp_path / "taken")


def test_a_spool_that_is_kept_says_which_run_it_has_become(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Created later, by who ships it: nobody is sent to a command that has nothing to do."""
    run = PlannedRun(Path(".lrtape"), store, "mine", "steplr", {"lr": 0.1}, {})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with lrtape.attach(optimizer, run=run, keep_spool=True):
        optimizer.step()
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (created,) = client.search_runs([experiment.experiment_id])

    assert created.info.status == "FINISHED"
    status(Path(".lrtape"))
    assert f"run {created.info.run_id}, kept and complete" in capsys.readouterr().out
    assert "has the run now" in run.how_to_look()
