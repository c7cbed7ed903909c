"""What a process does that torchrun has started, before it meets the others."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from omegaconf import DictConfig

from lrtape.app import other_ranks
from lrtape.app.batches import Windows
from lrtape.app.config import check
from lrtape.app.data import one_sample
from lrtape.app.program import program
from lrtape.app.schedule import Length
from lrtape.app.train import _tell_of_rank_0
from lrtape.app.world import _is_of_connection
from lrtape.errors import RankKilledError
from lrtape.ranks import Ranks
from lrtape.tracking.mlflow_run import MlflowRun

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes this process one of two."""
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return lambda number: monkeypatch.setenv("RANK", str(number))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainer.epochs=0"], "`trainer.epochs` must be at least 1"),
        (["scheduler=steplr", "-m", "scheduler.gamma=0.1,0.5"], "a sweep (-m) must be started without torchrun"),
        (["experiment=lr_range"], "an LR range test must be made by one process, but torchrun has started 2"),
    ],
    ids=["wrong", "a sweep", "a range test"],
)
def test_what_is_refused_is_said_once(
    arguments: list[str],
    said: str,
    rank: Callable[[int], None],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By rank 0; another one is silent, writes nothing, and has the same exit code, once torchrun ends it, as rank 0
    has ended.
    """
    monkeypatch.setattr(other_ranks, "SAYING_S", 60.0)
    rank(0)
    code, err = command(*arguments)
    written = {path.name for path in tmp_path.iterdir()}
    rank(1)
    over = threading.Event()

    def torchrun() -> None:
        while not over.wait(0.2):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=torchrun)
    thread.start()
    try:
        code_of_other, err_of_other = command(*arguments)
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)

    assert (code, code_of_other) == (2, 2)
    assert said in err
    assert err_of_other == ""
    assert {path.name for path in tmp_path.iterdir()} == written


def test_the_command_to_go_on_is_the_one_that_was_typed(
    rank: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many processes as before."""
    rank(0)
    monkeypatch.setattr("sys.argv", ["train.py", "scheduler=steplr"])
    assert program() == "torchrun --nproc-per-node=2 train.py"
    monkeypatch.setattr("sys.argv", ["/usr/bin/lrtape train"])
    assert program() == "torchrun --nproc-per-node=2 --no-python lrtape train"


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_the_ranks_share_every_window(n_ranks: int, compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    """Together they have the samples of one process with the batch of all of them, in the same order, each weighed as
    there: also the last one, of which not every rank has a share; and after windows that were done before.
    """
    dataset = [(torch.tensor(float(number)), torch.tensor(0)) for number in range(25)]
    settings = check(compose("trainer.accumulate_grad_batches=2"), tmp_path).trainer

    def windows(rank: int, n_ranks: int, batch_size: int) -> Windows:
        settings.batch_size = batch_size
        return Windows(dataset, settings, torch.device("cpu"), 7, Ranks(rank, n_ranks))

    whole = windows(0, 1, 12 // n_ranks * n_ranks)
    shares = [windows(rank, n_ranks, 12 // n_ranks) for rank in range(n_ranks)]
    assert {len(share) for share in shares} == {len(whole)} == {2}
    order = whole.order()
    for n_done in (0, 1):
        expected = list(whole.begin(order, n_done))
        together = [list(share.begin(order, n_done)) for share in shares]
        assert {len(windows) for windows in together} == {len(expected)}
        for index, window in enumerate(expected):
            contributions: dict[float, float] = {}
            for of_rank in together:
                for (inputs, _), weight in zip(*of_rank[index], strict=True):
                    for sample in inputs.tolist():
                        part = weight / len(inputs) / n_ranks
                        contributions[sample] = contributions.get(sample, 0.0) + part
            n_samples = sum(len(inputs) for inputs, _ in window.batches)
            assert contributions == pytest.approx(
                {sample: 1 / n_samples for inputs, _ in window.batches for sample in inputs.tolist()}
            )


def test_the_length_of_a_run_is_that_of_all_ranks_together(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    """And so are the horizons of schedules: an epoch of two processes has half as many steps."""
    settings = check(compose("trainer.batch_size=4", "trainer.epochs=3"), tmp_path).trainer
    data = one_sample()
    object.__setattr__(data, "train", range(21))

    assert Length.of(data, settings) == (3, 18)
    assert Length.of(data, settings, 2) == (3, 9)


@pytest.mark.parametrize(
    ("rank_here", "lost", "tag"), [(1, (0,), True), (2, (0,), False), (2, (0, 1), True), (1, (2,), False)]
)
def test_a_rank_that_is_left_says_why_rank_0_is_gone(
    rank_here: int, lost: tuple[int, ...], tag: bool, store: str, compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The first one of them; of another rank, rank 0 says so itself."""
    with MlflowRun.create(store) as run:
        settings = check(compose(f"tracking.uri={store}"), tmp_path)
        error = RankKilledError("rank 0 was killed", lost)
        _tell_of_rank_0(error, Ranks(rank_here, 3), settings, run.run_id)

    tags = MlflowClient(tracking_uri=store).get_run(run.run_id).data.tags
    assert tags.get("lrtape.error") == ("RankKilledError: rank 0 was killed" if tag else None)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True),
        (ConnectionResetError("reset by the server of the data set"), False),
        (KeyError("igloo"), False),
        (RuntimeError("cannot read /home/gloor/data"), False),
    ],
    ids=["gloo", "a server", "a class", "a path"],
)
def test_a_lost_rank_is_told_from_an_error_of_ones_own(error: Exception, is_lost: bool) -> None:
    """A rank that fails by itself says so; only what gloo says of a connection puts the blame on another one."""
    assert _is_of_connection(error) is is_lost
