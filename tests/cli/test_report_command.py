import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrtape.report.companion import LOG
from lrtape.report.parent_process import ParentProcess
from lrtape.report.sweep_report import Reporter
from lrtape.report.watch import PAUSE_S, watch
from lrtape.tape import Status
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.tags import NOTE, OBJECTIVE, SWEEP, TRIAL, VALUES

DEADLINE_S = 60.0


@pytest.fixture
def sweep(store: str, monkeypatch: pytest.MonkeyPatch) -> MlflowRun:
    """A sweep that goes on, with one trial that is finished."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    tags = {SWEEP: "abc123", OBJECTIVE: "val/loss", "lrtape.sweep.direction": "min"}
    parent = MlflowRun.create(store, run_name="my sweep", tags=tags)
    add_trial(parent, "0.1", 0.5)
    return parent


def add_trial(parent: MlflowRun, gamma: str, score: float) -> None:
    tags = {TRIAL: gamma, VALUES: json.dumps({"scheduler.gamma": gamma}), OBJECTIVE: repr(score)}
    run = MlflowRun.create(parent.tracking_uri, run_name=f"gamma={gamma}", tags=tags, parent_run_id=parent.run_id)
    run.log_text("seed: 0\n", "config/resolved.yaml")
    run.finish(Status.FINISHED)


def note_of(run: MlflowRun) -> str:
    return History(run.run_id, run.tracking_uri).tags().get(NOTE, "")


@pytest.mark.parametrize("name", ["my sweep", "abc123", "its run"])
def test_the_report_is_made_uploaded_and_printed(
    lrtape: Callable[..., Any], sweep: MlflowRun, name: str, tmp_path: Path
) -> None:
    """A sweep is named by its title, its id or its run; the table, the verdict and the winner's command are printed."""
    sweep.finish(Status.FINISHED)
    code, out, err = lrtape("report", sweep.run_id if name == "its run" else name)

    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["1", "gamma=0.1", "0.5", "1"]
    assert "gamma=0.1 is best: val/loss 0.5 (1 seed)" in out
    assert "lrtape train --config-dir .lrtape/sweeps/abc123 --config-name best" in out
    assert (tmp_path / ".lrtape/sweeps/abc123/best.yaml").exists()
    assert "**gamma=0.1** is best" in note_of(sweep)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "is 'nobody': 'my sweep' (abc123)"),
        (["abc123", "--experiment", "none"], "must be one of"),
        (["abc123", "--tracking-uri", "http://me:hush42@host"], "must not carry a password"),
        (["abc123", "--tracking-uri", "sqlite:///other.db"], "there is no"),
    ],
)
@pytest.mark.usefixtures("sweep")
def test_a_mistake_is_one_message(lrtape: Callable[..., Any], arguments: list[str], said: str) -> None:
    """Exit code 2, what was given and what there is; nothing is written."""
    code, out, err = lrtape("report", *arguments)

    assert (code, out) == (2, "")
    assert err.startswith("lrtape: ")
    assert said in err
    assert "hush42" not in err
    assert not Path(".lrtape").exists()


def test_watching_reports_again_when_a_training_has_ended_and_once_more_at_the_end(sweep: MlflowRun) -> None:
    """In between it looks every ten seconds at most, and does nothing where nothing has changed."""
    notes: list[str] = []

    class Waits(ParentProcess):
        """Lets things happen in the pauses."""

        def is_dead(self, wait_s: float) -> bool:
            assert wait_s >= PAUSE_S
            notes.append(note_of(sweep))
            if len(notes) == 1:
                MlflowRun.join(sweep.run_id, sweep.tracking_uri).set_tags({NOTE: "written by somebody"})
            elif len(notes) == 2:
                add_trial(sweep, "0.5", 0.25)
            elif len(notes) == 3:
                sweep.finish(Status.FINISHED)
            return False

    made = watch(Reporter(sweep.run_id, sweep.tracking_uri, Path(".lrtape")), Waits(None))

    assert notes[0].startswith("1 of 1 trainings are finished. So far: **gamma=0.1** is best")
    assert notes[1] == "written by somebody"
    assert notes[2].startswith("2 of 2 trainings are finished. So far: **gamma=0.5** is best")
    assert made is not None
    assert note_of(sweep).startswith("**gamma=0.5** is best")


def test_a_companion_ends_with_its_driver(sweep: MlflowRun, tmp_path: Path) -> None:
    """Whoever kills the driver leaves no process behind; and the URI of the store is not among its arguments."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lrtape.report.companion import ReportCompanion\n"
        f"companion = ReportCompanion('{sweep.run_id}', '{sweep.tracking_uri}', Path('.lrtape'), Path('.'))\n"
        "print(companion._process.pid, flush=True)\ntime.sleep(100)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    while not (arguments := Path(f"/proc/{pid}/cmdline").read_bytes()):
        time.sleep(0.01)  # A process that has just been started has no words yet.
    driver.send_signal(signal.SIGKILL)
    driver.communicate()

    assert sweep.run_id.encode() in arguments
    assert b"sqlite" not in arguments
    deadline = time.monotonic() + DEADLINE_S
    while _is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (tmp_path / LOG).read_text() == ""
    assert note_of(sweep) == "", "it was too short to be reported"


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_companion_without_its_driver_touches_nothing(tmp_path: Path) -> None:
    """It was started by a process that has died since: it is done before it imports or opens anything."""
    command = [sys.executable, "-X", "importtime", "-m", "lrtape.cli", "report", "x", "--watch", "--driver", "1"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ, timeout=DEADLINE_S
    )

    assert ended.returncode == 0
    assert "lrtape.report.parent_process" in ended.stderr
    assert "mlflow" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
