"""`torchrun --nproc-per-node=2 train.py`: two real processes that train one model."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from mlflow import MlflowClient

from lrtape.app.checkpoint import load_checkpoint
from lrtape.app.config import check
from lrtape.app.train import train
from lrtape.tape import Tape
from lrtape.tracking.history import read_run

BIN = Path(sys.executable).parent
WARM = Path(__file__).parent / "rig" / "warm_ranks.py"
DEADLINE_S = 120.0
N_EPOCHS = 6
N_STEPS = 3 * N_EPOCHS

MY_DATA = """
import os, signal, time
import torch
from torch.utils.data import TensorDataset
from lrtape.app.data import Data

RANK = int(os.environ.get("RANK", "0"))

def data():
    # The last window of an epoch has 9 samples, and the last batch of that 1: less than there are processes.
    inputs = torch.randn(41, 3, generator=torch.Generator().manual_seed(1))
    dataset = TensorDataset(inputs, inputs[:, :2].sign())
    calls = iter(range(10**9))

    def loss(outputs, targets):
        value = torch.nn.functional.mse_loss(outputs, targets)
        if not torch.is_grad_enabled():
            return value
        what = os.environ.get(f"RANK_{RANK}_AT_{next(calls)}")
        if what == "raise":
            raise ValueError("a bug of the user's")
        if what is not None:
            os.kill(os.getpid(), getattr(signal, what))
        # Each rank draws its own random numbers, which shall go on where they were.
        return value + NOISE * torch.rand(())

    return Data(train=dataset, val=dataset, loss=loss)

NOISE = 1e-3

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
"""

TINY = [
    *("~data", "+data._target_=my_data.data", "~model", "+model._target_=my_data.Net"),
    *("scheduler=reducelronplateau", "scheduler.patience=0", "scheduler.threshold=0.2", "optimizer=adam"),
    *("param_groups=frozen_backbone", "param_groups.unfreeze_at_epoch=2", f"trainer.epochs={N_EPOCHS}"),
    *("trainer.accumulate_grad_batches=2", "trainer.clip_grad_norm=1.0", "tracking.log_model=off"),
]
OF_TWO, OF_ONE = "trainer.batch_size=4", "trainer.batch_size=8"
ELSEWHERE = ["tracking.uri=sqlite:///{0}.db", "tracking.folder={0}", "hydra.run.dir={0}/output"]

Start = Callable[..., "subprocess.Popen[str]"]
Ended = tuple[dict[int, int], str]


@pytest.fixture
def torchrun(store: str, tmp_path: Path, start_process: Start) -> Start:
    """Starts `lrtape train` in two processes, in a folder with an empty store and a user's module."""
    (tmp_path / "my_data.py").write_text(textwrap.dedent(MY_DATA))
    command = [str(BIN / "torchrun"), "--nproc-per-node=2", "--no-python", str(BIN / "lrtape"), "train"]
    return lambda *overrides: start_process(*command, *overrides, OMP_NUM_THREADS="1")


@pytest.fixture
def train_warm(torchrun: Start, tmp_path: Path) -> Iterator[Callable[..., Ended]]:
    """The same, where everything is imported already: the exit codes of the ranks that failed, and what they wrote."""
    log = tmp_path / "log"
    warm = subprocess.Popen(
        [sys.executable, str(WARM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
    )

    def train_warm(*overrides: str, **environment: str) -> Ended:
        assert warm.stdin is not None
        assert warm.stdout is not None
        log.unlink(missing_ok=True)
        print(json.dumps([overrides, environment, str(log)]), file=warm.stdin, flush=True)
        codes = json.loads(warm.stdout.readline())
        return {int(rank): code for rank, code in codes.items()}, log.read_text()

    with warm:
        yield train_warm
        warm.stdin.close()  # type: ignore[union-attr]  # it is a pipe


def the_run(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def curves(store: str) -> dict[str, list[tuple[int, float]]]:
    """Every value of the only run at its step, without the times."""
    tape: Tape = read_run(the_run(store).info.run_id, store)
    return {key: list(zip(series.steps, series.values, strict=True)) for key, series in tape.items()}


def outputs(folder: Path) -> list[Path]:
    return sorted(folder.glob("outputs/*/*"))


def test_two_processes_train_as_one_and_go_on_after_crash_and_signal(
    torchrun: Start, train_warm: Callable[..., Ended], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same global batch the learning rates of two processes are those of one, and the losses to rounding: with
    accumulation, clipping, a plateau, a layer that is thawed, and a last batch that not every process has a share of.
    There is one run, written, printed and saved by rank 0 alone.

    A training that is cut off, by SIGTERM within an epoch, by an exception of one rank, and by SIGKILL of one, has one
    run, which says so; it goes on each time with `trainer.resume=last`, with the learning rates and losses of the one
    in one piece, bit for bit.
    """
    (tmp_path / "two.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    (tmp_path / "one.db").write_bytes((tmp_path / "mlflow.db").read_bytes())
    whole = torchrun(*TINY, OF_TWO, *(text.format("two") for text in ELSEWHERE))
    out, text = whole.communicate(timeout=DEADLINE_S)
    assert whole.returncode == 0, text
    two = f"sqlite:///{tmp_path / 'two.db'}"
    in_one_piece = curves(two)

    assert out.count("epoch 1/6") == out.count("To look:") == 1
    assert the_run(two).data.tags["lrtape.n_ranks"] == "2"
    assert the_run(two).data.tags["lrtape.complete"] == "true"
    assert the_run(two).info.status == "FINISHED"
    assert len({step for step, _ in in_one_piece["lr/head"]}) == N_STEPS
    assert not (tmp_path / "train.log").exists()

    single = of_one_process(tmp_path, monkeypatch)
    assert {lr for _, lr in single["lr/head"]} > {0.001}, "the plateau is seen"
    assert {key: rows for key, rows in in_one_piece.items() if key.startswith(("lr/", "frozen/"))} == {
        key: rows for key, rows in single.items() if key.startswith(("lr/", "frozen/"))
    }
    for key, tolerance in (("val/loss", 1e-6), ("train/loss", 1.1e-3)):
        assert [step for step, _ in in_one_piece[key]] == [step for step, _ in single[key]]
        assert [loss for _, loss in in_one_piece[key]] == pytest.approx(
            [loss for _, loss in single[key]], abs=tolerance
        )

    # A signal to one rank alone: the other hears of it, and torchrun does not end it before it is done.
    codes, text = train_warm(*TINY, OF_TWO, RANK_1_AT_9="SIGTERM")
    checkpoint = load_checkpoint(outputs(tmp_path)[-1] / "checkpoints" / "last.pt")
    assert codes == {0: 143, 1: 143}, text
    assert the_run(store).info.status == "KILLED"
    assert checkpoint["next_step"] == len(curves(store)["train/loss"]) == 5, "the case is meant to be within an epoch"
    assert text.count("lrtape: interrupted by SIGTERM") == text.count("Checkpoint: ") == 1
    assert "torchrun --nproc-per-node=2 --no-python lrtape train " in text.partition("To go on:")[2]

    codes, text = train_warm("trainer.resume=last", RANK_1_AT_5="raise")
    run = the_run(store)
    assert codes == {0: 1, 1: 1}, text
    assert run.info.status == "FAILED"
    assert run.data.tags["lrtape.error"] == "RankFailedError: rank 1 failed: ValueError: a bug of the user's"
    assert run.data.tags["lrtape.complete"] == "true"
    assert len(curves(store)["train/loss"]) == 7
    assert "[rank1]: ValueError: a bug of the user's" in text
    assert "[rank0]: Traceback" not in text
    assert "lrtape: rank 1 failed: ValueError: a bug of the user's\n" in text

    codes, text = train_warm("trainer.resume=last", RANK_1_AT_22="SIGKILL")
    run = the_run(store)
    assert codes == {0: 1, 1: -9}, text
    assert run.info.status == "KILLED"
    assert run.data.tags["lrtape.error"] == "RankKilledError: rank 1 was killed"
    assert "[rank" not in text, "nobody has a traceback to show"
    assert curves(store) == {key: [row for row in rows if row[0] < N_STEPS - 1] for key, rows in in_one_piece.items()}
    assert len(outputs(tmp_path)) == 3, "rank 1 has none of its own"
    assert not list((tmp_path / ".lrtape").glob("*/spool"))


def of_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, float]]]:
    """The curves of the same training in this process; and another number of processes cannot go on with it."""
    uri = f"sqlite:///{folder / 'one.db'}"
    monkeypatch.syspath_prepend(str(folder))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
        cfg = hydra.compose("train", [*TINY, OF_ONE, f"tracking.uri={uri}", "tracking.folder=one"])
        train(cfg, check(cfg, folder), folder / "one", [])
        of_two = folder / "two" / "output" / "checkpoints" / "last.pt"
        cfg = hydra.compose("train", [f"trainer.resume={of_two}", "tracking=off"])
        with pytest.raises(Exception, match=r"2 have trained for .*, and now there are 1: .* Start 2 with torchrun"):
            train(cfg, check(cfg, folder), folder / "one", [])
    GlobalHydra.instance().clear()
    return curves(uri)
