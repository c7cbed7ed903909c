"""A training beside a GPU, and the clock that measures it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

N_GROUPS = 4
NAMES = [f"layer{index}" for index in range(N_GROUPS)]
LR = 1e-3
DECAY = 0.99
WAIT_EVERY_N_STEPS = 5
N_WARM = 20
"""Steps of each loop that are made, and logged, before the clock begins."""

Log = Callable[[int], object]


class Cost(NamedTuple):
    """Of one step, the mean of a loop."""

    cpu_s: float
    wall_s: float


class Clock:
    """Measures a loop, which says what it has done; waits for the GPU now and then.

    Args:
        device: ``cuda`` or ``cpu``.
        n_steps: that are measured, after `N_WARM` others.
        traces: count how often the loop waits for the GPU by itself, by CUDA's own trace of what is called. It is not
            waited for now and then; and the times are no good.
    """

    def __init__(self, device: str, n_steps: int, traces: bool) -> None:
        self.n_waits = 0
        self._device, self._n_steps = device, n_steps
        self._cpu = self._cpu_begin = self._wall = 0.0
        self._tracer = torch.profiler.profile() if traces else None

    def step(self, index: int) -> None:
        """A step is over; its index is from 0."""
        if index == N_WARM - 1:
            self._begin()
        elif index >= N_WARM and self._tracer is None and index % WAIT_EVERY_N_STEPS == WAIT_EVERY_N_STEPS - 1:
            self._cpu += time.thread_time() - self._cpu_begin
            self._wait()
            self._cpu_begin = time.thread_time()

    def end(self) -> Cost:
        """The last step is over."""
        self._cpu += time.thread_time() - self._cpu_begin
        self._wait()
        self._wall = time.perf_counter() - self._wall
        if self._tracer is not None:
            self._tracer.stop()
            events: Any = self._tracer.events()  # type: ignore[no-untyped-call]
            self.n_waits = sum("Synchronize" in event.name for event in events)
        return Cost(self._cpu / self._n_steps, self._wall / self._n_steps)

    def _begin(self) -> None:
        self._wait()
        if self._tracer is not None:
            self._tracer.start()
        self._wall, self._cpu_begin = time.perf_counter(), time.thread_time()

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


class Training:
    """A model of four layers, an optimizer with a group for each, and a batch."""

    def __init__(self, device: str, width: int, on_device: bool) -> None:
        self.device = device
        layers = [nn.Linear(width, width, bias=False, device=device) for _ in NAMES]
        self.model = nn.Sequential(*layers)
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "name": name, "lr": LR * (index + 1)}
            for index, (name, layer) in enumerate(zip(NAMES, layers, strict=True))
        ]
        if on_device:
            for group in groups:
                group["lr"] = torch.tensor(group["lr"], device=device)
        self.optimizer = torch.optim.AdamW(groups, lr=LR, capturable=on_device and device == "cuda")
        self.batch = torch.randn(256, width, device=device)

    def schedule(self) -> None:
        """A tensor is changed in its place, as torch's schedulers do."""
        for group in self.optimizer.param_groups:
            group["lr"] *= DECAY

    def begin_again(self) -> None:
        """With the first lrs."""
        for index, group in enumerate(self.optimizer.param_groups):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(LR * (index + 1))
            else:
                group["lr"] = LR * (index + 1)

    def used(self, n_steps: int) -> list[list[float]]:
        """What every step of a loop uses, with those before its clock begins, for each group: the arithmetic alone."""
        self.begin_again()
        steps = []
        for _ in range(N_WARM + n_steps):
            steps.append([float(group["lr"]) for group in self.optimizer.param_groups])
            self.schedule()
        return [list(lrs) for lrs in zip(*steps, strict=True)]

    def loop(self, n_steps: int, log: Log | None = None, clock: Clock | None = None) -> Cost:
        """Train; `log` is called before each step, with its index."""
        clock = clock or Clock(self.device, n_steps, traces=False)
        self.begin_again()
        for step in range(N_WARM + n_steps):
            self.optimizer.zero_grad()
            self.model(self.batch).square().mean().backward()
            if log is not None:
                log(step)
            self.optimizer.step()
            self.schedule()
            clock.step(step)
        return clock.end()


def width_of_step(device: str, seconds: float) -> int:
    """How wide the layers are of a model whose step takes about this."""
    width = 256
    while width < 16384:
        training = Training(device, width, on_device=False)
        training.loop(5)
        if training.loop(10).wall_s > seconds:
            break
        width = width * 9 // 8 // 64 * 64 + 64
    return width
