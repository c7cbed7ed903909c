"""What signals do to a training, in real processes."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from lrtape.app.checkpoint import load_checkpoint
from lrtape.app.interrupts import Interrupted, Interrupts
from lrtape.tape import Tape
from lrtape.tracking.history import read_run

LRTAPE = str(Path(sys.executable).with_name("lrtape"))
N_EPOCHS = 20
N_STEPS = 3 * N_EPOCHS
DEADLINE_S = 120.0

MY_DATA = """
import os, signal, time
import torch
from torch.utils.data import TensorDataset
from lrtape.app.data import Data

PAUSE_S = float(os.environ.get("PAUSE_S", "0"))

def slow():
    if os.environ.get("SIGNAL_WHILE_BUILDING"):
        os.kill(os.getpid(), int(os.environ["SIGNAL_WHILE_BUILDING"]))
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs[:, :2].sign())
    calls = iter(range(10**9))

    def loss(outputs, targets):
        if torch.is_grad_enabled():
            # From the third epoch on, when there is a checkpoint.
            time.sleep(PAUSE_S if next(calls) >= 9 else 0)
        return torch.nn.functional.mse_loss(outputs, targets)

    return Data(train=dataset, val=dataset, loss=loss)

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))
"""

TINY = [
    *("~data", "+data._target_=my_data.slow", "~model", "+model._target_=my_data.Net"),
    *("scheduler=cosineannealinglr", "optimizer=adam", "param_groups=layerwise"),
    *(f"trainer.epochs={N_EPOCHS}", "trainer.batch_size=4", "trainer.print_every_n_epochs=null"),
    "tracking.log_model=off",
]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(store: str, tmp_path: Path, start_process: Start) -> Start:
    """Starts `lrtape train`, in a folder with an empty store and a user's module."""
    (tmp_path / "my_data.py").write_text(textwrap.dedent(MY_DATA))
    return lambda *overrides, **environment: start_process(LRTAPE, "train", *overrides, **environment)


def wait_for(what: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def the_run(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) <= 1
    return runs[0] if runs else None


def is_training(folder: Path) -> bool:
    """Whether there is a checkpoint, and so the training is in its loop."""
    return (folder / ".lrtape" / "last" / "lrtape.json").exists()


def curve(tape: Tape) -> dict[str, list[tuple[int, float]]]:
    """Every value at its step, without the times."""
    return {key: list(zip(series.steps, series.values, strict=True)) for key, series in tape.items()}


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in tasks for child in children.read_text().split()]


@dataclass(frozen=True)
class Whole:
    """A training in one piece."""

    curves: dict[str, list[tuple[int, float]]]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def uninterrupted(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The same training that the others interrupt."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(fresh_store, folder / "mlflow.db")
    (folder / "my_data.py").write_text(textwrap.dedent(MY_DATA))
    subprocess.run([LRTAPE, "train", *TINY, "hydra.run.dir=output"], cwd=folder, check=True, timeout=DEADLINE_S)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    weights = load_checkpoint(folder / "output" / "checkpoints" / "last.pt")["model"]
    return Whole(curve(read_run(the_run(uri).info.run_id, uri)), weights)


@pytest.mark.parametrize(
    ("number", "code", "to_all"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True)],
    ids=["Ctrl-C", "SIGTERM to all"],
)
def test_a_signal_ends_a_training_in_good_order(
    start: Start,
    store: str,
    tmp_path: Path,
    uninterrupted: Whole,
    number: signal.Signals,
    code: int,
    to_all: bool,
) -> None:
    """The step is finished, a checkpoint written, everything shipped, the run KILLED; the message names the checkpoint
    and the command that goes on, which makes the curves of a training in one piece. Slurm and terminals signal every
    process of a job, the workers of the data too.
    """
    workers = ["trainer.num_workers=1"] if to_all else []
    process = start(*TINY, *workers, PAUSE_S="0.3")
    wait_for(lambda: is_training(tmp_path), process)
    time.sleep(0.4)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, text = process.communicate(timeout=DEADLINE_S)
    (checkpoint,) = tmp_path.glob("outputs/*/*/checkpoints/last.pt")
    run = the_run(store)
    n_done = load_checkpoint(checkpoint)["next_step"]
    tape = read_run(run.info.run_id, store)

    assert process.returncode == code, text
    assert run.info.status == "KILLED"
    assert 3 <= n_done < N_STEPS
    assert list(tape["train/loss"].steps) == list(tape["lr/0"].steps) == list(range(n_done))
    assert not list((tmp_path / ".lrtape").glob("*/spool"))
    assert "Traceback" not in text
    assert text.count("lrtape: ") == 1
    assert f"lrtape: interrupted by {number.name}; everything that was recorded is stored or in the spool." in text
    assert f"Checkpoint: {checkpoint}\n" in text
    command = shlex.split(text.partition("To go on:")[2])
    assert command[:2] == ["lrtape", "train"]
    assert command[-1] == f"trainer.resume={checkpoint}"

    resumed = start(*[argument for argument in command[2:] if "num_workers" not in argument])
    assert resumed.wait(DEADLINE_S) == 0, resumed.communicate()
    run = the_run(store)
    assert run.info.status == "FINISHED"
    assert curve(read_run(run.info.run_id, store)) == uninterrupted.curves


@pytest.mark.parametrize("shipper", ["alive", "dead"])
def test_a_training_that_was_killed_is_resumed(
    start: Start, store: str, tmp_path: Path, uninterrupted: Whole, shipper: str
) -> None:
    """SIGKILL in the middle of an epoch, `trainer.resume=last` alone in a new process at once: one run, each step once,
    the curves of a training in one piece, FINISHED; and the final weights are the same to the bit. So too where the
    shipper was killed first, and the spool was left behind.
    """
    process = start(*TINY, PAUSE_S="0.3")
    wait_for(lambda: is_training(tmp_path), process)
    (checkpoint,) = tmp_path.glob("outputs/*/*/checkpoints/last.pt")
    wait_for(lambda: load_checkpoint(checkpoint)["next_step"] >= 6, process)
    if shipper == "dead":
        (child,) = children_of(process.pid)
        os.kill(child, signal.SIGKILL)
    time.sleep(0.5)  # some more steps
    process.kill()
    process.wait()
    resumed = start("trainer.resume=last", "trainer.print_every_n_epochs=null")
    assert resumed.wait(DEADLINE_S) == 0, resumed.communicate()
    run = the_run(store)

    assert run.info.status == "FINISHED"
    assert curve(read_run(run.info.run_id, store)) == uninterrupted.curves
    assert not list((tmp_path / ".lrtape").glob("*/spool"))
    (again,) = [path for path in tmp_path.glob("outputs/*/*/checkpoints/last.pt") if path != checkpoint]
    weights = load_checkpoint(again)["model"]
    assert set(uninterrupted.weights) == set(weights)
    assert all(torch.equal(uninterrupted.weights[key], weights[key]) for key in weights)


def test_a_second_signal_stops_at_once(start: Start, store: str, tmp_path: Path) -> None:
    """In the midst of a step that takes for ever: one line, the exit code of the signal, and nothing that was recorded
    is lost, for the shipper is another process; the training can be resumed from its last checkpoint.
    """
    process = start(*TINY, PAUSE_S="100")
    wait_for(lambda: is_training(tmp_path), process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the case is wrong: the step was over"
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 143
    assert time.monotonic() - begin < 5
    assert text.endswith("lrtape: SIGTERM again: stopped at once; what was recorded is safe in the spool.\n")
    wait_for(lambda: the_run(store).info.status == "KILLED")
    assert len(read_run(the_run(store).info.run_id, store)["lr/0"]) == 9
    resumed = start("trainer.resume=last")
    assert resumed.wait(DEADLINE_S) == 0, resumed.communicate()
    tape = read_run(the_run(store).info.run_id, store)
    assert list(tape["lr/0"].steps) == list(range(N_STEPS))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_training_ends_it_at_once(start: Start, store: str, number: int, code: int) -> None:
    """While the data are built: no run, no checkpoint, one sentence."""
    process = start(*TINY, SIGNAL_WHILE_BUILDING=str(int(number)))
    _, text = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == code
    assert the_run(store) is None
    assert text.splitlines()[-1].startswith("lrtape: interrupted by SIG")
    assert "Checkpoint:" not in text
    assert "Traceback" not in text


def test_handlers_are_left_as_they_were() -> None:
    """A training installs its handlers for itself alone, and leaves alone what is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    theirs = signal.getsignal(signal.SIGTERM)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in {theirs, signal.SIG_IGN}
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_after_the_last_step_ends_the_command() -> None:
    """The training is finished as it is; then the command ends with the signal, so that a sweep ends too."""
    finished = []

    def train() -> None:
        with Interrupts() as interrupts:
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGTERM)
            finished.append(True)

    with pytest.raises(Interrupted) as interruption:
        train()
    assert finished
    assert interruption.value.exit_code == 143
