"""What values beside the lr cost: ``python benchmarks/beside.py > benchmarks/beside-$(date +%F).md`` (a minute).

1. CPU time that recording adds to a step of 4 param groups on the training thread: without ``also``, and with all of it
   at steps that are not due. Blocks alternate, so that what else this machine does hits all of them.
2. What each value takes in a step at which it is due, and the step of AdamW itself: for a model of many small tensors,
   and for one of few large ones.
"""

import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from lrtape.arrivals import CUDA
from lrtape.beside import QUANTITIES, Beside, StepValues
from lrtape.beside_recorder import recorder_class
from lrtape.keys import Keys
from lrtape.spool import Header, SpoolWriter
from lrtape.tape import Group

NEVER = 10**12
MEASURED = ("momentum", "weight_decay", "grad_norm", "update_ratio")
US = 1e6
MODELS = {"200 tensors of 1,000": (200, 1_000), "20 tensors of 1,000,000": (20, 1_000_000)}


def optimizer_of(n_groups: int) -> torch.optim.Optimizer:
    """An optimizer whose parameters have no gradients: its step is as cheap as a step can be."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": f"group{i}"} for i in range(n_groups)]
    return torch.optim.SGD(groups, lr=0.1)


def timed(step: Callable[[], object], n_steps: int) -> float:
    """CPU seconds a step, on this thread."""
    begin = time.thread_time()
    for _ in range(n_steps):
        step()
    return (time.thread_time() - begin) / n_steps


def added_cpu(folder: Path, n_rounds: int = 80, n_steps: int = 1000) -> dict[str, tuple[float, float, float]]:
    """Quartiles of what recording adds to a step, in us, by what is recorded."""
    asked = {"the lr alone": Beside(), "all values, at steps that are not due": Beside(QUANTITIES, NEVER)}
    bare = optimizer_of(4)
    optimizers = {name: optimizer_of(4) for name in asked}
    for name, beside in asked.items():
        recorder = recorder_class(beside)(optimizers[name], 0, Keys())
        recorder.start(SpoolWriter(folder / name, Header("run", False, "uri", 1)))
        optimizers[name].lrtape_recorder = recorder  # type: ignore[attr-defined]
        timed(optimizers[name].step, 1000)
    added: dict[str, list[float]] = {name: [] for name in asked}
    for index in range(n_rounds):
        order = [("", bare), *optimizers.items()]
        order = order[index % 3 :] + order[: index % 3]
        cost = {name: timed(optimizer.step, n_steps) for name, optimizer in order}
        for name in asked:
            added[name].append((cost[name] - cost[""]) * US)
    return {name: tuple(statistics.quantiles(costs, n=4)) for name, costs in added.items()}  # type: ignore[misc]


def due_step(n_tensors: int, size: int, n_steps: int = 15) -> tuple[float, dict[str, float]]:
    """CPU time in ms, the medians: of a step of AdamW, and of what each value takes in it."""
    params = [torch.nn.Parameter(torch.randn(size)) for _ in range(n_tensors)]
    for param in params:
        param.grad = torch.randn(size)
    optimizer = torch.optim.AdamW([{"params": params, "name": "all"}], lr=1e-3)
    groups = [(Group("all", "lr/all"), optimizer.param_groups[0])]
    times: dict[str, list[float]] = {name: [] for name in ("", *MEASURED)}
    for _ in range(n_steps):
        times[""].append(timed(optimizer.step, 1))
        for name in MEASURED:

            def read(name: str = name) -> None:
                CUDA.copy(StepValues([name], optimizer, groups, (), {}, CUDA).end()).numbers()

            times[name].append(timed(read, 1))
    medians = {name: statistics.median(seconds) * 1e3 for name, seconds in times.items()}
    return medians.pop(""), medians


def main() -> None:
    """Measure, and print the result as Markdown."""
    warnings.simplefilter("ignore")  # SGD has no effective lr
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    print(f"# What values beside the lr cost, {time.strftime('%Y-%m-%d')}\n")
    print(f"`python benchmarks/beside.py` on {os.cpu_count()} cores, {platform.platform()}, one thread for torch.")
    print(f"Python {platform.python_version()}, torch {version('torch')}; no GPU was measured.\n")

    print("## CPU time added to a step of 4 groups, on the training thread\n")
    print("| recorded | lower quartile | median | upper quartile |\n|---|---|---|---|")
    for name, quartiles in added_cpu(folder).items():
        print(f"| {name} | {' | '.join(f'{cost:.2f} us' for cost in quartiles)} |", flush=True)

    print("\n## A step of AdamW at which values are due\n")
    print("CPU time of the step itself, and of what each value takes in it, on a CPU.\n")
    print(f"| model | the step | {' | '.join(MEASURED)} |\n|---|---|{'---|' * len(MEASURED)}")
    for model, (n_tensors, size) in MODELS.items():
        step, costs = due_step(n_tensors, size)
        print(f"| {model} | {step:.2f} ms | {' | '.join(f'{cost:.2f} ms' for cost in costs.values())} |", flush=True)


if __name__ == "__main__":
    main()
