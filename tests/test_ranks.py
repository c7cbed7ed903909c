"""Several processes that train one model, started by torchrun; and what one of them does alone."""

import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

import lrtape
from lrtape.agreement import RANKS_DIFFER, FollowingOutbox, LeadingOutbox
from lrtape.errors import ConfigError
from lrtape.outbox import NoOutbox
from lrtape.ranks import ALONE, Ranks, these_ranks
from lrtape.tape import Group, GroupLayout, Record, Status

if TYPE_CHECKING:
    import subprocess

TORCHRUN = Path(sys.executable).with_name("torchrun")
DEADLINE_S = 120.0

N_STEPS = 23

LOOPS = """
import json, sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
import lrtape

distributed.init_process_group("gloo")
RANK = distributed.get_rank()
N_STEPS = int(sys.argv[1])
said = {}

def train(name, wrap, attach=lambda optimizer: None, differs_at=N_STEPS):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    session = attach(optimizer)
    for step in range(N_STEPS):
        optimizer.zero_grad()
        wrapped(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        if RANK == 0 or step < differs_at:
            scheduler.step()
    if session is not None:
        run_id = session.run_id
        session.close()
        said[name] = {
            "run_id": run_id, "own_run": session.run.run_id, "n_steps": session.steps, "lrs": session.last.lrs,
            "found": [[finding.code, finding.step] for finding in session.findings],
        }

def attached(optimizer, **options):
    return lrtape.attach(optimizer, compare_ranks_every_n_steps=5, **options)

def sharded(model):
    for layer in model:
        fully_shard(layer)
    return fully_shard(model)

train("differs", DistributedDataParallel, lambda one: attached(one, print_every_n_steps=10), differs_at=6)
train("first only", DistributedDataParallel, attached if RANK == 0 else lambda one: None)
train("differs at the end", DistributedDataParallel, lambda one: attached(one, run=None), differs_at=20)
train("sharded", sharded, lambda one: attached(one, run=None))
lrtape.autolog(compare_ranks_every_n_steps=5)
train("autolog", DistributedDataParallel)
lrtape.autolog(disable=True)
said["mlflow"] = "mlflow" in sys.modules
with open(f"said{RANK}.json", "w") as file:
    json.dump(said, file)
distributed.destroy_process_group()
"""


def used(n_steps: int = N_STEPS) -> list[float]:
    """What the loops above use, by torch alone."""
    import torch

    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = StepLR(optimizer, 7, 0.5)
    lrs = []
    for _ in range(n_steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def test_ranks_train_into_one_run(
    store: str, tmp_path: Path, start_process: "Callable[..., subprocess.Popen[str]]"
) -> None:
    """Under torchrun, with DDP and with FSDP2: rank 0 alone has a run, a spool and something to print, whether every
    rank calls `attach`, only rank 0, or all `autolog`; the others know the run's id, need no MLflow, and a difference
    between their learning rates is found, also in the last steps, and at the step where it begins to be seen.
    """
    (tmp_path / "loops.py").write_text(textwrap.dedent(LOOPS))
    process = start_process(str(TORCHRUN), "--nproc-per-node=2", "loops.py", str(N_STEPS), OMP_NUM_THREADS="1")
    out, text = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, text
    first, other = (json.loads((tmp_path / f"said{rank}.json").read_text()) for rank in range(2))
    runs = MlflowClient(tracking_uri=store).search_runs(["0"], order_by=["attributes.start_time ASC"])
    ids = [run.info.run_id for run in runs]

    assert len(ids) == 3, "attach everywhere, attach on rank 0, autolog"
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run_id in ids:
        (series,) = lrtape.read_run(run_id, store).values()
        assert list(series.values) == used()
    assert [first[name]["run_id"] for name in ("differs", "first only")] == ids[:2]
    assert (other["differs"]["run_id"], other["differs"]["own_run"]) == (ids[0], "")
    assert first["sharded"]["n_steps"] == other["sharded"]["n_steps"] == N_STEPS
    assert first["sharded"]["lrs"] == other["sharded"]["lrs"] == used()[-1:]
    assert (first["mlflow"], other["mlflow"]) == (True, False)
    assert not list((tmp_path / ".lrtape").glob("*"))

    assert first["differs"]["found"] == [[RANKS_DIFFER, 10]], "the first step that is compared, of those that differ"
    assert first["differs at the end"]["found"] == [[RANKS_DIFFER, N_STEPS - 1]]
    assert first["first only"]["found"] == first["sharded"]["found"] == []
    assert other["differs"]["found"] == other["differs at the end"]["found"] == other["sharded"]["found"] == []
    assert "first only" not in other
    assert out.count("step 10 ") == 1
    assert text.count("on rank 0, which records, and") == 2


class Notes:
    """A board in memory, which fails on order."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.counts: dict[str, int] = {}
        self.fails = False

    def put(self, key: str, note: bytes) -> None:
        if self.fails:
            raise RuntimeError("the store is gone\nwith a long trace")
        self.notes[key] = note

    def read(self, key: str) -> bytes | None:
        if self.fails:
            raise RuntimeError("the store is gone\nwith a long trace")
        return self.notes.get(key)

    def count(self, key: str, one_more: bool = False) -> int:
        self.counts[key] = self.counts.get(key, 0) + one_more
        return self.counts[key]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    board = Notes()
    monkeypatch.setattr("lrtape.agreement.Board.find", lambda topic: board)
    return board


def step(outbox: Any, number: int, lr: float) -> None:
    outbox.write(Record(0, number, 0, [lr]))


def test_a_store_that_fails_is_warned_about_once(notes: Notes) -> None:
    """The training goes on, and so does the recording; rank 0 says so once, the others say nothing."""
    lead = LeadingOutbox(NoOutbox(), "a run", [], 2)
    other = FollowingOutbox(NoOutbox(), 1, 2)
    notes.fails = True

    def train() -> None:
        for number in range(6):
            step(lead, number, 0.1)
            step(other, number, 0.2)
        lead.settle(Status.FINISHED)
        other.settle(Status.FINISHED)

    with pytest.warns(UserWarning, match="compares the learning rates of the ranks no longer") as warned:
        train()

    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert other.run_id == ""


@pytest.mark.parametrize(
    ("of_rank_0", "of_rank_1", "found"),
    [
        ([0.1, 0.1, 0.05, 0.05, 0.05], [0.1, 0.1, 0.05, 0.05, 0.05], []),
        ([0.1, 0.1, 0.05, 0.05, 0.05], [0.1, 0.1, 0.1, 0.1, 0.1], [2]),
        ([0.1, 0.2, 0.1, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1], []),
        ([float("nan")] * 5, [float("nan")] * 5, []),
    ],
    ids=["equal", "differ", "differ where nobody looks", "NaN"],
)
def test_every_nth_step_is_compared(
    notes: Notes, of_rank_0: list[float], of_rank_1: list[float], found: list[int]
) -> None:
    """One finding names the step, the two values and the rank, whichever rank is ahead."""
    findings: list[lrtape.Finding] = []
    lead, other = LeadingOutbox(NoOutbox(), "a run", findings, 2), FollowingOutbox(NoOutbox(), 3, 2)
    for outbox in (lead, other):
        outbox.write(GroupLayout(0, (Group("a", "lr/a"),)))
    with pytest.warns(UserWarning, match="rank 3") if found else contextlib.nullcontext():
        for number, (one, two) in enumerate(zip(of_rank_0, of_rank_1, strict=True)):
            outboxes: list[tuple[Any, float]] = [(lead, one), (other, two)]
            for outbox, lr in outboxes if number % 2 else outboxes[::-1]:
                step(outbox, number, lr)
        other.settle(Status.KILLED)
        lead.settle(Status.KILLED)

    assert [finding.step for finding in findings] == found
    assert all(finding.severity == "error" and finding.key == "lr/a" for finding in findings)
    assert all("0.05 on rank 0" in finding.message and "0.1 on rank 3" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Ranks(1, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, ALONE),
        ({"RANK": "1"}, ALONE),
        ({"RANK": "4", "WORLD_SIZE": "4"}, ALONE),
        ({"RANK": "first", "WORLD_SIZE": "4"}, ALONE),
    ],
    ids=str,
)
def test_torchrun_tells_the_rank(environment: Mapping[str, str], ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a process group the environment does; what cannot be a rank is none."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert these_ranks() == ranks


def test_an_interval_that_is_none_is_refused() -> None:
    """As any wrong input, before anything is opened."""
    with pytest.raises(ConfigError, match="`compare_ranks_every_n_steps` must be at least 1, but is 0"):
        lrtape.autolog(compare_ranks_every_n_steps=0)
