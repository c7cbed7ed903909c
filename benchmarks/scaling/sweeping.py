"""A sweep of many short trainings, by the command that a person types."""

import ctypes
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from lrtape.tracking.tags import TRIAL
from scaling.processes import LOOK_S, memory_kib, start

SUBREAPER = 36
"""For ``prctl``: orphans of this process's descendants become its own children, whose CPU time it can know."""
STEPS_A_TRAINING = 23
"""An epoch of the default data."""
STEP_SIZES = 10


@dataclass(frozen=True, slots=True)
class Swept:
    """How a sweep went.

    Attributes:
        n_runs: trainings.
        n_finished: that MLflow calls FINISHED, with a row of every step.
        wall_s: of the command.
        cpu_s: of it and of all processes that it has started.
        first_s: from its start until the first training begins.
        after_s: from the end of the last training until it ends: the report.
        driver_peak_kib: memory of the driver at its peak.
        command: what was typed.
    """

    n_runs: int
    n_finished: int
    wall_s: float
    cpu_s: float
    first_s: float
    after_s: float
    driver_peak_kib: int
    command: str


def _wait_for_orphans(at_most_s: float = 120.0) -> None:
    """Shippers, say, that outlive the process that they belonged to by a moment."""
    deadline = time.monotonic() + at_most_s
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(LOOK_S)


def sweep(folder: Path, n_runs: int, n_jobs: int) -> Swept:
    """Sweep in a folder of its own; `n_runs` is a multiple of `STEP_SIZES`."""
    gammas = ",".join(f"{0.5 + 0.49 * index / (n_runs // STEP_SIZES):.4f}" for index in range(n_runs // STEP_SIZES))
    words = ["scheduler=steplr", "scheduler.interval=step", f"scheduler.gamma={gammas}"]
    words += [f"scheduler.step_size={','.join(str(size) for size in range(1, STEP_SIZES + 1))}"]
    words += ["trainer.epochs=1", "trainer.print_every_n_epochs=null", "trainer.device=cpu"]
    words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={n_jobs}"] if n_jobs > 1 else []
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_ms, begin = time.time() * 1000, time.monotonic()
    peak_kib = 0
    with (folder / "sweep.log").open("w") as log:
        process = start("-m", "lrtape.cli", "sweep", *words, folder=folder, out=log)
        while process.poll() is None:
            time.sleep(LOOK_S)
            peak_kib = max(peak_kib, memory_kib(process.pid)[1])
    wall_s = time.monotonic() - begin
    _wait_for_orphans()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError((folder / "sweep.log").read_text()[-2000:])
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    children = [run for run in client.search_runs([experiment.experiment_id]) if TRIAL in run.data.tags]
    finished = [
        run
        for run in children
        if run.info.status == "FINISHED"
        and len(client.get_metric_history(run.info.run_id, "lr/all")) == STEPS_A_TRAINING
    ]
    return Swept(
        n_runs=len(children),
        n_finished=len(finished),
        wall_s=wall_s,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        first_s=(min(run.info.start_time for run in children) - began_ms) / 1000,
        after_s=began_ms / 1000 + wall_s - max(run.info.end_time for run in children) / 1000,
        driver_peak_kib=peak_kib,
        command=f"lrtape sweep {' '.join(words)}",
    )
