"""On a GPU, no step of the training waits for it. ``benchmarks/beside_a_gpu.py`` says what recording costs there."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat, TypeGuard

import mlflow
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

import lrtape
from lrtape.arrivals import CUDA, Arrival
from lrtape.beside import Beside
from lrtape.columns import Columns
from lrtape.destination import Destination
from lrtape.outbox import KeepingOutbox, NoOutbox
from lrtape.session import Session
from lrtape.step_findings import CUDA_GRAPH
from lrtape.tracking.history import read_run

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


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Every operation that waits for the GPU raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def weight() -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.zeros(1000, device="cuda"))
    param.grad = torch.ones_like(param)
    return param


def used_lrs() -> list[float]:
    """What N_STEPS steps use whose float32 lr is halved after every hundredth."""
    return [2.0 ** -(step // 100) for step in range(N_STEPS)]


def train(optimizer: Optimizer, step: Any, session: Session) -> None:
    """Waits for the GPU now and then, so that it is never further behind than lrtape lets it be."""
    loss = torch.zeros((), device="cuda")
    for index in range(N_STEPS):
        step()
        session.log("train/loss", loss, index)
        if index % 100 == 99:
            optimizer.param_groups[0]["lr"] *= 0.5
        if index % 25 == 24:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")


def test_waiting_is_noticed() -> None:
    """The other tests can fail: what reads a number of the GPU raises."""
    value = torch.ones((), device="cuda")
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchronizing"):
        float(value)


@pytest.mark.parametrize(
    "kind", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=["foreach", "each", "fused"]
)
@pytest.mark.parametrize("lr_is_tensor", [False, True], ids=["number", "tensor"])
def test_no_kind_of_adamw_is_waited_for(kind: dict[str, Any], lr_is_tensor: bool) -> None:
    """1,000 steps, each with its own value, and its loss beside it; the lr is a number, or lies on the GPU."""
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda") if lr_is_tensor else 1.0, capturable=True, **kind)
    optimizer.step()
    recording = Recording(optimizer)
    with waiting_is_an_error():
        train(optimizer, optimizer.step, recording.session)

    assert recording.devices.n_waits == 0
    assert recording.lrs() == used_lrs()
    assert len(recording.columns.tape()["train/loss"]) == N_STEPS


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_step_is_not_waited_for(mode: str) -> None:
    """``torch.compile(optimizer.step)``, with an lr on the GPU; the second mode makes CUDA graphs of it."""
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda"), capturable=True)
    step = torch.compile(optimizer.step, mode=mode)
    for _ in range(5):  # while it compiles, warms up and captures, it may wait
        step()
    recording = Recording(optimizer)
    for _ in range(5):
        step()
    with waiting_is_an_error():
        train(optimizer, step, recording.session)

    assert recording.devices.n_waits == 0
    assert recording.lrs() == [1.0] * 5 + used_lrs()


def test_autolog_and_a_schedule_wait_for_nothing(store: str) -> None:
    """Two optimizers, recorded by autolog into a real store, by a real shipper."""
    mlflow.set_tracking_uri(store)
    plain, capturable = SGD([weight()], lr=1.0, momentum=0.5), AdamW([weight()], lr=torch.tensor(1.0), capturable=True)
    capturable.param_groups[0]["lr"] = torch.tensor(1.0, device="cuda")
    schedules = [torch.optim.lr_scheduler.StepLR(each, 100, 0.5) for each in (plain, capturable)]
    lrtape.autolog()
    try:
        with mlflow.start_run() as run:
            for _ in range(2):  # the first step binds to the run
                plain.step()
                capturable.step()
            with waiting_is_an_error():
                for _ in range(200):
                    for optimizer, schedule in zip((plain, capturable), schedules, strict=True):
                        optimizer.step()
                        schedule.step()
    finally:
        lrtape.autolog(disable=True)

    expected = [1.0] * 102 + [0.5] * 100
    tape = read_run(run.info.run_id, store)
    assert [list(series.values) for series in tape.values()] == [expected, expected]


@pytest.mark.parametrize(
    "make",
    [
        lambda params: SGD(params, lr=1.0),
        lambda params: SGD(params, lr=1.0, fused=True),
        lambda params: AdamW(params, lr=1.0, fused=True),
        lambda params: AdamW(params, lr=torch.tensor(1.0, device="cuda"), fused=True, capturable=True),
    ],
    ids=["sgd", "fused sgd", "fused adamw", "fused adamw, tensor lr"],
)
@pytest.mark.parametrize("unscales", [False, True])
def test_a_step_that_overflows_is_none(make: Callable[[list[Tensor]], Optimizer], unscales: bool) -> None:
    """Of a fused optimizer only the GPU knows that it was skipped."""
    param = weight()
    optimizer = make([param])
    recording = Recording(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
    moved = []
    for gradient in (1.0, float("inf"), 1.0):
        before = param[0].item()
        optimizer.zero_grad()
        scaler.scale((param * gradient).sum()).backward()  # type: ignore[no-untyped-call]
        if unscales:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        moved.append(param[0].item() != before)
        optimizer.param_groups[0]["lr"] *= 0.5

    assert moved == [True, False, True]
    assert recording.lrs() == [1.0, 0.25]
    assert recording.session.skipped_steps == 1
    assert recording.session.steps == 2


def test_a_fused_step_under_a_scaler_is_not_waited_for() -> None:
    """Neither by the scaler nor by lrtape: what is waited for is the scaler's own `update`, and that is left out."""
    optimizer = AdamW([weight()], lr=1.0, fused=True)
    recording = Recording(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
    scaler.scale(torch.zeros((), device="cuda"))
    for index in range(40):
        inf_at_17 = float("inf") if index == 17 else 1.0
        optimizer.param_groups[0]["params"][0].grad.fill_(inf_at_17)
        with waiting_is_an_error():
            scaler.step(optimizer)
        scaler.update()
        optimizer.param_groups[0]["lr"] = 1.0 / (index + 2)

    assert recording.devices.n_waits == 0
    assert recording.lrs() == [1.0 / (index + 1) for index in range(40) if index != 17]
    assert recording.session.skipped_steps == 1


def test_values_beside_the_lr_are_not_waited_for() -> None:
    """Gradient norm, update ratio and momentum of a step are read on the GPU, and arrive later."""
    columns = Columns()
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda"), capturable=True)
    beside = Beside.of(("grad_norm", "update_ratio", "momentum"), 1)
    session = Session(Destination(outbox=KeepingOutbox(NoOutbox(), columns)), beside=beside)
    session.add(optimizer)
    optimizer.step()
    with waiting_is_an_error():
        for _ in range(20):
            optimizer.step()
    session.close()

    tape = columns.tape()
    assert list(tape["grad_norm/group_00"].values) == pytest.approx([1000**0.5] * 21)
    assert len(tape["update_ratio/group_00"]) == 20  # the weights of the first step are all 0
    assert list(tape["beta1/group_00"].values) == [0.9] * 21


def test_a_cuda_graph_is_found_and_can_be_recorded() -> None:
    """Its capture is no step, and is told; `record` records its replays, and waits for none of them."""
    optimizer = AdamW([weight()], lr=torch.tensor(1.0, device="cuda"), capturable=True)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.synchronize()
    recording = Recording(optimizer)
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(UserWarning, match="captured into a CUDA graph"), torch.cuda.graph(graph):
        optimizer.step()
    with waiting_is_an_error():
        for _ in range(30):
            graph.replay()
            recording.session.record()
            optimizer.param_groups[0]["lr"] *= 0.5

    assert recording.devices.n_waits == 0
    assert recording.lrs() == [0.5**step for step in range(30)]
    assert [finding.code for finding in recording.session.findings] == [CUDA_GRAPH]


def test_an_lr_on_another_stream_is_the_one_that_was_used() -> None:
    """The steps run on a stream of their own, behind much other work: the copy is made on that stream, too."""
    lr = torch.tensor(1.0, device="cuda")
    optimizer = AdamW([weight()], lr=lr, capturable=True)
    recording = Recording(optimizer)
    matrix = torch.randn(2048, 2048, device="cuda")
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            for _ in range(20):
                matrix = matrix @ matrix
            optimizer.step()
            lr.mul_(0.5)
    assert recording.lrs() == [0.5**step for step in range(20)]


# Each rank a process of torchrun; what rank 0 prints last is looked at.
NCCL = """
    import json, os
    import torch, lrtape
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    torch.cuda.set_device(0)
    distributed.init_process_group(os.environ["BACKEND"])
    rank = distributed.get_rank()
    model = DistributedDataParallel(torch.nn.Linear(4, 4).cuda())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5 + rank * float(os.environ["DIFFERENCE"]))
    session = lrtape.attach(optimizer, compare_ranks_every_n_steps=2)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.ones(2, 4, device="cuda")).sum().backward()
        optimizer.step()
    session.close()
    distributed.barrier()
    if rank == 0:
        said = [finding.code for finding in session.findings]
        print(json.dumps([session.run_id, said]), flush=True)
    distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("backend", "n_ranks", "difference", "said"),
    [("nccl", 1, 0.0, []), ("gloo", 2, 0.0, []), ("gloo", 2, 0.25, ["ranks-differ"])],
    ids=["nccl, one rank", "gloo, two ranks on one GPU", "the same with different lrs"],
)
def test_ddp_on_a_gpu(
    store: str, tmp_path: Path, start_process: Any, backend: str, n_ranks: int, difference: float, said: list[str]
) -> None:
    """Rank 0 records; the ranks are compared by the store of the process group, whatever the backend is.

    nccl takes no two ranks on one GPU: two of them use gloo here.
    """
    (tmp_path / "loop.py").write_text(textwrap.dedent(NCCL))
    process: subprocess.Popen[str] = start_process(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}", "loop.py"),
        BACKEND=backend,
        DIFFERENCE=str(difference),
        MLFLOW_TRACKING_URI=store,
        OMP_NUM_THREADS="1",
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    run_id, findings = json.loads(out.strip().splitlines()[-1])

    assert findings == said
    assert list(read_run(run_id, store)["lr/group_00"].values) == [0.5] * 10


WORLD = """
    import torch
    from lrtape.app.world import _Several
    from lrtape.ranks import Ranks

    torch.cuda.set_device(0)
    with _Several(Ranks(0, 1), "cuda") as world:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).cuda()
        wrapped = world.wrap(model)
        loss = wrapped(torch.randn(8, 4, device="cuda")).square().mean()
        loss.backward()
        world.align(model)
        assert world.gather({"a": 1}) == [{"a": 1}]
        assert world.agree(lambda: 5) == 5
        assert world.total([1.0, 2.0]) == [1.0, 2.0]
        assert float(world.mean(loss.detach())) == float(loss)
        assert torch.distributed.get_backend_config() == "cpu:gloo,cuda:nccl"
    print("done")
"""


def test_the_process_group_of_the_app(tmp_path: Path, start_process: Any) -> None:
    """Gradients go by nccl and what is said by gloo, in one group; here with the single rank that one GPU allows."""
    (tmp_path / "world.py").write_text(textwrap.dedent(WORLD))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "world.py"]
    process = start_process(*command)
    out, err = process.communicate(timeout=120)

    assert (process.returncode, out.strip().splitlines()[-1:]) == (0, ["done"]), err
