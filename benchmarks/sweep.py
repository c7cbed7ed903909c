"""How much faster a sweep of eight points is with two jobs than one at a time, on a machine with two cores or more.

    python benchmarks/sweep.py --output benchmarks/sweep-DATE.md

Each way sweeps the same eight points on a fresh SQLite store, in turn, as often as `--pairs` says. What counts is the
ratio of the wall times of a pair. Every run of every sweep is looked at: all must be FINISHED, with every step.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient

from lrtape.tracking.tags import TRIAL

GAMMAS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8"
N_POINTS = 8
STEPS_PER_EPOCH = 23
TWO_JOBS = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def sweep(epochs: int, *overrides: str) -> float:
    """Sweep in a folder of its own; returns the wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(Path(sys.executable).with_name("lrtape")), "sweep", "scheduler=steplr", f"scheduler.gamma={GAMMAS}"),
            *(f"trainer.epochs={epochs}", "trainer.print_every_n_epochs=null", "trainer.device=cpu", *overrides),
        ]
        # Not the store of whoever measures.
        environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        begin = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
        seconds = time.monotonic() - begin
        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        experiment = client.get_experiment_by_name("lrtape")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        children = [run for run in runs if TRIAL in run.data.tags]
        assert len(children) == N_POINTS, len(children)
        assert {run.info.status for run in runs} == {"FINISHED"}
        for run in children:
            rows = client.get_metric_history(run.info.run_id, "lr/all")
            assert sorted(row.step for row in rows) == list(range(epochs * STEPS_PER_EPOCH))
    return seconds


def main() -> None:
    """Measure, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="default: 2")
    parser.add_argument("--epochs", type=int, default=120, help="of each point; default: 120, more than ten seconds")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    given = parser.parse_args()
    rows = []
    for _ in range(given.pairs):
        one, two = sweep(given.epochs), sweep(given.epochs, *TWO_JOBS)
        rows.append((one, two))
        print(f"one at a time {one:.1f} s, two jobs {two:.1f} s, ratio {two / one:.3f}", flush=True)
    lines = [
        f"# A sweep of {N_POINTS} points, one at a time and with two jobs, {datetime.date.today():%Y-%m-%d}",
        "",
        f"`python benchmarks/sweep.py --pairs {given.pairs} --epochs {given.epochs}`; {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}. {given.epochs} epochs of digits a point, a fresh "
        "SQLite store each; every run FINISHED, with every step.",
        "",
        "| one at a time | a point | two jobs (`hydra/launcher=joblib`) | ratio |",
        "|---|---|---|---|",
        *(f"| {one:.1f} s | {one / N_POINTS:.1f} s | {two:.1f} s | {two / one:.3f} |" for one, two in rows),
    ]
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
