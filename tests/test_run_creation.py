import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from lrtape import companion
from lrtape.cli.status import status
from lrtape.companion_process import CompanionProcess
from lrtape.errors import ConfigError, TrackingError
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.recording_options import RecordingOptions
from lrtape.recover import recover
from lrtape.run_creation import create_run
from lrtape.session import open_session
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.planned_run import MAX_HELD_BYTES, PlannedRun
from lrtape.tracking.realize import create
from lrtape.tracking.uri import sqlite_path

DEADLINE_S = 60
GONE = "http://127.0.0.1:9"
ROOT = Path(".lrtape")
DIGITS = LoggedDataset("digits", "12ab", "train", "my.digits", 7, [8], [], "float32", "int64", "all")

CREATE = """
import os, signal, sys
from pathlib import Path
from lrtape.run_creation import create_run
from lrtape.tracking.planned_run import PlannedRun
run = PlannedRun(Path(".lrtape"), sys.argv[1], "mine", None, {}, {})
create_run(run)
assert "mlflow" not in sys.modules
print(run.run_id, flush=True)
"""


def planned(store: str, **options: Any) -> PlannedRun:
    return PlannedRun(ROOT, store, "mine", "steplr", {"lr": 0.1}, {"team": "blue"}, **options)


def runs_of(store: str, experiment: str = "mine") -> list[Any]:
    client = MlflowClient(tracking_uri=store)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def ended(store: str) -> Any:
    """The only run, as soon as it is over."""
    deadline = time.monotonic() + DEADLINE_S
    while [run.info.status for run in runs_of(store)] in ([], ["RUNNING"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    (run,) = runs_of(store)
    return run


@contextlib.contextmanager
def recording(run: PlannedRun, close_timeout_s: float = DEADLINE_S) -> Iterator[torch.optim.Optimizer]:
    """An optimizer whose steps are recorded into it, until its shipper has stored them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with open_session(run, None, RecordingOptions(ROOT), close_timeout_s) as session:
        session.add(optimizer)
        yield optimizer


def leave_behind(run: PlannedRun, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = int) -> None:
    """Record two steps, and something in between, while no shipper starts."""

    def train() -> None:
        with recording(run, close_timeout_s=0.0) as optimizer:
            optimizer.step()
            meanwhile()
            optimizer.step()

    with monkeypatch.context() as patch:
        patch.setattr("lrtape.shipper_process.ShipperProcess._start", lambda _: None)
        with pytest.warns(UserWarning, match="lrtape recover"):
            train()


@pytest.fixture
def no_companion() -> Iterator[None]:
    """None is left over from other tests, nor for them."""
    IDLE_COMPANIONS.reset()
    yield
    IDLE_COMPANIONS.reset()


def test_a_run_is_created_as_this_process_would(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, params, tags, parent; MLflow's own tags are of what was started here, and not of the companion."""
    monkeypatch.setattr(sys, "argv", ["my_training.py"])
    run = planned(store, parent_run_id="0" * 32)
    create_run(run)
    (created,) = runs_of(store)

    assert run.run_id == created.info.run_id
    assert created.info.status == "RUNNING"
    assert created.info.run_name == "steplr"
    assert created.data.params == {"lr": "0.1"}
    assert created.data.tags["team"] == "blue"
    assert created.data.tags["mlflow.parentRunId"] == "0" * 32
    assert created.data.tags["mlflow.source.name"] == "my_training.py"
    assert created.data.tags["mlflow.user"]
    assert run.folder.path.name == f"{run.run_id}-{run.folder.recording_id}"
    assert run.folder.run_spec.exists()


def test_what_belongs_to_the_run_is_there_while_it_records(store: str) -> None:
    """Data and artifacts at the beginning; tags before the run ends; nothing is left of the folder."""
    run = planned(store)
    create_run(run)
    run.log_text("a: ü\n", "config/resolved.yaml")
    run.log_datasets([DIGITS])
    client, deadline = MlflowClient(tracking_uri=store), time.monotonic() + DEADLINE_S
    with recording(run) as optimizer:
        optimizer.step()
        while not client.list_artifacts(run.run_id, "config") and time.monotonic() < deadline:
            time.sleep(0.05)
        text = Path(client.download_artifacts(run.run_id, "config/resolved.yaml")).read_text()
        now = client.get_run(run.run_id)
        run.set_tags({"lrtape.sweep.objective": "0.5"})
        run.set_tags({"other": "1"})
    after = client.get_run(run.run_id)

    assert text == "a: ü\n"
    assert now.inputs is not None
    assert [one.dataset.digest for one in now.inputs.dataset_inputs] == ["12ab"]
    assert now.info.status == "RUNNING"
    assert now.data.tags["lrtape.complete"] == "false"
    assert after.info.status == "FINISHED"
    assert after.data.tags["lrtape.complete"] == "true"
    assert (after.data.tags["lrtape.sweep.objective"], after.data.tags["other"]) == ("0.5", "1")
    assert after.data.tags["lrtape.recording"] == run.folder.recording_id
    assert list(ROOT.iterdir()) == []
    assert f"/runs/{run.run_id}?" in run.how_to_look()
    assert "Dashboard:" in run.how_to_look()


def test_an_error_is_said_of_the_run(store: str) -> None:
    """Of what has ended the recording; of what has ended the training before there was one, too."""

    def fail(run: PlannedRun, text: str, is_recorded: bool) -> None:
        with run:
            create_run(run)
            with recording(run) if is_recorded else contextlib.nullcontext():
                raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="out of memory"):
        fail(planned(store), "out of memory", is_recorded=True)
    first = ended(store)
    run = planned(store)
    with pytest.raises(RuntimeError, match="no data"):
        fail(run, "no data", is_recorded=False)
    second = next(one for one in runs_of(store) if one.info.run_id == run.run_id)

    assert (first.info.status, first.data.tags["lrtape.error"]) == ("FAILED", "RuntimeError: out of memory")
    assert (second.info.status, second.data.tags["lrtape.error"]) == ("FAILED", "RuntimeError: no data")
    assert list(ROOT.iterdir()) == []


@pytest.mark.parametrize("then", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_run_that_nobody_records_into_is_ended(store: str, tmp_path: Path, then: str) -> None:
    """By the companion that has created it, where the training dies before its first step; nothing is left of it."""
    subprocess.run([sys.executable, "-c", CREATE + then, store], cwd=tmp_path, check=False, timeout=DEADLINE_S)
    run = ended(store)
    deadline = time.monotonic() + DEADLINE_S
    while list(ROOT.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert run.info.status == "KILLED"
    assert list(ROOT.iterdir()) == []


DIE_WITH_COMPANION = """
from lrtape.idle_companions import IDLE_COMPANIONS
(companion,) = IDLE_COMPANIONS._idle
run.log_text("lr: 0.1", "config/config.yaml")
sys.stdin.readline()
os.kill(companion._process.pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_training_and_companion_die_together_is_ended(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As joblib kills a worker with all that it has started: `status` says so, and `recover` ends the run."""
    command = [sys.executable, "-c", CREATE + DIE_WITH_COMPANION, store]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        run_id = training.stdout.readline().strip()
        alive = [result.problem for result in recover(ROOT)]
        status(ROOT)
        training.communicate("die")
    status(ROOT)
    preparing, left = capsys.readouterr().out.splitlines()
    (recovery,) = recover(ROOT)
    run = MlflowClient(tracking_uri=store).get_run(run_id)

    assert alive == ["its training still runs"]
    assert "its training prepares itself" in preparing
    assert f"its training has died before its first step; run: lrtape recover {recovery.folder}" in left
    assert (recovery.problem, recovery.is_complete) == ("", True)
    assert run.info.status == "KILLED"
    assert MlflowClient(tracking_uri=store).list_artifacts(run_id, "config")
    assert list(ROOT.iterdir()) == []


def test_a_run_that_was_never_created_is_not_created_for_its_end(store: str) -> None:
    """Its training died while the companion was at it: nothing was trained, and nothing is left."""
    run = planned(store)
    run.let_go()
    (recovery,) = recover(ROOT)

    assert recovery.is_complete
    assert MlflowClient(tracking_uri=store).get_experiment_by_name("mine") is None
    assert list(ROOT.iterdir()) == []


def test_a_plan_that_is_torn_is_told_and_costs_no_other(store: str) -> None:
    """The power has failed: nobody knows which run it was for, and the others are ended all the same."""
    torn, whole = planned(store), planned(store)
    for run in (torn, whole):
        create_run(run)
        run.let_go()
    torn.folder.run_spec.write_bytes(b"")
    by_folder = {recovery.folder.absolute(): recovery for recovery in recover(ROOT)}

    assert "is damaged" in by_folder[torn.folder.path].problem
    assert by_folder[whole.folder.path].is_complete
    assert MlflowClient(tracking_uri=store).get_run(whole.run_id).info.status == "KILLED"


def test_a_training_whose_folder_was_deleted_is_not_taken_for_dead(store: str) -> None:
    """What it keeps afterwards makes the folder anew, without the lock that says that it lives."""
    with planned(store) as run:
        create_run(run)
        shutil.rmtree(ROOT)
        run.log_text("lr: 0.1", "config/config.yaml")
        run.log_datasets([DIGITS])

        assert list(recover(ROOT)) == []
        assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == "RUNNING"


def test_data_that_the_store_does_not_take_end_a_run_all_the_same(store: str) -> None:
    """The store refuses them for good: the run is over, and a person is told."""
    run = planned(store)
    create_run(run)
    run.log_datasets([DIGITS])
    run.let_go()
    with sqlite3.connect(sqlite_path(store) or "") as database:
        database.execute("create trigger no before insert on datasets begin select raise(abort, 'no data here'); end")
    (recovery,) = recover(ROOT)

    assert "What the data are could not be noted" in recovery.problem
    assert recovery.is_complete
    assert MlflowClient(tracking_uri=store).get_run(run.run_id).info.status == "KILLED"


@pytest.mark.usefixtures("no_companion")
def test_ctrl_c_while_the_run_is_created_leaves_none_that_is_running(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The companion that nobody waits for any more ends it."""
    run = planned(store)

    def interrupted(companion: CompanionProcess, wait_s: float) -> bytes | None:
        deadline = time.monotonic() + DEADLINE_S
        while not runs_of(store) and time.monotonic() < deadline:
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(CompanionProcess, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_run(run)

    assert ended(store).info.status == "KILLED"
    assert IDLE_COMPANIONS._idle == []


@pytest.mark.usefixtures("no_companion")
@pytest.mark.parametrize("exit_code", [0, 127])
def test_where_no_companion_starts_this_process_creates_the_run(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int
) -> None:
    """Once, and as ever."""
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    run = planned(store)
    create_run(run)
    (created,) = runs_of(store)

    assert run.run_id == created.info.run_id
    assert created.data.params == {"lr": "0.1"}


def test_a_refusal_is_this_process_s(store: str) -> None:
    """The same error as without a companion, and the plan waits for whoever wants to keep it."""
    client = MlflowClient(tracking_uri=store)
    client.delete_experiment(client.create_experiment("mine"))
    with pytest.raises(ConfigError, match="the experiment must not be deleted, but 'mine' is"):
        create_run(planned(store))
    with pytest.raises(TrackingError, match="does not answer"):
        create_run(run := planned(GONE))

    assert not run.is_created
    assert "mlflow.user" in run.folder.run_spec.read_text()  # for who creates it later, perhaps elsewhere


def test_a_full_folder_is_refused(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the training starts, and without a trace."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrtape.tracking.planned_run.write_spec", full)
    with pytest.raises(ConfigError, match="`folder` must be a place where lrtape can write"):
        planned(store)

    assert not ROOT.exists()


def test_no_credential_reaches_the_folder(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of the store, nor one in a tag, as MLflow makes one of the address of a git repository."""
    monkeypatch.setattr("lrtape.tracking.realize.resolve_tags", lambda tags: {**tags, "git": "https://me:hush@host/x"})
    IDLE_COMPANIONS.reset()
    monkeypatch.setattr(CompanionProcess, "__init__", cannot_start)
    with pytest.raises(TrackingError):
        create_run(run := PlannedRun(ROOT, "http://me:hush@127.0.0.1:9", "mine", None, {}, {}))

    assert "hush" not in run.folder.run_spec.read_text()
    assert "git" in run.folder.run_spec.read_text()


def cannot_start(*_: object) -> None:
    raise OSError("no process")


def test_a_large_artifact_is_not_copied(store: str) -> None:
    """A checkpoint is linked, and not changed by what is written in its place later."""
    Path("last.pt").write_text("1" * (MAX_HELD_BYTES + 1))
    run = planned(store)
    run.log_artifact(Path("last.pt"), "checkpoints")
    kept = run.folder.artifacts / "checkpoints" / "last.pt"
    same = kept.samefile("last.pt")
    Path("new.pt").write_text("second")
    Path("new.pt").replace("last.pt")

    assert same
    assert kept.read_text().startswith("111")


def test_tags_may_be_read_at_any_time(tmp_path: Path) -> None:
    """Those that are kept; none where there are none, or where they cannot be read."""
    folder = SpoolFolder.create(tmp_path, "planned")
    before = folder.load_tags()
    folder.save_tags({"a": "1"})
    after = folder.load_tags()
    (folder.path / "tags.json").write_bytes(b"\0")

    assert (before, after, folder.load_tags()) == ({}, {"a": "1"}, {})


@pytest.mark.usefixtures("no_companion")
def test_a_training_needs_no_mlflow(store: str, tmp_path: Path) -> None:
    """The whole reference training, its model included, and what is printed in the end; mlflow is never imported."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('mlflow' in sys.modules))\n"
        "sys.argv = ['train.py', 'scheduler=steplr', 'trainer.max_steps=20']\n"
        "from lrtape.app.main import main\nmain()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    run = ended_in(store, "lrtape")

    assert "Dashboard:" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 1


def ended_in(store: str, experiment: str) -> Any:
    (run,) = runs_of(store, experiment)
    return MlflowClient(tracking_uri=store).get_run(run.info.run_id)


def test_the_first_signal_ends_a_training_that_waits_for_its_run(
    start_process: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the connection and says nothing: Ctrl-C is answered at once, and no plan is left."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = (sys.executable, "-m", "lrtape.cli", "train", "scheduler=steplr", f"tracking.uri={uri}")
        process = start_process(*command)
        silent.settimeout(DEADLINE_S)
        asking, _ = silent.accept()
        with asking:
            os.kill(process.pid, signal.SIGINT)
            begin = time.monotonic()
            _, errors = process.communicate(timeout=DEADLINE_S)
            waited_s = time.monotonic() - begin

    assert process.returncode == 130, errors
    assert waited_s < 4  # and not until the server is given up
    assert "interrupted by SIGINT" in errors
    deadline = time.monotonic() + DEADLINE_S
    while list((tmp_path / ".lrtape").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / ".lrtape").iterdir()) == []  # its companion has cleared that away


def test_data_that_the_store_does_not_take_cost_nothing_else(store: str) -> None:
    """A server of before, or a user without that right: every row is there, the run is over, and a person is told."""
    with sqlite3.connect(sqlite_path(store) or "") as database:
        database.execute("create trigger no before insert on datasets begin select raise(abort, 'no data here'); end")
    run = planned(store)
    create_run(run)
    run.log_datasets([DIGITS])
    with pytest.warns(UserWarning, match="What the data are could not be noted"), recording(run) as optimizer:
        optimizer.step()
    after = MlflowClient(tracking_uri=store).get_run(run.run_id)

    assert after.info.status == "FINISHED"
    assert after.data.tags["lrtape.complete"] == "true"
    assert list(read_run(run.run_id, store)["lr/group_00"].values) == [0.5]
    assert list(ROOT.iterdir()) == []


def test_a_plan_that_is_torn_costs_no_row(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power may have failed: what the run is, the spool says, too."""
    run = planned(store)
    create_run(run)
    leave_behind(run, monkeypatch)
    run.folder.run_spec.write_bytes(run.folder.run_spec.read_bytes()[:20])
    (recovery,) = recover(ROOT, store)

    assert (recovery.problem, recovery.points, recovery.is_complete) == ("", 2, True)
    assert ended(store).info.status == "FINISHED"


def test_a_folder_that_is_deleted_costs_nothing(store: str) -> None:
    """While the training goes on: tags, texts and files that are kept before and after are there in the end."""
    Path("last.pt").write_text("weights")
    run = planned(store)
    create_run(run)
    with recording(run) as optimizer:
        optimizer.step()
        run.set_tags({"before": "1"})
        shutil.rmtree(run.folder.path, ignore_errors=True)  # its shipper may write there now
        optimizer.step()
        run.set_tags({"after": "2"})
        run.log_text("a: 1\n", "config/resolved.yaml")
        shutil.rmtree(run.folder.path, ignore_errors=True)  # its shipper may write there now
        run.log_artifact(Path("last.pt"), "checkpoints")
    after = MlflowClient(tracking_uri=store).get_run(run.run_id)

    assert (after.data.tags["before"], after.data.tags["after"]) == ("1", "2")
    assert list(read_run(run.run_id, store)["lr/group_00"].values) == [0.5, 0.5]
    assert artifact(store, run, "config/resolved.yaml") == "a: 1\n"
    assert artifact(store, run, "checkpoints/last.pt") == "weights"


def artifact(store: str, run: PlannedRun, path: str) -> str:
    return Path(MlflowClient(tracking_uri=store).download_artifacts(run.run_id, path)).read_text()


def test_what_an_old_recording_left_does_not_end_the_run_that_goes_on(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, say, the training was resumed; then somebody recovers what the first machine had not stored."""
    first = planned(store)
    create_run(first)
    leave_behind(first, monkeypatch, lambda: first.set_tags({"lrtape.sweep.objective": "old"}))
    resumed = MlflowRun.reopen(first.run_id, store)
    client = MlflowClient(tracking_uri=store)
    with open_session(resumed, None, RecordingOptions(Path("elsewhere")), DEADLINE_S) as session:
        session.add(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5), first_step=2)
        (recovery,) = recover(ROOT, store)
        while_it_goes_on = client.get_run(first.run_id)

    assert recovery.is_complete
    assert while_it_goes_on.info.status == "RUNNING"
    assert "lrtape.sweep.objective" not in while_it_goes_on.data.tags
    assert client.get_run(first.run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("no_companion")
def test_a_companion_that_dies_before_it_answers_leaves_one_run(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process finds what that has created, with all params."""
    run = planned(store)
    listen = CompanionProcess._line

    def kill_first(companion: CompanionProcess, wait_s: float) -> bytes | None:
        deadline = time.monotonic() + DEADLINE_S
        while not runs_of(store) and time.monotonic() < deadline:
            time.sleep(0.001)
        companion._process.kill()
        companion._process.wait()
        companion._process.stdout.read()  # type: ignore[union-attr]  # what it may have said is lost
        return listen(companion, wait_s)

    monkeypatch.setattr(CompanionProcess, "_line", kill_first)
    create_run(run)
    (created,) = runs_of(store)

    assert run.run_id == created.info.run_id
    assert created.data.params == {"lr": "0.1"}
    assert created.info.status == "RUNNING"


@pytest.mark.usefixtures("no_companion")
def test_a_companion_leaves_alone_what_another_one_ships(store: str) -> None:
    """It has created the run, and was then taken for something else: when it ends, it ends no run that is recorded."""
    run = planned(store)
    create_run(run)
    (creator,) = IDLE_COMPANIONS._idle
    IDLE_COMPANIONS._idle.clear()
    with recording(run) as optimizer:
        optimizer.step()
        creator.forget()
        while creator_is_alive(creator):
            time.sleep(0.05)
        optimizer.step()
    after = MlflowClient(tracking_uri=store).get_run(run.run_id)

    assert after.info.status == "FINISHED"
    assert after.data.tags["lrtape.complete"] == "true"
    assert list(read_run(run.run_id, store)["lr/group_00"].values) == [0.5, 0.5]


def creator_is_alive(companion: CompanionProcess) -> bool:
    pid, _ = os.waitpid(companion._process.pid, os.WNOHANG)
    return pid == 0


@pytest.mark.usefixtures("no_companion")
def test_a_run_is_created_with_the_patience_of_the_training(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be slow: what the user has set for MLflow, or MLflow's own, counts then, and the shipper's later."""
    told: list[Any] = []
    tell = CompanionProcess._tell

    def note(companion: CompanionProcess, word: Any) -> None:
        told.append(word)
        tell(companion, word)

    monkeypatch.setattr(CompanionProcess, "_tell", note)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    create_run(planned(store))
    patience = dict(told[0].patience)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with companion._having(list(patience.items())):
        within = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]

    assert patience[b"MLFLOW_HTTP_REQUEST_TIMEOUT"] == b"300"
    assert patience[b"MLFLOW_HTTP_REQUEST_MAX_RETRIES"] is None
    assert (within, os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("300", "20")


def test_a_forked_child_that_fails_says_nothing_of_the_run(store: str) -> None:
    """It is its parent's, and goes on."""
    run = planned(store)
    create_run(run)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with contextlib.suppress(RuntimeError), open_session(run, None, RecordingOptions(ROOT), DEADLINE_S) as session:
        session.add(optimizer)
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            raise RuntimeError("only the child failed")
        os.waitpid(pid, 0)
        optimizer.step()
    if os.getpid() != parent:
        os._exit(0)
    after = ended(store)

    assert after.info.status == "FINISHED"
    assert "lrtape.error" not in after.data.tags


def test_a_recording_that_cannot_begin_leaves_a_run_that_says_why(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its config and its data; and no folder."""

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("lrtape.outbox.SpoolWriter", no_locks)
    run = planned(store)
    with pytest.raises(ConfigError, match="No locks available"), run:  # noqa: PT012 - as a training does it
        create_run(run)
        run.log_text("a: 1\n", "config/resolved.yaml")
        run.log_datasets([DIGITS])
        with recording(run):
            pass
    after = ended(store)

    assert after.info.status == "FAILED"
    assert after.data.tags["lrtape.error"].startswith("ConfigError: `folder` must be")
    assert [one.dataset.digest for one in after.inputs.dataset_inputs] == ["12ab"]
    assert artifact(store, run, "config/resolved.yaml") == "a: 1\n"
    assert list(ROOT.iterdir()) == []


def test_what_does_not_fit_into_the_folder_is_uploaded_at_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint may be larger than the disk of the spool."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Path("last.pt").write_text("weights")
    run = planned(store)
    create_run(run)
    with recording(run) as optimizer:
        optimizer.step()
        monkeypatch.setattr("os.link", full)
        monkeypatch.setattr("shutil.copy", full)
        run.log_artifact(Path("last.pt"), "checkpoints")

    assert artifact(store, run, "checkpoints/last.pt") == "weights"


@pytest.mark.parametrize("kind", ["caf\udce9", "none"])
def test_an_error_that_cannot_say_what_it_is_fails_the_run_all_the_same(store: str, kind: str) -> None:
    """A name of a file that is not UTF-8 is escaped; an exception that raises when it is asked has its type's name."""

    class BadError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def fail() -> None:
        with recording(run):
            raise (BadError() if kind == "none" else FileNotFoundError(kind))

    run = planned(store)
    create_run(run)
    with pytest.raises((BadError, FileNotFoundError)):
        fail()
    after = ended(store)

    assert after.info.status == "FAILED"
    assert after.data.tags["lrtape.error"] == ("BadError" if kind == "none" else r"FileNotFoundError: caf\udce9")


def test_data_that_cannot_be_noted_now_are_noted_later(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is stored; the folder stays, and the next delivery sets that right."""
    run = planned(store)
    create_run(run)
    run.log_datasets([DIGITS])
    leave_behind(run, monkeypatch)

    def away(*_: object) -> None:
        raise TrackingError("503")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "put_datasets", away)
        (first,) = recover(ROOT, store)
    (second,) = recover(ROOT, store)
    after = MlflowClient(tracking_uri=store).get_run(run.run_id)

    assert (first.problem, first.is_complete) == ("What the data are could not be noted (503).", False)
    assert (second.problem, second.is_complete) == ("", True)
    assert after.inputs is not None
    assert [one.dataset.digest for one in after.inputs.dataset_inputs] == ["12ab"]


@pytest.mark.parametrize("is_created", [True, False])
def test_a_folder_that_is_deleted_before_anything_is_stored_costs_nothing(
    store: str, monkeypatch: pytest.MonkeyPatch, is_created: bool
) -> None:
    """What the run is, its data and what it has kept are put back with the spool."""
    run = planned(store)
    if is_created:
        create_run(run)
    run.log_datasets([DIGITS])
    run.log_text("a: 1\n", "config/resolved.yaml")
    leave_behind(run, monkeypatch, lambda: shutil.rmtree(run.folder.path))
    (recovery,) = recover(ROOT, store)
    after = MlflowClient(tracking_uri=store).get_run(ended(store).info.run_id)

    assert (recovery.problem, recovery.points, recovery.is_complete) == ("", 2, True)
    assert after.data.params == {"lr": "0.1"}
    assert after.inputs is not None
    assert [one.dataset.digest for one in after.inputs.dataset_inputs] == ["12ab"]
    assert MlflowClient(tracking_uri=store).list_artifacts(after.info.run_id, "config")


def test_a_run_that_was_given_up_half_made_is_taken_up(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its params could not be stored, and the training goes on with a plan: there is one run in the end."""

    def away(*_: object) -> None:
        raise TrackingError("503")

    run = planned(store)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "log_params", away)
        with pytest.raises(TrackingError):
            create(run.folder, store)
    half = ended(store)
    with recording(run) as optimizer:
        optimizer.step()
    after = ended(store)

    assert half.info.status == "FAILED"
    assert after.info.run_id == half.info.run_id
    assert after.info.status == "FINISHED"
    assert after.data.params == {"lr": "0.1"}


@pytest.mark.usefixtures("no_companion")
def test_a_companion_waits_for_a_training_that_takes_its_time(store: str) -> None:
    """It has created the run, and is there when the recording begins, however late that is."""
    run = planned(store)
    create_run(run)
    (companion_,) = IDLE_COMPANIONS._idle
    companion_._idle_since_s -= 1000.0
    still_fit = companion_.can_take(store)
    with recording(run):
        pass
    companion_._idle_since_s -= 1000.0

    assert (still_fit, companion_.can_take(store)) == (True, False)
