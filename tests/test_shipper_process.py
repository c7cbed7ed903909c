import contextlib
import http.server
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape import companion
from lrtape.companion_words import EXIT_AGAIN
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.recorder import SAMPLE_MASK
from lrtape.recording_options import RecordingOptions
from lrtape.session import open_session
from lrtape.shipper_process import ShipperProcess
from lrtape.spool import End, Header, SpoolReader, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Group, GroupLayout, Record, Status
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.planned_run import PlannedRun
from lrtape.tracking.uri import sqlite_path
from rig.shippers import shippers, the_shipper

DEADLINE_S = 60


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_a_shipper_that_is_killed_is_started_again(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the training goes on; at the end every row is there, once, and nobody is warned."""
    monkeypatch.setattr("lrtape.shipper_process.RESTART_PAUSE_S", 0.0)
    optimizer = sgd()
    session = lrtape.attach(optimizer, run=MlflowRun.create(store))
    first = the_shipper(tmp_path)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while shippers(tmp_path) in ([], [first]) and time.monotonic() < deadline:
        for _ in range(SAMPLE_MASK + 1):
            optimizer.step()
        time.sleep(0.05)
    second = the_shipper(tmp_path)
    session.close()

    assert second != first
    assert list(read_run(session.run.run_id, store)["lr/group_00"].steps) == list(range(session.steps))


def test_a_shipper_that_is_killed_at_the_end_is_started_again(store: str, tmp_path: Path) -> None:
    """Between the last step and close(), where no step looks after it any more."""
    optimizer = sgd()
    session = lrtape.attach(optimizer, run=MlflowRun.create(store))
    optimizer.step()
    session.stop()
    os.kill(the_shipper(tmp_path), signal.SIGKILL)
    session.close()

    assert len(read_run(session.run.run_id, store)["lr/group_00"]) == 1
    assert MlflowClient(tracking_uri=store).get_run(session.run.run_id).info.status == "FINISHED"


def test_a_spool_may_be_kept_by_attach(store: str, tmp_path: Path) -> None:
    """`keep_spool=True`: everything is stored, and the spool stays where it is, ended and with its cost."""
    optimizer = sgd()
    with lrtape.attach(optimizer, run=MlflowRun.create(store), keep_spool=True):
        for _ in range(200):
            optimizer.step()
    (folder,) = (tmp_path / ".lrtape").iterdir()
    with SpoolReader(folder / "spool") as reader:
        list(reader.frames())

    assert isinstance(reader.end, End)
    assert (reader.end.status, reader.end.lost) == (Status.FINISHED, 0)
    assert reader.end.us_per_step is not None
    assert 0 < reader.end.us_per_step < 10_000


def test_the_disk_is_forced_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fsync_every_s`: the spool's folder once, and the spool itself as long as the recording goes on."""
    (tmp_path / "spool").write_bytes(b"x")
    forced: list[str] = []
    is_over = threading.Event()

    def fsync(fd: int) -> None:
        forced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if len(forced) == 4:
            is_over.set()

    monkeypatch.setattr("lrtape.companion.os.fsync", fsync)
    companion._force(tmp_path / "spool", 0.001, is_over)

    assert forced == [str(tmp_path), *[str(tmp_path / "spool")] * 3]


def companions() -> set[int]:
    """Those of this process, idle or not, and alive."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            is_mine = f"PPid:\t{os.getpid()}\n" in status.read_text()
            if is_mine and b"lrtape.companion" in (status.parent / "cmdline").read_bytes():
                found.add(int(status.parent.name))
        except OSError:
            continue  # others come and go
    return found


def started_companions(n: int = 1) -> set[int]:
    """Waits until there are `n`: a process that has just been started has no words yet."""
    deadline = time.monotonic() + DEADLINE_S
    while len(found := companions()) < n and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture
def no_companion() -> None:
    """None is left over from other tests, idle or still trying to reach its store."""
    IDLE_COMPANIONS.reset()
    for pid in companions():
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def make_a_step(run: MlflowRun) -> None:
    optimizer = sgd()
    with lrtape.attach(optimizer, run=run):
        optimizer.step()


def rows_of(run: MlflowRun) -> int:
    """By a connection of its own."""
    path = sqlite_path(run.tracking_uri)
    assert path is not None
    with contextlib.closing(sqlite3.connect(path)) as store:
        (count,) = store.execute(f"select count(*) from metrics where run_uuid = '{run.run_id}'").fetchone()
    return int(count)


@pytest.mark.usefixtures("no_companion")
def test_one_companion_ships_one_recording_after_another(store: str) -> None:
    """Each into its own run; to start one, which takes seconds, is done once."""
    runs, seen = [MlflowRun.create(store) for _ in range(3)], []
    for run in runs:
        make_a_step(run)
        seen.append(companions())

    assert (len(seen[0]), seen[1:]) == (1, [seen[0]] * 2)
    assert [rows_of(run) for run in runs] == [1, 1, 1]


@pytest.mark.usefixtures("no_companion")
def test_recordings_side_by_side_have_a_companion_each(store: str) -> None:
    """None waits for the other; both are kept."""
    optimizers, runs = [sgd(), sgd()], [MlflowRun.create(store) for _ in range(2)]
    sessions = [lrtape.attach(optimizer, run=run) for optimizer, run in zip(optimizers, runs, strict=True)]
    for optimizer in optimizers:
        optimizer.step()
    n_companions = len(started_companions(2))
    for session in sessions:
        session.close()

    assert (n_companions, len(companions())) == (2, 2)
    assert [rows_of(run) for run in runs] == [1, 1]


@pytest.mark.usefixtures("no_companion")
def test_a_companion_is_started_before_there_is_a_run(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `attach` without an active run, whose first step then has one; and by `autolog`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    optimizer = sgd()
    with lrtape.attach(optimizer):
        before = started_companions()
        optimizer.step()
        after = companions()

    assert len(before) == 1
    assert after == before
    IDLE_COMPANIONS.reset()
    lrtape.autolog()
    assert len(started_companions()) == 1
    lrtape.autolog(disable=True)


@pytest.mark.usefixtures("no_companion")
def test_a_store_that_was_replaced_is_the_one_that_is_written_to(store: str, tmp_path: Path) -> None:
    """MLflow would hold on to the file that was deleted; another companion follows at once."""
    run, later = MlflowRun.create(store), MlflowRun.create(store)
    make_a_step(run)
    first = companions()
    path = sqlite_path(store)
    assert path is not None
    Path(shutil.copy(path, path.with_suffix(".new"))).replace(path)
    folder = SpoolFolder.create(tmp_path, later.run_id)
    writer = SpoolWriter(folder.spool, Header(later.run_id, False, store, 1, folder.recording_id))
    writer.write(GroupLayout(0, (Group("a", "lr/a"),)))
    writer.write(Record(0, 0, 1, [0.1]))
    shipper = ShipperProcess(folder, store, None)
    shipper.end(writer.end(Status.FINISHED))
    writer.close()

    answer = shipper.wait(DEADLINE_S)
    assert answer is not None
    assert answer.problem == ""
    assert len(companions()) == 1
    assert companions() != first
    assert rows_of(later) == 1


@pytest.mark.usefixtures("no_companion")
def test_another_environment_has_another_companion(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow has imported keeps the credentials that it has used; what says where a run goes changes nothing."""
    runs, seen = [MlflowRun.create(store) for _ in range(3)], []
    for run, (name, text) in zip(runs, [("A", "1"), ("MLFLOW_TRACKING_URI", store), ("A", "2")], strict=True):
        monkeypatch.setenv(name, text)
        make_a_step(run)
        seen.append(companions())

    assert seen[1] == seen[0]
    assert len(seen[2]) == 1
    assert seen[2] != seen[0]
    assert [rows_of(run) for run in runs] == [1, 1, 1]


@pytest.mark.usefixtures("no_companion")
def test_what_is_no_text_is_told_too(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment and a folder may hold any bytes, also those that a companion was not started with."""
    odd = os.fsdecode(b"M\xfcller")
    IDLE_COMPANIONS.expect()
    monkeypatch.setenv("ODD", odd)
    (tmp_path / odd).mkdir()
    monkeypatch.chdir(tmp_path / odd)
    run = MlflowRun.create(store)
    make_a_step(run)

    assert rows_of(run) == 1


@pytest.mark.usefixtures("no_companion")
def test_a_companion_that_takes_no_more_is_not_asked_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so with its last answer."""
    (tmp_path / "sitecustomize.py").write_text(
        "import lrtape.companion_words\nlrtape.companion_words.MAX_RECORDINGS = 1\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    runs = [MlflowRun.create(store) for _ in range(2)]
    for run in runs:
        make_a_step(run)

    assert [rows_of(run) for run in runs] == [1, 1]
    assert IDLE_COMPANIONS._idle == []


def test_a_training_that_dies_at_once_is_stored(store: str, tmp_path: Path) -> None:
    """Before its shipper has read a word: all rows are there, and the run is KILLED."""
    run = MlflowRun.create(store)
    script = (
        "import os, sys, signal, torch, lrtape\nfrom lrtape.tracking.mlflow_run import MlflowRun\n"
        "optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)\n"
        "run = MlflowRun.join(sys.argv[1], sys.argv[2])\n"
        "lrtape.attach(optimizer, run=run)\n"
        "for _ in range(5):\n    optimizer.step()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, run.run_id, store]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"LONG": "x" * 100_000}, check=False)
    client, deadline = MlflowClient(tracking_uri=store), time.monotonic() + DEADLINE_S
    while client.get_run(run.run_id).info.status == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.1)

    assert client.get_run(run.run_id).info.status == "KILLED"
    assert rows_of(run) == 5


def test_a_companion_that_cannot_start_says_why(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of its recording, where what it has to say stands otherwise, too."""
    IDLE_COMPANIONS.reset()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho cannot load libfoo.so >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.warns(UserWarning, match="lrtape recover"):
        make_a_step(MlflowRun.create(store))
    (log,) = tmp_path.glob(".lrtape/*/shipper.log")

    assert "cannot load libfoo.so" in log.read_text()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Notes who asks."""

    seen: ClassVar[set[str | None]] = set()

    def do_GET(self) -> None:
        if self.path == "/version":  # The other request, whether a server is there, has no password.
            self.seen.add(self.headers["Authorization"])
        self.send_error(HTTPStatus.UNAUTHORIZED)


@pytest.mark.usefixtures("no_companion")
def test_a_companion_has_the_environment_of_its_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is when the recording begins: a password may be set after the companion was started."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    IDLE_COMPANIONS.expect()
    first = started_companions()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    optimizer = sgd()
    planned = PlannedRun(tmp_path, f"http://127.0.0.1:{server.server_port}", "lrtape", None, {}, {})
    session = open_session(planned, None, RecordingOptions(tmp_path), close_timeout_s=0.0)
    session.add(optimizer)
    optimizer.step()
    deadline = time.monotonic() + DEADLINE_S
    while not Refusing.seen and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.warns(UserWarning, match="lrtape recover"):
        session.close()

    assert companions() == first
    assert Refusing.seen == {"Bearer secret"}
    os.kill(first.pop(), signal.SIGKILL)  # it would go on trying
    server.shutdown()


def test_a_companion_that_nobody_has_started_ends(tmp_path: Path) -> None:
    """By hand, with nobody at the other end of the pipe, it does not hang, whatever number it is given."""
    out = subprocess.run(
        [sys.executable, "-m", "lrtape.companion", "1"],
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )

    assert (out.returncode, out.stdout, out.stderr) == (EXIT_AGAIN, "", "")
