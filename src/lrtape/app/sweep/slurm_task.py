"""What a job of Slurm does: train some trials, one after the other, and note what came of each."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.interrupts import Interrupted, Interrupts
from lrtape.errors import SweepFailedError

BEGUN, RETURNED, FAILED = "begun", "returned", "failed"
_RESTARTS = "SLURM_RESTART_COUNT"


@dataclass(frozen=True, slots=True)
class SlurmTask:
    """Everything that a job needs, as it was when it was submitted. Crosses processes, in a file of submitit's.

    Attributes:
        configs: of each trial, with Hydra's own node.
        context: Hydra's.
        task_function: trains one trial.
        singletons: Hydra's global state.
        outcomes: the file for what came of the trials.
    """

    configs: Sequence[DictConfig]
    context: HydraContext
    task_function: TaskFunction
    singletons: Mapping[Any, Any]
    outcomes: Path


def run_task(task: SlurmTask) -> None:
    """Called in the process of a job. A trial that fails does not stop the next one.

    Raises:
        SweepFailedError: a trial has failed; so the job has, for Slurm.
        SystemExit: by a signal, or because Slurm has begun the job again.
    """
    if int(os.environ.get(_RESTARTS, 0)):
        sys.exit("lrtape: this job was requeued, and does nothing: the sweep's driver trains again what was cut off.")
    Singleton.set_state(task.singletons)
    setup_globals()
    n_failed = 0
    try:
        # submitit would let a signal between two trials pass.
        with Interrupts():
            for index, config in enumerate(task.configs):
                _note(task.outcomes, index, BEGUN)
                returned = run_job(
                    hydra_context=task.context,
                    task_function=task.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
                result = returned._return_value
                if returned.status == JobStatus.FAILED:
                    n_failed += 1
                    text = f"{type(result).__name__}: {result}"
                    print(f"lrtape: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the log of a job
                    _note(task.outcomes, index, FAILED, text)
                else:
                    _note(task.outcomes, index, RETURNED, result)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)
    if n_failed:
        raise SweepFailedError(f"{n_failed} of {len(task.configs)} trials of this job have failed")


def read_outcomes(path: Path) -> dict[int, tuple[str, Any]]:
    """How far each trial of a task came, by its place there; those that were never begun are missing."""
    outcomes = {}
    for line in path.read_text().splitlines():
        try:
            index, event, value = json.loads(line)
        except ValueError:
            continue  # Its process died while it wrote.
        outcomes[index] = (event, value)
    return outcomes


def _note(path: Path, index: int, event: str, value: Any = None) -> None:
    with path.open("a") as outcomes:
        outcomes.write(json.dumps([index, event, value], default=str) + "\n")
