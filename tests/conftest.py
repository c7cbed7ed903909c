import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lrtape.tape import Tape

    Record = Callable[[Optimizer], Callable[[], Tape]]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store that MLflow made and nobody has used; making one takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with contextlib.chdir(path.parent):  # where the artifacts of the default experiment go
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a real, empty SQLite store in the current folder, which is `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator["Callable[..., subprocess.Popen[str]]"]:
    """Starts a command in a session of its own, in `tmp_path`; environment variables by keyword. Ends it afterwards."""
    started = []

    def begin(*command: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment,
            start_new_session=True,
            # A test that is run in the background ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def record() -> Iterator["Record"]:
    """Records an optimizer in memory until the test ends; what it returns gives the tape so far."""
    from lrtape import testing

    with contextlib.ExitStack() as stack:

        def start(optimizer: "Optimizer") -> "Callable[[], Tape]":
            tape = stack.enter_context(testing.record(optimizer))
            return lambda: tape

        yield start


@pytest.fixture(autouse=True)
def no_mlflow_left_over() -> Iterator[None]:
    """No test inherits another one's active run or tracking URI (which MLflow also puts into the environment)."""
    yield
    if (mlflow := sys.modules.get("mlflow")) is not None:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
