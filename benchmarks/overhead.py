"""What recording costs: ``python benchmarks/overhead.py > benchmarks/overhead-$(date +%F).md`` (four minutes).

Three questions, each answered on a real SQLite store with a real shipper where one is involved:

1. CPU time that recording adds to a step on the training thread, for 1, 4 and 50 param groups.
2. Wall time of a loop of about 1 ms a step, recording on against off, in alternation; torch has one thread, so that one
   core is left for the shipper.
3. 10,000 steps x 4 groups: how long after the last step everything is in the store, and how the trainer's memory grows.
"""

import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from mlflow import MlflowClient

from lrtape.attaching import attach
from lrtape.overhead import STEP_S, added_cpu, millisecond_of_work, one_write, optimizer_of, timed
from lrtape.tracking.mlflow_run import MlflowRun

N_PAIRS = 300
"""Of blocks of steps: enough for what else the host does to even out."""


def loop_wall(uri: str, folder: Path, n_pairs: int = 11, n_steps: int = 4000) -> list[tuple[float, float]]:
    """Seconds a step with recording off and on, pair by pair."""
    work = millisecond_of_work()

    def off() -> float:
        optimizer = optimizer_of(4)
        return timed(time.perf_counter, lambda: (work(), optimizer.step()), n_steps)

    def on() -> float:
        optimizer = optimizer_of(4)
        with MlflowRun.create(uri) as run, attach(optimizer, run=run, folder=folder):
            return timed(time.perf_counter, lambda: (work(), optimizer.step()), n_steps)

    pairs = []
    for index in range(n_pairs):
        measured = [off(), on()] if index % 2 else [on(), off()][::-1]
        pairs.append((measured[0], measured[1]))
    return pairs


def rss_kib() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def drain(uri: str, folder: Path, pause_s: float, n_steps: int = 10_000) -> tuple[float, int, int]:
    """Seconds from the last step until everything is stored, rows stored, and KiB that the trainer grew by."""
    optimizer = optimizer_of(4)
    with MlflowRun.create(uri) as run:
        session = attach(optimizer, run=run, folder=folder)
        for _ in range(500):
            optimizer.step()
        before = rss_kib()
        for _ in range(n_steps - 500):
            optimizer.step()
            time.sleep(pause_s)
        grown = rss_kib() - before
        begin = time.perf_counter()
        session.close()
        seconds = time.perf_counter() - begin
    client = MlflowClient(tracking_uri=uri)
    rows = sum(len(client.get_metric_history(run.run_id, f"lr/group{i}")) for i in range(4))
    return seconds, rows, grown


def main() -> None:
    """Measure, and print the result as Markdown."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    uri = f"sqlite:///{folder}/mlflow.db"
    versions = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "sqlalchemy", "msgspec"))
    print(f"# What recording costs, {time.strftime('%Y-%m-%d')}\n")
    print(f"`python benchmarks/overhead.py` on {os.cpu_count()} cores, {platform.platform()}.")
    print(f"Python {platform.python_version()}, {versions}.\n")

    print("## CPU time added to a step, on the training thread\n")
    print("| groups | lower quartile | median | upper quartile | target | one `os.write` of that size, alone |")
    print("|---|---|---|---|---|---|")
    for n_groups in (1, 4, 50):
        quartiles = " | ".join(f"{cost:.2f} us" for cost in added_cpu(n_groups, folder, N_PAIRS)[:3])
        print(
            f"| {n_groups} | {quartiles} | {3 + 0.1 * n_groups:.1f} us | {one_write(n_groups, folder):.2f} us |",
            flush=True,
        )

    print("\n## Wall time of a loop of about 1 ms a step, 4 groups, recording on / off in alternation\n")
    pairs = loop_wall(uri, folder / "spools")
    ratios = [on / off for off, on in pairs]
    print("| pair | off | on | on / off |\n|---|---|---|---|")
    for index, (off, on) in enumerate(pairs):
        print(f"| {index + 1} | {off * 1e3:.3f} ms | {on * 1e3:.3f} ms | {on / off:.3f} |")
    print(f"\nMedian of on / off: **{statistics.median(ratios):.3f}** (target: at most 1.03).\n", flush=True)

    print("## 10,000 steps x 4 groups\n")
    print("| loop | all rows stored after the last step | rows | growth of the trainer's memory |\n|---|---|---|---|")
    for name, pause_s in (("1 ms a step", STEP_S), ("nothing but steps", 0.0)):
        seconds, rows, grown = drain(uri, folder / "spools", pause_s)
        print(f"| {name} | {seconds:.1f} s | {rows} of 40000 | {grown} KiB |", flush=True)


if __name__ == "__main__":
    main()
