"""What ``record=changes`` saves in a very long run.

``python benchmarks/record.py [N_STEPS] > benchmarks/record-$(date +%F).md``

A loop of a million steps with four param groups and a StepLR that drops the lr ten times, recorded into a real SQLite
store, with ``record=changes`` and with ``record=every_step``: the rows, how much the store grows, how long it is waited
for at the end of the loop, until everything is stored, and the CPU time of the shipper. The optimizer has next to
nothing to do: a step takes some microseconds, and nearly all is left to the end. A real one gives the shipper time.
Takes a quarter of an hour, and more where the machine has other things to do.
"""

import platform
import resource
import sqlite3
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from mlflow import MlflowClient

import lrtape
from lrtape.tracking.mlflow_run import MlflowRun

N_STEPS = 1_000_000
N_DROPS = 10
MAX_WAIT_S = 4 * 3600.0
GROUPS = ("embedding", "body", "neck", "head")
HEADS = ("`record`", "rows", "the store grows by", "loop", "then waited", "CPU of the shipper", "a step", "complete")


def train(folder: Path, n_steps: int, record: str) -> str:
    """A row of the table."""
    database = folder / f"{record}.db"
    store = f"sqlite:///{database}"
    run = MlflowRun.create(store)
    empty_bytes = database.stat().st_size
    optimizer = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in GROUPS], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, n_steps // (N_DROPS + 1), 0.5)
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    begin = time.perf_counter()
    with lrtape.attach(optimizer, run=run, folder=folder / "spools", record=record, close_timeout_s=MAX_WAIT_S):
        for _ in range(n_steps):
            optimizer.step()
            scheduler.step()
        stepped = time.perf_counter()
    closed = time.perf_counter()
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s
    tags = MlflowClient(store).get_run(run.run_id).data.tags
    with sqlite3.connect(database) as rows:
        (n_rows,) = rows.execute("SELECT COUNT(*) FROM metrics").fetchone()
    cells = (
        *(f"`{record}`", f"{n_rows:,}", f"{(database.stat().st_size - empty_bytes) / 1e6:.1f} MB"),
        *(f"{stepped - begin:.0f} s", f"{closed - stepped:.0f} s", f"{cpu_s:.0f} s"),
        *(f"{tags['lrtape.us_per_step']} us", tags["lrtape.complete"]),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the page."""
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else N_STEPS
    versions = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "sqlalchemy"))
    print(f"# What `record=changes` saves, {time.strftime('%F')}\n")
    print(f"`python benchmarks/record.py` on {platform.platform()}. Python {platform.python_version()}, {versions}.")
    print(f"{n_steps:,} steps of {len(GROUPS)} groups, StepLR with {N_DROPS} drops, SQLite.\n")
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for record in ("changes", "every_step"):
            print(train(Path(folder), n_steps, record), flush=True)


if __name__ == "__main__":
    main()
