"""What recording costs on this machine: for ``lrtape bench``, and for the scripts in ``benchmarks/``."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Self

import torch

from lrtape.attaching import attach
from lrtape.cpus import n_cpus
from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.spool import Header, SpoolWriter
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.by_hand import logging_by_hand
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.tags import COMPLETE

STEP_S = 1e-3
US = 1e6
N_GROUPS = 4
"""Of every loop."""
LOOK_S = 0.02
_BYTES_A_RECORD, _BYTES_A_GROUP = 9 + 14, 9
"""Of a frame in the spool; its numbers are often shorter."""


class Quartiles(NamedTuple):
    """The quartiles of some measurements, and how many they are."""

    lower: float
    median: float
    upper: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least two values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(lower, median, upper, len(values))


def machine(packages: Iterable[str] = ("lrtape", "torch", "mlflow", "sqlalchemy", "msgspec")) -> str:
    """One line: how many CPUs this process may use, the system, and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{n_cpus()} CPUs, {platform.platform()}, Python {platform.python_version()}, {versions}"


def optimizer_of(n_groups: int) -> torch.optim.Optimizer:
    """An optimizer whose parameters have no gradients: its step is as cheap as a step can be."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": f"group{i}"} for i in range(n_groups)]
    return torch.optim.SGD(groups, lr=0.1)


def timed(clock: Callable[[], float], step: Callable[[], object], n_steps: int) -> float:
    """Seconds a step, by `clock`."""
    begin = clock()
    for _ in range(n_steps):
        step()
    return (clock() - begin) / n_steps


def added_cpu(n_groups: int, folder: Path, n_pairs: int = 80, n_steps: int = 1000) -> Quartiles:
    """What recording adds to a step on the training thread, in us of CPU time.

    Args:
        n_groups: of the optimizer.
        folder: an empty place for a spool; nobody ships it.
        n_pairs: of blocks of steps, without recording and with it, in alternation; at least two.
        n_steps: of a block.
    """
    bare, recorded = optimizer_of(n_groups), optimizer_of(n_groups)
    recorder = Recorder(recorded, 0, Keys())
    writer = SpoolWriter(folder / f"spool{n_groups}", Header("run", False, "uri", 1))
    recorder.start(writer)
    for step in (bare.step, recorded.step):
        timed(time.thread_time, step, n_steps)
    pairs = []
    for index in range(n_pairs):
        first, second = (bare, recorded) if index % 2 else (recorded, bare)
        cost = {id(one): timed(time.thread_time, one.step, n_steps) for one in (first, second)}
        pairs.append((cost[id(recorded)] - cost[id(bare)]) * US)
    writer.close()
    return Quartiles.of(pairs)


def one_write(n_groups: int, folder: Path) -> float:
    """Microseconds of the one system call that a record needs, alone: the floor of what any spool can cost here."""
    return _least_us(n_groups, folder, lambda descriptor, data: lambda: os.write(descriptor, data))


def reading_and_one_write(n_groups: int, folder: Path) -> float:
    """The same with the lr of every group read before: the floor of what recording can cost here."""
    groups = optimizer_of(n_groups).param_groups

    def step_of(descriptor: int, data: bytes) -> Callable[[], object]:
        return lambda: ([group["lr"] for group in groups], os.write(descriptor, data))

    return _least_us(n_groups, folder, step_of)


def _least_us(n_groups: int, folder: Path, step_of: Callable[[int, bytes], Callable[[], object]]) -> float:
    descriptor = os.open(folder / f"floor{n_groups}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step = step_of(descriptor, bytes(_BYTES_A_RECORD + _BYTES_A_GROUP * n_groups))
    try:
        return min(timed(time.thread_time, step, 1000) for _ in range(20)) * US
    finally:
        os.close(descriptor)


def millisecond_of_work() -> Callable[[], object]:
    """Matrix products that take about `STEP_S` on one thread here."""
    matrix = torch.randn(128, 128)
    once = min(timed(time.perf_counter, lambda: matrix @ matrix, 200) for _ in range(5))
    repeat = max(1, round(STEP_S / once))

    def work() -> None:
        for _ in range(repeat):
            _ = matrix @ matrix

    return work


class Pair(NamedTuple):
    """Seconds a step, without recording and with it."""

    off: float
    on: float


class Loop:
    """A loop of about 1 ms a step with a real shipper on a real store, recorded from the beginning to `close`.

    Torch should have one thread, so that a core is left for the shipper.

    Args:
        tracking_uri: of a store for this alone.
        folder: for its spool.
    """

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        self._work = millisecond_of_work()
        self._bare, self._recorded = optimizer_of(N_GROUPS), optimizer_of(N_GROUPS)
        self._uri = tracking_uri
        self._run = MlflowRun.create(tracking_uri)
        self._session = attach(self._recorded, run=self._run, folder=folder)
        self._recorded.step()

    def close(self) -> tuple[int, bool]:
        """End the run when everything is stored; returns how many rows were recorded, and whether the store has all."""
        n_rows = self._session.steps * N_GROUPS
        self._session.close()
        return n_rows, self._run.tags().get(COMPLETE) == "true"

    def wait_for_shipper(self, at_most_s: float = 20.0) -> bool:
        """Wait until the shipper has nothing to do, and say whether it has not."""
        folder = self._run.folder
        assert isinstance(folder, SpoolFolder)  # noqa: S101 - it is recorded
        deadline = time.monotonic() + at_most_s
        while folder.load_progress().offset < folder.spool.stat().st_size:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True

    def pair(self, is_off_first: bool, seconds: float) -> Pair:
        """Some steps without recording, while the shipper has nothing to do, and some with it, while it ships."""
        off = self._off(seconds) if is_off_first else None
        # Before these are measured, there is something to ship.
        self._block(self._recorded, seconds)
        on = self._block(self._recorded, seconds)
        self.wait_for_shipper()
        return Pair(self._off(seconds) if off is None else off, on)

    def by_hand(self, seconds: float) -> float:
        """Seconds a step with ``mlflow.log_metrics`` of the same four values in every step, on the same store."""
        metrics = {f"by_hand/group{index}": 0.1 for index in range(N_GROUPS)}
        begin, n_steps = time.perf_counter(), 0
        with logging_by_hand(self._uri, self._run.run_id) as log:
            log(metrics, n_steps)
            begin = time.perf_counter()
            while (now := time.perf_counter()) - begin < seconds or not n_steps:
                self._work()
                self._bare.step()
                n_steps += 1
                log(metrics, n_steps)
        return (now - begin) / n_steps

    def _off(self, seconds: float) -> float:
        return self._block(self._bare, seconds)

    def _block(self, optimizer: torch.optim.Optimizer, seconds: float) -> float:
        n_steps = max(10, round(seconds / STEP_S))
        return timed(time.perf_counter, lambda: (self._work(), optimizer.step()), n_steps)
