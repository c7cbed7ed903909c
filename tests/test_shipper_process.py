import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape import companion
from lrtape.companion_process import EXIT_AGAIN
from lrtape.recorder import SAMPLE_MASK
from lrtape.spool import End, SpoolReader
from lrtape.tape import Status
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun

DEADLINE_S = 60


def shippers(folder: Path) -> list[int]:
    """The processes that ship a spool in `folder`: they have its log open."""
    pids = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            log = (cmdline.parent / "fd" / "2").readlink()
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue  # others come and go
        if b"lrtape.companion" in words and log.is_relative_to(folder):
            pids.append(int(cmdline.parent.name))
    return pids


def the_shipper(folder: Path) -> int:
    """The one that ships a spool in `folder`; a process that has just been started has no words yet."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := shippers(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    (pid,) = found
    return pid


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
