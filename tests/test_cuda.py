"""On a GPU, no step of the training waits for it. ``python benchmarks/cuda.py`` says what recording costs there."""

from collections.abc import Iterator, Sequence
from typing import Any, SupportsFloat, TypeGuard

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from lrtape.arrivals import CUDA, Arrival
from lrtape.columns import Columns
from lrtape.destination import Destination
from lrtape.outbox import KeepingOutbox, NoOutbox
from lrtape.session import Session
from lrtape.step_findings import CUDA_GRAPH

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

N_STEPS = 1000


class Counted:
    """Copies as ever, and counts what was waited for: torch's debug mode (2.13) does not see how an event is."""

    def __init__(self) -> None:
        self.n_waits = 0

    def holds(self, value: object) -> TypeGuard[Tensor]:
        return CUDA.holds(value)

    def copy(self, values: Sequence[SupportsFloat]) -> Arrival:
        return CountedArrival(self, CUDA.copy(values))


class CountedArrival:
    def __init__(self, counted: Counted, arrival: Arrival) -> None:
        self._counted = counted
        self._arrival = arrival
        self.is_here = arrival.is_here

    def numbers(self) -> list[float]:
        self._counted.n_waits += not self.is_here()
        return self._arrival.numbers()


class Recording:
    """A session in memory."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.columns = Columns()
        self.devices = Counted()
        self.session = Session(Destination(outbox=KeepingOutbox(NoOutbox(), self.columns)), devices=self.devices)
        self.session.add(optimizer)

    def lrs(self) -> list[float]:
        self.session.close()
        return list(self.columns.tape()["lr/group_00"].values)


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    """Every operation that waits for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def weight() -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.zeros(1000, device="cuda"))
    param.grad = torch.ones_like(param)
    return param


def used_lrs() -> list[float]:
    """What N_STEPS steps use whose float32 lr is halved after every hundredth."""
    return [2.0 ** -(step // 100) for step in range(N_STEPS)]


def train(optimizer: Optimizer, step: Any, session: Session) -> None:
    loss = torch.zeros((), device="cuda")
    for index in range(N_STEPS):
        step()
        session.log("train/loss", loss, index)
        if index % 100 == 99:
            optimizer.param_groups[0]["lr"] *= 0.5


@pytest.mark.parametrize("compiles", [False, True], ids=["eager", "compiled"])
def test_a_tensor_lr_is_recorded_without_waiting(compiles: bool, request: pytest.FixtureRequest) -> None:
    """A capturable AdamW with its lr on the device: 1,000 steps, each with its own value, and its loss beside it."""
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda"), capturable=True)
    step = torch.compile(optimizer.step) if compiles else optimizer.step
    step()
    recording = Recording(optimizer)
    request.getfixturevalue("waiting_is_an_error")
    train(optimizer, step, recording.session)
    torch.cuda.set_sync_debug_mode("default")

    assert recording.devices.n_waits == 0
    assert recording.lrs() == used_lrs()
    assert len(recording.columns.tape()["train/loss"]) == N_STEPS


def test_a_fused_step_that_overflows_is_none() -> None:
    """Only the GPU knows that it was skipped."""
    param = weight()
    optimizer = SGD([param], lr=1.0, fused=True)
    recording = Recording(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
    for gradient in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((param * gradient).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.param_groups[0]["lr"] /= 2
    assert recording.lrs() == [1.0, 0.25]
    assert param[0].item() == -1.25
    assert recording.session.skipped_steps == 1


def test_a_cuda_graph_is_found_and_can_be_recorded() -> None:
    """Its capture is no step, and is told; `record` records its replays."""
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda"), capturable=True)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.synchronize()
    recording = Recording(optimizer)
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(UserWarning, match="captured into a CUDA graph"), torch.cuda.graph(graph):
        optimizer.step()
    for _ in range(3):
        graph.replay()
        recording.session.record()
        optimizer.param_groups[0]["lr"] *= 0.5

    assert recording.lrs() == [1.0, 0.5, 0.25]
    assert [finding.code for finding in recording.session.findings] == [CUDA_GRAPH]
