"""Numbers that are still on a device; the device is a double, that lets everybody wait."""

import warnings
from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeGuard

import pytest
import torch
from torch import Tensor

import lrtape
from lrtape.arrivals import CUDA, MAX_WAITING, Arrival, Arrivals
from lrtape.keys import Keys
from lrtape.recorder import SKIPPED_STEPS, Recorder
from lrtape.step_findings import AMBIGUOUS_LR
from lrtape.tape import GroupLayout, Point, Record
from lrtape.tracking.history import read_run
from lrtape.tracking.mlflow_run import MlflowRun


class SlowDevice:
    """Holds every tensor. What was copied is there when `finish` was called; who does not wait for that is told."""

    def __init__(self) -> None:
        self.has_finished = False
        self.n_copies = self.n_waits = 0

    def holds(self, value: object) -> TypeGuard[Tensor]:
        return isinstance(value, Tensor)

    def copy(self, values: Sequence[SupportsFloat]) -> Arrival:
        self.n_copies += 1
        return SlowArrival(self, [float(value) for value in values])


class SlowArrival:
    def __init__(self, device: SlowDevice, numbers: list[float]) -> None:
        self._device = device
        self._numbers = numbers

    def is_here(self) -> bool:
        return self._device.has_finished

    def numbers(self) -> list[float]:
        self._device.n_waits += not self._device.has_finished
        return self._numbers


class Memory:
    def __init__(self) -> None:
        self.frames: list[Any] = []

    def write(self, frame: Any) -> bool:
        self.frames.append(frame)
        return True

    def tend(self) -> None:
        pass

    @property
    def rows(self) -> list[tuple[int, list[float]]]:
        return [(frame.step, frame.lrs) for frame in self.frames if isinstance(frame, Record)]


@pytest.fixture
def device() -> SlowDevice:
    return SlowDevice()


def recording(optimizer: torch.optim.Optimizer, device: SlowDevice) -> tuple[Recorder, Memory]:
    memory = Memory()
    recorder = Recorder(optimizer, 0, Keys(), devices=device)
    recorder.start(memory)
    return recorder, memory


def sgd(*lrs: Any) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], lr=1.0)


def test_a_tensor_lr_is_not_waited_for(device: SlowDevice) -> None:
    """Its value at the step is recorded when it has arrived, in order, whatever the scheduler makes of the tensor."""
    optimizer = sgd(torch.tensor(1.0), 0.25)
    recorder, memory = recording(optimizer, device)
    for _ in range(3):
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.5
    assert (memory.rows, recorder.steps, device.n_waits) == ([], 0, 0)

    device.has_finished = True
    optimizer.step()
    assert memory.rows == [(0, [1.0, 0.25]), (1, [0.5, 0.25]), (2, [0.25, 0.25]), (3, [0.125, 0.25])]
    assert recorder.last == memory.frames[-1]


def test_a_late_step_has_the_index_that_it_was_aligned_to(device: SlowDevice) -> None:
    """Not the one that a later step was aligned to, before the first had arrived."""
    optimizer = sgd(torch.tensor(1.0))
    recorder, memory = recording(optimizer, device)
    for step in (1, 2, 4):
        recorder.align(step)
        optimizer.step()
    device.has_finished = True
    optimizer.step()

    assert [step for step, _ in memory.rows] == [1, 2, 4, 5]


def test_steps_behind_a_late_one_keep_their_order(device: SlowDevice) -> None:
    """Also those whose lr is a plain number, and those after another group was added."""
    optimizer = sgd(torch.tensor(1.0))
    _, memory = recording(optimizer, device)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.125})
    optimizer.step()
    device.has_finished = True
    optimizer.step()

    assert memory.rows == [(0, [1.0]), (1, [0.5]), (2, [0.5, 0.125]), (3, [0.5, 0.125])]
    layouts = [len(frame.groups) for frame in memory.frames if isinstance(frame, GroupLayout)]
    assert layouts == [1, 2]


def test_what_waits_is_bounded(device: SlowDevice) -> None:
    """Only what is far behind is waited for; the end of the recording waits for all."""
    optimizer = sgd(torch.tensor(1.0))
    recorder, memory = recording(optimizer, device)
    for _ in range(MAX_WAITING):
        optimizer.step()
    assert (recorder.steps, device.n_waits) == (0, 0)
    optimizer.step()
    assert (recorder.steps, device.n_waits) == (1, 1)
    recorder.stop()
    assert [step for step, _ in memory.rows] == list(range(MAX_WAITING + 1))


def test_a_skip_that_only_the_device_knows_of(device: SlowDevice) -> None:
    """A fused optimizer runs its step and updates nothing: that is known later, is no step, and is counted."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    recorder, memory = recording(optimizer, device)
    for step, gradient in enumerate((1.0, float("inf"), float("inf"), 1.0)):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 2.0**-step
        scaler.scale((weight * gradient).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    assert (memory.rows, device.n_waits) == ([], 0)
    recorder.stop()

    assert weight.item() == -(1.0 + 0.125)
    assert memory.rows == [(0, [1.0]), (1, [0.125])]
    assert recorder.skipped_steps == 2
    skips = [frame for frame in memory.frames if isinstance(frame, Point)]
    assert [(point.key, point.step, point.value) for point in skips] == [(SKIPPED_STEPS, 1, 2.0)]


def test_a_change_within_a_step_is_found_without_reading_it(device: SlowDevice) -> None:
    """Where a tensor lr is changed in place during a step, nothing tells which value was used."""

    class Changing(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.param_groups[0]["lr"] *= 0.5

    optimizer = Changing([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(1.0), foreach=False)
    recorder, memory = recording(optimizer, device)
    optimizer.step()
    device.has_finished = True
    with pytest.warns(UserWarning, match=r"lr/group_00 changed from 1\.0 while step 0 ran"):
        recorder.stop()
    assert [finding.code for finding in recorder.findings] == [AMBIGUOUS_LR]
    assert memory.rows == [(0, [1.0])]


def test_a_device_that_fails_does_not_stop_training(device: SlowDevice) -> None:
    """It is warned about once; the steps that can be read are recorded."""

    class Failing(SlowDevice):
        def copy(self, values: Sequence[SupportsFloat]) -> Arrival:
            raise RuntimeError("device lost")

    optimizer = sgd(torch.tensor(1.0))
    recorder, memory = recording(optimizer, Failing())
    with pytest.warns(UserWarning, match="could not record step 0 of SGD.*device lost"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        recorder.stop()
    assert memory.rows == []


def test_arrivals_are_taken_in_order() -> None:
    """What is behind something that has not arrived waits, though it is there itself."""
    slow, quick = SlowDevice(), SlowDevice()
    quick.has_finished = True
    taken: list[list[float]] = []
    arrivals = Arrivals()
    arrivals.expect(slow.copy([1.0]), taken.append)
    arrivals.expect(quick.copy([2.0]), taken.append)
    assert (taken, bool(arrivals)) == ([], True)
    slow.has_finished = True
    arrivals.receive()
    assert (taken, bool(arrivals)) == ([[1.0], [2.0]], False)


def test_what_is_here_is_read_at_once() -> None:
    """A number, and a tensor of the CPU of any type, are copied by the real thing without a device."""
    value = torch.tensor(0.5, dtype=torch.float64)
    arrival = CUDA.copy([value, 2, torch.tensor([3])])
    value += 1
    assert arrival.is_here()
    assert arrival.numbers() == [0.5, 2.0, 3.0]
    assert not CUDA.holds(value)


def test_a_logged_tensor_is_not_waited_for(store: str, device: SlowDevice) -> None:
    """The loss of every step is stored under its step, with no wait before the end."""
    run = MlflowRun.create(store)
    with lrtape.attach(sgd(0.5), run=run.run_id) as session:
        session._devices = device
        loss = torch.tensor(8.0)
        for step in range(5):
            session.log("train/loss", loss, step)
            loss /= 2
        assert device.n_waits == 0
    tape = read_run(run.run_id, store)
    assert list(tape["train/loss"].values) == [8.0, 4.0, 2.0, 1.0, 0.5]
    assert list(tape["train/loss"].steps) == [0, 1, 2, 3, 4]


def test_what_waits_is_counted(store: str, device: SlowDevice) -> None:
    """A loop that asks for its step is told the right one; a checkpoint waits for the truth."""
    optimizer = sgd(torch.tensor(1.0))
    recorder, memory = recording(optimizer, device)
    for _ in range(3):
        optimizer.step()
    assert (recorder.steps, recorder.next_step, device.n_waits) == (0, 3, 0)
    recorder.align(7)
    assert recorder.next_step == 7
    recorder.receive_all()
    assert (recorder.steps, recorder.next_step, len(memory.rows)) == (7, 7, 3)
