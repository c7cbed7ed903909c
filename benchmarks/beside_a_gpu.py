"""What recording costs beside a GPU, in five minutes.

``python benchmarks/beside_a_gpu.py > benchmarks/beside_a_gpu-$(date +%F).md``

A training step of about 10 ms, an AdamW with four param groups whose lr changes at every step: the bare loop against
the same loop with each way to log the lr, in alternation. Once with the lr as a number, and once as a tensor on the
GPU, as ``capturable`` optimizers have it. Everything goes into a real SQLite store of MLflow's, and is read back.

The loop waits for the GPU after every fifth step, as one does that shows its loss then: so the GPU's queue never fills,
where launching would wait, too. CPU time is that of the training thread outside of these waits. A run is opened before
the first loop and closed behind the last one (Lightning opens one for each), and the clock begins after 20 steps.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpu.frameworks import Ignite, Lightning, Transformers
from gpu.training import N_WARM, Training, width_of_step
from gpu.ways import Autolog, LogMetric, LogMetrics, LogMetricsAsync, Lrtape, Way
from lrtape.overhead import Quartiles

STEP_S = 10e-3
N_TRACED = 20
"""Steps in which the waits are counted."""
KINDS = ("a number", "a tensor on the GPU")
WAYS: dict[str, tuple[type[Way], int]] = {
    "lrtape, `attach(optimizer)`": (Lrtape, 9),
    "lrtape, `autolog()`": (Autolog, 5),
    "`mlflow.log_metric`": (LogMetric, 3),
    "`mlflow.log_metrics`": (LogMetrics, 5),
    "`mlflow.log_metrics(synchronous=False)`": (LogMetricsAsync, 5),
    "Lightning, `LearningRateMonitor`": (Lightning, 3),
    "Ignite, `OptimizerParamsHandler`": (Ignite, 5),
    "HF Trainer, `MLflowCallback`": (Transformers, 3),
}
"""With the number of pairs."""


def quartiles(values: list[float], digits: int, unit: str = "") -> str:
    """Median, and lower to upper quartile."""
    of = Quartiles.of(values)
    return f"{of.median:.{digits}f}{unit} ({of.lower:.{digits}f} to {of.upper:.{digits}f})"


def row(name: str, way: Way, n_pairs: int, n_steps: int) -> str:
    """A line of the table."""
    added, ratios = [], []
    n_waits = "not traced"
    with way:
        way.logging(n_steps)
        way.bare(n_steps)
        for index in range(n_pairs):
            pair = [way.bare, way.logging] if index % 2 else [way.logging, way.bare]
            costs = {loop: loop(n_steps) for loop in pair}
            bare, logging = costs[way.bare], costs[way.logging]
            added.append((logging.cpu_s - bare.cpu_s) * 1e6)
            ratios.append(logging.wall_s / bare.wall_s)
        if way.training.device == "cuda":
            by_bare, by_logging = (way.n_waits(loop, N_TRACED) for loop in (way.bare, way.logging))
            n_waits = f"{by_logging - by_bare:.2f} (without: {by_bare:.2f})"
        own = f" (by its own clock {way.us_per_step or 0:.1f} us)" if isinstance(way, Lrtape) else ""
    stored = way.stored()
    return (
        f"| {name} | {quartiles(added, 1, ' us')}{own} | {quartiles(ratios, 4)} | {n_waits} "
        f"| {stored.n_rows} of {stored.n_expected} | {stored.n_wrong} |"
    )


def driver() -> str:
    """Of the GPU."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def of_package(name: str) -> str:
    """Name and version."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} is not installed"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", help="cpu, to try this script where there is no GPU")
    parser.add_argument("--steps", type=int, default=40, help="of a loop")
    parser.add_argument("--pairs", type=int, default=0, help="of loops, instead of the numbers below")
    parser.add_argument("--step-s", type=float, default=STEP_S, help="that a step takes, about")
    options = parser.parse_args()
    if options.pairs not in {0, *range(2, 1000)}:
        parser.error(f"--pairs must be at least 2, or 0 for the numbers below, but is {options.pairs}")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("not run: torch finds no CUDA")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    packages = ("lrtape", "torch", "mlflow", "sqlalchemy", "msgspec", "lightning", "pytorch-ignite", "transformers")
    gpu = "No GPU"
    if options.device == "cuda":
        gpu = f"{torch.cuda.get_device_name()}, driver {driver()}, CUDA {torch.version.cuda}"
    print(f"# Recording beside a GPU, {time.strftime('%Y-%m-%d')}\n")
    print(f"`python {' '.join(['benchmarks/beside_a_gpu.py', *sys.argv[1:]])}`. {gpu}.")
    print(f"{os.cpu_count()} cores, {platform.platform()}.")
    print(f"Python {platform.python_version()}, {', '.join(map(of_package, packages))}.\n")
    folder = Path(tempfile.mkdtemp())
    uri = f"sqlite:///{folder}/mlflow.db"
    width = width_of_step(options.device, options.step_s)
    started = time.perf_counter()
    for kind in KINDS:
        on_device = kind == KINDS[1]
        training = Training(options.device, width, on_device)
        training.loop(options.steps)
        alone = [training.loop(options.steps) for _ in range(3)]
        cpu, wall = (statistics.median(cost) * 1e3 for cost in zip(*alone, strict=True))
        print(f"## The lr is {kind}\n")
        print(
            f"Four layers of {width} x {width}, a batch of 256; the bare step takes {wall:.2f} ms, and {cpu:.2f} ms of "
            f"CPU. Loops of {options.steps} steps, after {N_WARM} others, in alternation; the median of the pairs, "
            "and quartiles.\n"
        )
        print(
            "| | CPU added to a step, on the training thread | wall time of a step, with / without "
            "| waits for the GPU added to a step | rows stored | of these wrong |"
        )
        print("|---|---|---|---|---|---|", flush=True)
        for name, (way, n_pairs) in WAYS.items():
            # A new one for each: Lightning, for one, leaves the optimizer's state on the CPU.
            training = Training(options.device, width, on_device)
            try:
                line = row(name, way(uri, folder / "spools", training), options.pairs or n_pairs, options.steps)
            except Exception as error:  # noqa: BLE001 - one that does not run here is a result, too
                why = " ".join(str(error).split())[:200]
                line = f"| {name} | does not run: {type(error).__name__}: {why} | | | | |"
            print(line, flush=True)
            print(f"{time.perf_counter() - started:.0f} s: {name}, {kind}", file=sys.stderr)
        print()
    descriptor, data = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND), bytes(60)
    begin_ns = time.thread_time_ns()
    for _ in range(1000):
        os.write(descriptor, data)
    write_us = (time.thread_time_ns() - begin_ns) / 1e6
    print(f"One bare `os.write` of 60 bytes beside the store, in a loop of nothing else: {write_us:.2f} us of CPU.\n")
    print("Targets: recording with lrtape adds no wait for the GPU; every row is stored, and none is wrong.")


if __name__ == "__main__":
    main()
