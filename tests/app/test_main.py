import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from lrtape.app.data import Data
from lrtape.tracking.history import read_run
from lrtape.tracking.tags import TRIAL

TRAIN = Path(__file__).parents[2] / "train.py"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(command: Command, store: str) -> Command:
    """In a folder with an empty store."""
    return command


def process(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | environment, timeout=120
    )


def n_runs(folder: Path) -> int:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def runs_of(store: str) -> list[Any]:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def missing_file() -> Data:
    """A user's own data, whose file is not there."""
    raise FileNotFoundError(2, "No such file or directory", "/data/train.csv")


def not_data() -> list[int]:
    """A user's own data that forgot what to return."""
    return [1, 2, 3]


def no_samples() -> Data:
    """A user's own data after a filter that kept nothing."""
    empty = torch.utils.data.TensorDataset(torch.zeros(0, 10), torch.zeros(0, 2))
    return Data(train=empty, val=None, loss=torch.nn.functional.mse_loss)


def twins(model: torch.nn.Module, lr: float) -> list[dict[str, Any]]:
    """A user's own param groups, two of them with one name."""
    first, *others = model.named_parameters()
    return [{"params": [first], "lr": lr, "name": "body"}, {"params": others, "lr": lr, "name": "body"}]


BAD_INPUT = [
    (["scheduler.interval=null"], ["`scheduler.interval` must be one of step, epoch, but is None"]),
    (["scheduler=steplr", "scheduler.gamma=null"], ["`scheduler.gamma` must be a number, but is None instead"]),
    (["scheduler=onecyclelr", "scheduler.total_steps=5"], ["must stand 460 calls of step()", "fails at call 6"]),
    (["scheduler=onecyclelr", "scheduler.max_lr=-1"], ["`scheduler.max_lr` must be a number > 0, but is -1"]),
    (["tracking.uri=sqlite:////proc/mlflow.db"], ["must lie where it can be written"]),
    # names
    (["scheduler=stepl"], ["stepl", "steplr", "cosineannealinglr", "onecyclelr", "constant"]),
    (["model=resnet"], ["resnet", "cnn", "mlp"]),
    (["experiment=nothing"], ["nothing", "one_group", "two_groups", "steplr"]),
    (["scheduler=steplr", "scheduler.gama=0.5"], ["`scheduler.gama`", "step_size, gamma, last_epoch"]),
    (["scheduler=steplr", "+scheduler.gama=0.5"], ["`scheduler.gama`", "StepLR", "step_size, gamma, last_epoch"]),
    (["trainer.epchs=3"], ["`trainer.epchs`", "epochs, max_steps, batch_size"]),
    (["+trainer.epchs=3"], ["epchs", "epochs"]),
    (["epochs=3"], ["`epochs`", "trainer"]),
    (["+model.width=3"], ["`model.width`", "MLP", "in_features, hidden, out_features"]),
    (["optimizer._target_=torch.optim.Nope"], ["`optimizer._target_`", "torch.optim.Nope"]),
    (["model._target_=nowhere.Net"], ["`model._target_`", "nowhere.Net"]),
    # values
    (["optimizer.lr=-0.1"], ["`optimizer.lr` must be a number >= 0, but is -0.1 instead"]),
    (["optimizer.lr=abc"], ["`optimizer.lr` must be a number >= 0, but is 'abc' instead"]),
    (["optimizer.lr=nan"], ["`optimizer.lr` must be a number >= 0, but is nan instead"]),
    (["scheduler=steplr", "scheduler.gamma=-0.1"], ["`scheduler.gamma` must be a number > 0, but is -0.1 instead"]),
    (
        ["scheduler=steplr", "scheduler.step_size=0"],
        ["`scheduler.step_size` must be a whole number >= 1", "is 0 instead"],
    ),
    (
        ["scheduler=steplr", "scheduler.step_size=abc"],
        ["`scheduler.step_size` must be a whole number >= 1", "is 'abc' instead"],
    ),
    (["scheduler=steplr", "scheduler.step_size=2.5"], ["`scheduler.step_size` must be a whole number >= 1", "is 2.5"]),
    (["scheduler=steplr", "scheduler.step_size=-30%"], ["`scheduler.step_size` must be a whole number", "is '-30%'"]),
    (["scheduler=steplr", "scheduler.step_size=0%"], ["more than 0%", "'0%'"]),
    (
        ["scheduler=cosineannealinglr", "scheduler.T_max=0"],
        ["`scheduler.T_max` must be a whole number >= 1", "is 0 instead"],
    ),
    (["scheduler=onecyclelr", "scheduler.pct_start=3"], ["`scheduler`", "pct_start"]),
    (["scheduler.interval=batch"], ["`scheduler.interval` must be one of step, epoch, but is 'batch' instead"]),
    (["trainer.epochs=0"], ["`trainer.epochs` must be at least 1, but is 0 instead"]),
    (["trainer.epochs=abc"], ["trainer.epochs", "'abc'"]),
    (["trainer.batch_size=0"], ["`trainer.batch_size` must be at least 1, but is 0 instead"]),
    (["trainer.max_steps=0"], ["`trainer.max_steps` must be at least 1, but is 0 instead"]),
    (["trainer.accumulate_grad_batches=0"], ["`trainer.accumulate_grad_batches` must be at least 1"]),
    (["trainer.clip_grad_norm=0"], ["`trainer.clip_grad_norm` must be a number > 0, or null, but is 0"]),
    (["trainer.precision=8"], ["`trainer.precision` must be one of 32, bf16, 16, but is '8' instead"]),
    (["trainer.precision=16", "optimizer=sgd", "optimizer.fused=true"], ["`optimizer.fused` must not be true with"]),
    (["trainer.device=tpu"], ["`trainer.device` must be one of auto, cpu, cuda, but is 'tpu' instead"]),
    (["seed=abc"], ["seed", "'abc'"]),
    (["param_groups=layerwise", "param_groups.factors=[1,2]"], ["`param_groups.factors`", "layer1", "[1, 2]"]),
    (["tracking.also=[grad]"], ["`tracking.also` must be a list of what is there, momentum, ", "but names 'grad'"]),
    (["tracking.also_every_n_steps=0"], ["`tracking.also_every_n_steps` must be at least 1, but is 0"]),
    (["tracking.fsync_every_s=0"], ["`tracking.fsync_every_s` must be a number > 0, or null for never, but is 0"]),
    (["tracking.record=change"], ["`tracking.record` must be one of every_step, changes, but is 'change'"]),
    (["tracking.lr_log10=sometimes"], ["`tracking.lr_log10`", "sometimes"]),
    (["tracking.when_unreachable=wait"], ["`tracking.when_unreachable` must be one of fail, spool, but is 'wait'"]),
    (["trainer.resume=nowhere.pt"], ["`trainer.resume` must be the path of a checkpoint", "nowhere.pt does not exist"]),
    (["trainer.resume=last"], ["needs a training of the experiment 'lrtape'", "lrtape.json"]),
    # things that do not fit
    (["data=one_sample"], ["MLP", "one_sample", "(1, 10)"]),
    (["~data", f"+data._target_={__name__}.missing_file"], ["`data`", "/data/train.csv"]),
    (["~data", f"+data._target_={__name__}.not_data"], ["lrtape.app.data.Data", "list"]),
    (["~data", f"+data._target_={__name__}.no_samples"], ["must not be empty", "no_samples"]),
    ([f"param_groups._target_={__name__}.twins"], ["lr/body"]),
    # the store
    (["tracking.uri=mlflow"], ["`tracking.uri` must be a URI, but is 'mlflow' instead"]),
    (["tracking.uri='http://[::1'"], ["`tracking.uri` must be a URI", "http://[::1"]),
    (["tracking.uri=sqlite:///nowhere/mlflow.db"], ["`tracking.uri` must lie in a folder that exists", "nowhere"]),
    (["tracking.uri='sqlite:///:memory:'"], ["`tracking.uri` must name a file"]),
    # Hydra's own grammar
    (["optimizer.lr"], ["optimizer.lr"]),
    (["optimizer.lr=[1"], ["input '[1'"]),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="proves the refusal of CUDA where there is none")
def test_a_device_that_is_not_there_is_refused(command: Command, tmp_path: Path) -> None:
    """`device=cuda` without CUDA does not fall back in silence."""
    code, text = command("trainer.device=cuda")

    assert (code, n_runs(tmp_path)) == (2, 0)
    assert "`trainer.device` must be a device of this machine, but is 'cuda', and torch finds no CUDA" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUT, ids=[" ".join(case) for case, _ in BAD_INPUT])
def test_a_mistake_is_refused_in_one_message(
    command: Command, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    """Before training, with exit code 2 and no traceback; the message says what was given and what is valid, and no run
    is left in the store.
    """
    code, text = command(*arguments)

    assert (code, n_runs(tmp_path)) == (2, 0), text
    # Hydra itself says first which job of a sweep it was.
    hydras, _, ours = text.rpartition("lrtape: ")
    assert not hydras.strip() or hydras.startswith(f"Error executing job with overrides: {arguments}\n")
    assert hydras.count("\n") <= 2
    assert text.endswith("\n(HYDRA_FULL_ERROR=1 shows where this comes from.)\n")
    assert [part for part in said if part not in ours] == [], text
    assert "Traceback" not in text
    choices = [line for line in text.splitlines() if line.startswith("\t")]
    assert text.count("\n") - len(choices) <= 12
    assert max(map(len, text.splitlines())) < 400
    assert "+scheduler.gama" not in ours
    assert not (tmp_path / ".lrtape").exists()


@pytest.mark.parametrize(
    "argument",
    ["tracking.uri=postgresql://me:hush42@db/mlflow", "+store={url: 'https://me:hush42@server'}", "-m"],
    ids=["uri", "elsewhere", "sweep"],
)
def test_a_password_is_neither_repeated_nor_kept(command: Command, tmp_path: Path, argument: str) -> None:
    """Hydra would write it to disk and into the logs: it is refused first, with the way that keeps it secret."""
    arguments = ["-m", "tracking.uri=mysql://me:hush42@a/b,mysql://me:hush42@c/d"] if argument == "-m" else [argument]
    code, text = command(*arguments)

    assert code == 2
    assert "MLFLOW_TRACKING_URI" in text
    assert "hush42" not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"hush42" in path.read_bytes()] == []
    assert n_runs(tmp_path) == 0


def test_a_sweep_is_a_run_for_each_value(command: Command, store: str, tmp_path: Path) -> None:
    """`-m scheduler.gamma=0.1,0.5` trains twice; each run has the lrs and the params of its own gamma."""
    code, text = command(
        "-m", "experiment=steplr", "scheduler.step_size=1", "trainer.epochs=3", "scheduler.gamma=0.1,0.5"
    )
    assert code == 0, text
    runs = [run for run in runs_of(store) if TRIAL in run.data.tags]
    lrs = {run.data.params["scheduler.gamma"]: list(read_run(run.info.run_id, store)["lr/all"].values) for run in runs}

    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["lrtape.overrides"].split()[-1] for run in runs} == {
        "scheduler.gamma=0.1",
        "scheduler.gamma=0.5",
    }
    assert lrs == {
        "0.1": pytest.approx([1e-2, 1e-3, 1e-4], rel=1e-12),
        "0.5": pytest.approx([1e-2, 5e-3, 2.5e-3], rel=1e-12),
    }


def test_the_store_is_where_the_command_was_started(command: Command, tmp_path: Path) -> None:
    """Whatever Hydra does to the current folder, store, spools and artifacts are beside one another."""
    code, text = command("experiment=one_group", "trainer.epochs=1", "hydra.job.chdir=true")

    assert code == 0, text
    assert {"mlflow.db", "mlartifacts", ".lrtape"} <= {path.name for path in tmp_path.iterdir()}
    assert list((tmp_path / "outputs").rglob("mlflow.db")) == []


def test_an_interruption_is_no_traceback(command: Command, store: str) -> None:
    """Ctrl-C ends the command with one sentence and the exit code that shells know; the run is KILLED, and complete."""
    code, text = command("experiment=one_group", "~data", f"+data._target_={__name__}.interrupting")
    (run,) = runs_of(store)

    assert code == 130
    assert text.rpartition("lrtape: ")[2].startswith("interrupted; ")
    assert "Traceback" not in text
    assert run.info.status == "KILLED"
    assert list(read_run(run.info.run_id, store)["lr/all"].values) == [0.001, 0.001]


def interrupting() -> Data:
    """Data at which somebody presses Ctrl-C in the third step."""
    calls = iter(range(3))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return torch.nn.functional.mse_loss(outputs, targets)

    dataset = torch.utils.data.TensorDataset(torch.ones(1, 10), torch.ones(1, 2))
    return Data(train=dataset, val=None, loss=loss)


def test_the_traceback_is_there_for_who_wants_it(tmp_path: Path) -> None:
    """`HYDRA_FULL_ERROR=1` shows where an error comes from, and the exit code still says that it failed."""
    ended = process(sys.executable, str(TRAIN), "optimizer.lr=-1", cwd=tmp_path, HYDRA_FULL_ERROR="1")

    assert ended.returncode != 0
    assert "Traceback (most recent call last)" in ended.stderr
    assert "lrtape.errors.ConfigError: `optimizer.lr` must be a number >= 0, but is -1 instead." in ended.stderr


LIGHT = """
import runpy, sys
for arguments in (["--help"], ["--cfg", "job"], ["trainer.epchs=3"], ["scheduler=stepl"], ["trainer.epochs=0"]):
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path({train!r}, run_name="__main__")
    except SystemExit:
        pass
    print("LOADED", arguments[0], sorted({{"torch", "mlflow", "sklearn"}} & set(sys.modules)))
"""


def test_quick_answers_load_nothing_heavy(tmp_path: Path) -> None:
    """`--help`, `--cfg job` and a mistake are answered without importing torch or mlflow, which take seconds."""
    ended = process(sys.executable, "-c", LIGHT.format(train=str(TRAIN)), cwd=tmp_path)

    assert [line for line in ended.stdout.splitlines() if line.startswith("LOADED")] == [
        f"LOADED {first} []" for first in ("--help", "--cfg", "trainer.epchs=3", "scheduler=stepl", "trainer.epochs=0")
    ], ended.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's own folder with a model, and a config for it."""
    (tmp_path / "mynet.py").write_text(
        textwrap.dedent("""
            from torch import nn

            class Net(nn.Sequential):
                def __init__(self, width):
                    super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        """)
    )
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "mynet.yaml").write_text("_target_: mynet.Net\nwidth: 16\n")
    return tmp_path


@pytest.mark.parametrize("program", ["train.py", "lrtape train"])
def test_a_users_own_model_needs_no_change_of_the_package(project: Path, program: str) -> None:
    """A module beside `train.py`, or where `lrtape train` is started, and a folder of configs, are enough."""
    if program == "train.py":
        (project / "train.py").write_bytes(TRAIN.read_bytes())
        start = [sys.executable, "train.py"]
    else:
        start = [str(Path(sys.executable).with_name("lrtape")), "train"]
    ended = process(
        *start,
        *("--config-dir", "my_conf", "model=mynet", "param_groups=layerwise"),
        *("trainer.epochs=1", "trainer.batch_size=500", "tracking=off"),
        cwd=project,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("epoch 1/1  step 2  1 0.01  3 0.01  train/loss ")


def test_another_hydra_app_uses_our_groups(tmp_path: Path) -> None:
    """`defaults: [scheduler: steplr]` finds lrtape's config; a group of the app's own goes before ours."""
    (tmp_path / "conf" / "scheduler").mkdir(parents=True)
    (tmp_path / "conf" / "app.yaml").write_text("defaults:\n  - scheduler: steplr\n  - optimizer: adam\n  - _self_\n")
    (tmp_path / "conf" / "optimizer").mkdir()
    (tmp_path / "conf" / "optimizer" / "adam.yaml").write_text("mine: true\n")
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            import hydra, sys

            @hydra.main(version_base="1.3", config_path="conf", config_name="app")
            def main(cfg):
                print(cfg.scheduler._target_, cfg.optimizer, sorted({"torch", "mlflow"} & set(sys.modules)))

            main()
        """)
    )
    ended = process(sys.executable, "app.py", cwd=tmp_path)

    assert ended.stdout.strip() == "torch.optim.lr_scheduler.StepLR {'mine': True} []", ended.stderr
