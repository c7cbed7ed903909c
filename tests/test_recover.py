import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape.cli import main
from lrtape.recover import recover
from lrtape.spool import End, Header, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Group, GroupLayout, Record, Status
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun
from rig.shippers import kill_shipper


def leave_behind(folder: Path, run: MlflowRun, end: Status | None, uri: str, owns_run: bool = True) -> SpoolWriter:
    """The spool of a training of ten steps; its writer lives until it is closed."""
    folder.mkdir(parents=True)
    writer = SpoolWriter(SpoolFolder(folder).spool, Header(run.run_id, owns_run, uri, 1))
    writer.write(GroupLayout(0, (Group("a", "lr/a"),)))
    for step in range(10):
        writer.write(Record(0, step, step, [0.1 / (step + 1)]))
    if end is not None:
        writer.write(End(end))
    return writer


DEADLINE_S = 60


@pytest.mark.parametrize(("end", "status"), [(None, "KILLED"), (Status.FAILED, "FAILED")])
def test_what_is_left_behind_arrives_and_the_status_is_true(store: str, end: Status | None, status: str) -> None:
    """Every value is stored once, the run says how the training ended, and the spool is removed."""
    run = MlflowRun.create(store)
    folder = Path(".lrtape/x")
    leave_behind(folder, run, end, store).close()
    (result,) = recover(Path(".lrtape"))

    assert (result.folder, result.points, result.problem) == (folder, 10, "")
    assert list(read_run(run.run_id, store)["lr/a"].values) == [0.1 / (step + 1) for step in range(10)]
    assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == status
    assert list(Path(".lrtape").iterdir()) == []
    assert list(recover(Path(".lrtape"))) == []


def test_a_joined_run_whose_recording_ended_well_is_not_ended(store: str) -> None:
    """It is somebody else's, who may still use it; only where the recording was cut off, the run must be dead."""
    for end, status in ((Status.FINISHED, "RUNNING"), (None, "KILLED")):
        run = MlflowRun.create(store)
        leave_behind(Path(".lrtape/x"), run, end, store, owns_run=False).close()
        assert [result.problem for result in recover(Path(".lrtape"))] == [""]
        assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == status


def test_a_damaged_spool_is_kept(store: str) -> None:
    """What is before the damage arrives; the folder stays, and the damage is said."""
    run = MlflowRun.create(store)
    leave_behind(Path(".lrtape/x"), run, Status.FINISHED, store).close()
    spool = Path(".lrtape/x/spool")
    data = bytearray(spool.read_bytes())
    data[-80] ^= 0xFF
    spool.write_bytes(data)
    (result,) = recover(Path(".lrtape"))

    assert 0 < result.points < 10
    assert "is damaged: what is behind its byte" in result.problem
    assert spool.exists()


def test_a_status_that_somebody_set_is_left_alone(store: str) -> None:
    """Only a run that still says RUNNING is given a status."""
    run = MlflowRun.create(store)
    run.finish(Status.FINISHED)
    leave_behind(Path(".lrtape/x"), run, None, store).close()
    list(recover(Path(".lrtape/x")))

    assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == "FINISHED"


def test_the_living_are_left_alone(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that is being written, or shipped by another process, is not touched."""
    monkeypatch.setattr("lrtape.recover.WAIT_S", 0.0)
    run = MlflowRun.create(store)
    writer = leave_behind(Path(".lrtape/x"), run, None, store)
    assert [result.problem for result in recover(Path(".lrtape"))] == ["its training still runs"]
    writer.close()
    with SpoolFolder(Path(".lrtape/x")).claim():
        assert [result.problem for result in recover(Path(".lrtape"))] == ["another process ships it now"]
    assert [result.problem for result in recover(Path(".lrtape"))] == [""]


def test_one_bad_spool_does_not_keep_the_others(store: str) -> None:
    """A file that is no spool, and a run that is gone, are said; the rest is recovered."""
    good, gone = MlflowRun.create(store), MlflowRun.create(store)
    MlflowClient(tracking_uri=store).delete_run(gone.run_id)
    leave_behind(Path(".lrtape/a"), gone, None, store).close()
    Path(".lrtape/b").mkdir()
    Path(".lrtape/b/spool").write_text("something else")
    leave_behind(Path(".lrtape/c"), good, None, store).close()
    problems = {result.folder.name: result.problem for result in recover(Path(".lrtape"))}

    assert "must be in the 'active' state" in problems["a"]
    assert "must begin with" in problems["b"]
    assert problems["c"] == ""


def test_a_store_that_needs_a_password_is_named_by_the_environment(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool masks it, and so cannot say where the run is."""
    run = MlflowRun.create(store)
    leave_behind(Path(".lrtape/x"), run, None, "postgresql://***@db/mlflow").close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    assert [result.problem for result in recover(Path(".lrtape"))] == [""]


def test_the_printed_command_rescues_a_training_whose_store_was_away(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store vanishes while training; the command that close() prints brings everything there, later."""
    database = tmp_path / "mlflow.db"
    run = MlflowRun.create(store)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    session = lrtape.attach(optimizer, run=run, close_timeout_s=0.0)
    for _ in range(20):
        optimizer.step()
    shutil.move(database, tmp_path / "away")
    database.mkdir()  # nothing can be opened there
    with pytest.warns(UserWarning, match="lrtape recover") as warned:
        session.close()
    left = next((tmp_path / ".lrtape").iterdir())
    kill_shipper(left)  # it would go on trying
    database.rmdir()
    shutil.move(tmp_path / "away", database)

    command = str(warned[0].message).rpartition("run: ")[2].split()
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    assert "20 values stored, recovered" in capsys.readouterr().out
    assert list(read_run(run.run_id, store)["lr/group_00"].steps) == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recover", "no/such/folder"], "there is no no/such/folder"),
        (["recover", ".", "--tracking-uri", "http://me:s3cret@host"], "must not carry a password"),
        (["rewind"], "invalid choice: 'rewind'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    """One message, exit code 2, and no password is repeated."""
    out = subprocess.run(
        [sys.executable, "-c", "from lrtape.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (out.returncode, "Traceback" in out.stderr, "s3cret" in out.stderr) == (2, False, False)
    assert said in out.stderr


def test_recover_makes_a_waiting_shipper_try_again(store: str, tmp_path: Path) -> None:
    """The training's own shipper may rest for half a minute: whoever mends the store and runs recover does not wait."""
    database = tmp_path / "mlflow.db"
    run = MlflowRun.create(store)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    session = lrtape.attach(optimizer, run=run, close_timeout_s=0.0)
    optimizer.step()
    shutil.move(database, tmp_path / "away")
    database.mkdir()  # nothing can be opened there
    with pytest.warns(UserWarning, match="lrtape recover"):
        session.close()
    database.rmdir()
    shutil.move(tmp_path / "away", database)
    (result,) = recover(tmp_path / ".lrtape")

    assert (result.problem, result.is_complete) == ("", True)
    assert list(read_run(run.run_id, store)["lr/group_00"].steps) == [0]
    assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == "FINISHED"


def test_recover_takes_over_from_a_shipper_that_cannot(store: str, tmp_path: Path) -> None:
    """The store has moved: whoever runs recover names the new one, and the training's own shipper lets go."""
    run = MlflowRun.create(store)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    session = lrtape.attach(optimizer, run=run, close_timeout_s=0.0)
    optimizer.step()
    (folder,) = SpoolFolder.find(tmp_path / ".lrtape")
    deadline = time.monotonic() + DEADLINE_S
    while not folder.load_progress().points and time.monotonic() < deadline:
        time.sleep(0.01)  # While MLflow (3.17) opens a database, it tries for 100 s, and does not listen.
    shutil.move(tmp_path / "mlflow.db", tmp_path / "moved.db")
    optimizer.step()
    (tmp_path / "mlflow.db").mkdir()  # nothing can be opened there
    with pytest.warns(UserWarning, match="lrtape recover"):
        session.close()
    moved = f"sqlite:///{tmp_path}/moved.db"
    (result,) = recover(tmp_path / ".lrtape", moved)

    assert (result.problem, result.is_complete) == ("", True)
    assert list(read_run(run.run_id, moved)["lr/group_00"].steps) == [0, 1]


def test_a_hidden_password_is_asked_for(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than look into another store, or make one, and believe that all is well."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = MlflowRun.create(store)
    leave_behind(Path(".lrtape/x"), run, Status.FINISHED, "postgresql://***@db/mlflow").close()
    (result,) = recover(Path(".lrtape"))

    assert "`$MLFLOW_TRACKING_URI` must be the URI of postgresql://***@db/mlflow" in result.problem
    assert not result.is_complete
    assert Path(".lrtape/x/spool").exists()
