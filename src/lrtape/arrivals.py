"""Numbers that are still on their way from a GPU to this process, and the steps that wait for them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat, TypeGuard

import torch
from torch import Tensor

from lrtape.tape import Group

MAX_WAITING = 64
"""Steps. A GPU is rarely more than a few behind; a process that is killed loses what has not arrived."""


class Arrival(Protocol):
    """Numbers that come later."""

    def is_here(self) -> bool:
        """Whether `numbers` would not wait. Never waits itself."""

    def numbers(self) -> list[float]:
        """The numbers; waits for them."""


class Devices(Protocol):
    """Tells what lies on a device that is not to be waited for, and copies it."""

    def holds(self, value: object) -> TypeGuard[Tensor]:
        """Whether reading `value` would wait for a device."""

    def copy(self, values: Sequence[SupportsFloat]) -> Arrival:
        """Begin to copy numbers, of which some are on a device. Never waits; a later change does not matter."""


class _CudaArrival:
    """See `Arrival`.

    Args:
        values: single numbers.
    """

    def __init__(self, values: Sequence[SupportsFloat]) -> None:
        self._numbers: list[float] = []
        by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
        for index, value in enumerate(values):
            if CUDA.holds(value):
                by_device.setdefault(value.device, []).append((index, value.detach().reshape(())))
                self._numbers.append(0.0)
            else:
                self._numbers.append(float(value))
        self._copies: list[tuple[list[int], Tensor, torch.cuda.Event]] = []
        self._is_here = False
        for device, held in by_device.items():
            indices, tensors = zip(*held, strict=True)
            # Into pinned memory: torch allocates it for a copy that does not block.
            copy = torch.stack(tensors).to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch 2.13
            event.record(torch.cuda.current_stream(device))
            self._copies.append((list(indices), copy, event))

    def is_here(self) -> bool:
        self._is_here = self._is_here or all(event.query() for _, _, event in self._copies)  # type: ignore[no-untyped-call]
        return self._is_here

    def numbers(self) -> list[float]:
        for indices, copy, event in self._copies:
            if not self._is_here:
                event.synchronize()
            for index, number in zip(indices, copy.tolist(), strict=True):
                self._numbers[index] = number
        self._copies = []
        return self._numbers


class _Cuda:
    """CUDA devices. Others are waited for: they are correct too, and slower."""

    def holds(self, value: object) -> TypeGuard[Tensor]:
        """See `Devices.holds`."""
        return isinstance(value, Tensor) and value.is_cuda

    def copy(self, values: Sequence[SupportsFloat]) -> Arrival:
        """See `Devices.copy`."""
        return _CudaArrival(values)


CUDA: Devices = _Cuda()
_HERE = _CudaArrival([])


def is_capturing() -> bool:
    """Whether the current stream is being captured into a CUDA graph: its kernels are noted down, and not run."""
    return bool(torch.cuda.is_initialized()) and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


class Arrivals:
    """What is to be done with numbers when they have arrived, in the order in which it was asked for."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Arrival, Callable[[list[float]], None]]] = deque()

    def __len__(self) -> int:
        """How much has not arrived, or was not looked at since."""
        return len(self._waiting)

    def expect(self, arrival: Arrival, then: Callable[[list[float]], None]) -> None:
        """Call `then` with the numbers, in this or a later call of a method of this object."""
        self._waiting.append((arrival, then))
        self.receive()

    def receive(self) -> None:
        """Do what can be done without waiting; wait only for what is behind by more than `MAX_WAITING`."""
        while self._waiting and (self._waiting[0][0].is_here() or len(self._waiting) > MAX_WAITING):
            self._take()

    def receive_all(self) -> None:
        """Wait for everything."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        arrival, then = self._waiting.popleft()
        then(arrival.numbers())


@dataclass(slots=True)
class LateStep:
    """One optimizer step, of which this process does not know all numbers yet.

    Attributes:
        arrival: the lrs, and whether the gradients had overflowed.
        lrs: as they are in the param groups.
        versions: of the lrs that are tensors: counts their changes in place.
        least: the least index that the step may have.
        groups: of the lrs.
        time_ms: Unix time in milliseconds when the step had run.
        changed: index of an lr that is another one since; ``None`` if all are the same.
        beside: what else is known of this step, for who has put it here.
    """

    arrival: Arrival
    lrs: list[Any]
    versions: list[int | None]
    least: int = 0
    groups: tuple[Group, ...] = ()
    time_ms: int = 0
    changed: int | None = None
    beside: Any = None


class LateSteps:
    """The steps of one optimizer that wait for a device, in order.

    Args:
        devices: what is not to be waited for.
        arrived: called with each step that has everything, its lrs, and whether it was skipped (not 0).
    """

    def __init__(self, devices: Devices, arrived: Callable[[LateStep, list[float], float], None]) -> None:
        self.devices = devices
        self._arrivals = Arrivals()
        self._arrived = arrived

    def __len__(self) -> int:
        """How many steps wait."""
        return len(self._arrivals)

    def begin(self, lrs: list[Any], found_inf: Any, least: int = 0) -> LateStep:
        """Copy what the step uses.

        Args:
            lrs: of the param groups, numbers or tensors.
            found_inf: a tensor, not 0 where the gradients have overflowed, and the optimizer updates nothing; or
                ``None``.
            least: the least index that the step may have.
        """
        arrival = self.devices.copy([*lrs, 0.0 if found_inf is None else found_inf])
        return LateStep(arrival, lrs, [_version(lr) for lr in lrs], least)

    def end(self, step: LateStep, groups: tuple[Group, ...], time_ms: int, lrs: list[Any]) -> None:
        """The step has run; `lrs` are those of the param groups now. Calls `arrived` for what is here."""
        step.groups = groups
        step.time_ms = time_ms
        for index, (before, version, now) in enumerate(zip(step.lrs, step.versions, lrs, strict=True)):
            is_same = now is before or (version is None and not isinstance(now, Tensor) and now == before)
            if not is_same or _version(now) != version:
                step.changed = index
        self._arrivals.expect(step.arrival, lambda numbers: self._arrived(step, numbers[:-1], numbers[-1]))

    def call_behind(self, then: Callable[[], None]) -> None:
        """Call this when all steps that wait now have arrived; at once, if there is none."""
        if self._arrivals:
            self._arrivals.expect(_HERE, lambda _: then())
        else:
            then()

    def receive_all(self) -> None:
        """Wait for all steps."""
        self._arrivals.receive_all()


def _version(lr: object) -> int | None:
    return lr._version if isinstance(lr, Tensor) else None
