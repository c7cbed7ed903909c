"""`lrtape.autolog()` in a script that works already: real processes, with the line and without it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
{line}
import logging, os, random, signal, sys, threading, time, warnings
import numpy, torch

logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)

def step(fails=False):
    inputs = torch.randn(4, 3) * random.random() * numpy.random.rand()
    def closure():
        if fails:
            raise ValueError("no loss")
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss
    print(optimizer.step(closure).item())
    scheduler.step()

def train():
    for _ in range(3):
        step()
    print(random.random(), numpy.random.rand(), torch.rand(1).item(), threading.active_count())
    print(sorted(os.environ), signal.getsignal(signal.SIGTERM), sys.excepthook, warnings.showwarning.__module__)
    warnings.warn("mine")
    logging.getLogger("mine").debug("mine")

{body}
"""
OUTSIDE_OF_RUNS = """
train()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(9)
"""
A_RUN_AFTER_A_STEP = """
step()
import mlflow
logging.getLogger("git").setLevel("INFO")  # it names the folder
with mlflow.start_run():
    print(mlflow.active_run() is not None)
    train()
    step(fails=True)
"""
A_RUN_OF_MLFLOWS_OWN = """
import mlflow
logging.getLogger("git").setLevel("INFO")
mlflow.log_metric("mine", 1.0)
train()
mlflow.end_run()
print(mlflow.active_run(), random.random())
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("body", "code", "is_fresh"),
    [
        pytest.param(OUTSIDE_OF_RUNS, -2, True, id="interrupted"),
        pytest.param(A_RUN_AFTER_A_STEP, 1, False, id="raises"),
        pytest.param(A_RUN_OF_MLFLOWS_OWN, 3, False, id="exits"),
    ],
)
def test_a_script_does_the_same_with_autolog(
    tmp_path: Path,
    fresh_store: Path,
    start_process: "Callable[..., subprocess.Popen[str]]",
    body: str,
    code: int,
    is_fresh: bool,
) -> None:
    """What it prints, to either stream, what it draws at random, its exception and its exit code; also where MLflow has
    no store yet, and would say that it makes one.
    """
    processes = []
    for name, line in [("without", "pass"), ("with", "import lrtape; lrtape.autolog()")]:
        folder = tmp_path / name
        folder.mkdir()
        if not is_fresh:
            shutil.copy(fresh_store, folder / "mlflow.db")
        (folder / "script.py").write_text(SCRIPT.format(line=line, body=body))
        processes.append(
            start_process("bash", "-c", f"cd {folder}; exec {sys.executable} -W always::UserWarning script.py")
        )
    said = []
    for process, name in zip(processes, ["without", "with"], strict=True):
        out, err = (text.replace(str(tmp_path / name), ".") for text in process.communicate(timeout=120))
        said.append((out, err.replace("import lrtape; lrtape.autolog()", "pass")))

    assert said[0][0] == said[1][0]
    assert said[0][1] == said[1][1]
    assert [process.returncode for process in processes] == [code, code]
    assert "mine" in said[0][1]
    assert list((tmp_path / "with").glob(".lrtape/*")) == []
