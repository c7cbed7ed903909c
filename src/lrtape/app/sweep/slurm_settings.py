"""What can be set for a sweep on Slurm. Imports nothing heavy: Hydra loads this for every command."""

import math
from dataclasses import dataclass, field
from typing import Any

CANCEL, DETACH = "cancel", "detach"
ON_INTERRUPT = (CANCEL, DETACH)
"""What becomes of the jobs when the driver is interrupted."""
WARNING_S = 60
"""How long before its time is up a task is asked to end, as by Ctrl-C."""


@dataclass
class SlurmSettings:
    """The fields of ``hydra/launcher=lrtape_slurm``. A *task* is a job of Slurm that trains one trial or several.

    Attributes:
        partition: where to; null: where Slurm sends jobs by default.
        account: who pays.
        qos: quality of service.
        timeout_min: minutes that one trial may take; a task may take as many times that as it has trials.
        cpus_per_task: CPUs, and threads of torch.
        gpus_per_node: for each task.
        mem_gb: memory of each task, GB.
        trials_per_task: how many are trained one after the other in one process, which imports torch once; null: as
            few as `max_parallel_tasks` allows.
        max_parallel_tasks: how many tasks run at the same time.
        setup: lines of shell that each task runs first.
        additional_parameters: more options of sbatch, by their long names.
        python: of the tasks; null: the one that runs the sweep.
        on_interrupt: what Ctrl-C or SIGTERM does to the tasks: ``cancel`` them, or ``detach`` from them.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    timeout_min: int = 60
    cpus_per_task: int = 1
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    trials_per_task: int | None = None
    max_parallel_tasks: int = 32
    setup: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    on_interrupt: str = CANCEL

    def n_per_task(self, n_trials: int) -> int:
        """How many of `n_trials` the longest task has."""
        return min(n_trials, self.trials_per_task or math.ceil(n_trials / self.max_parallel_tasks))

    def minutes(self, n_trials: int) -> int:
        """How long a task may take."""
        return self.timeout_min * self.n_per_task(n_trials)

    def options(self, n_trials: int) -> dict[str, Any]:
        """Of sbatch, by their long names; true stands for an option without a value."""
        seconds = self.minutes(n_trials) * 60
        options: dict[str, Any] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.minutes(n_trials),
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node,
            "mem": None if self.mem_gb is None else f"{math.ceil(self.mem_gb * 1024)}M",
            # A trial must not get a second run that the driver does not know of.
            "no-requeue": True,
            "signal": f"TERM@{min(WARNING_S, seconds // 10)}",
            **self.additional_parameters,
        }
        return {name: value for name, value in options.items() if value is not None}
