"""Gives the trials of a sweep to Slurm, and waits until every one of its jobs is over, however it ended."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.interrupts import Interrupted
from lrtape.app.sweep.callback import SweepCallback
from lrtape.app.sweep.slurm_queue import CANCELLED, SlurmQueue
from lrtape.app.sweep.slurm_settings import SlurmSettings
from lrtape.app.sweep.slurm_submission import FOLDER, Backlog, Submission
from lrtape.app.sweep.slurm_task import BEGUN, RETURNED, SlurmTask, read_outcomes, run_task
from lrtape.app.sweep.snapshot import compose_job
from lrtape.errors import ConfigError

LOOK_S = (1.0, 15.0)
"""How often to look: at first, and in the long run."""
PATIENCE = 0.05
"""How much longer each pause is than the last look, as a share of the time that was waited."""


class SlurmLaunch:
    """Some trials on Slurm. Used by the launcher plugin, in the driver.

    Args:
        settings: of the launcher.
        context: Hydra's.
        task_function: trains one trial.
        config: of the sweep, as Hydra composed it.
    """

    def __init__(
        self, settings: SlurmSettings, context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._settings = settings
        self._context = context
        self._task_function = task_function
        self._config = config
        self._queue = SlurmQueue()
        callback = SweepCallback.of(context)
        self._trials = callback.trials
        self._sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
        self._folder = Path(callback.sweep_folder or self._sweep_dir) / FOLDER
        self._name = f"lrtape-{self._folder.parent.name}-{uuid.uuid4().hex[:6]}"
        self._files = self._folder / self._name

    def run(self, job_overrides: Sequence[Sequence[str]], first_job: int) -> list[JobReturn]:
        """Train them; what the trainings themselves do wrong raises nothing.

        Returns:
            What came of each trial. One with the status UNKNOWN was never begun: the process that should have trained
            it died before.

        Raises:
            ConfigError: Slurm takes no jobs.
            Detached: by a signal; the jobs go on.
            Interrupted: by a signal; the jobs are over.
        """
        setup_globals()
        configs = [
            compose_job(self._context, self._config, self._sweep_dir, overrides, first_job + index)
            for index, overrides in enumerate(job_overrides)
        ]
        n = self._settings.n_per_task(len(configs))
        tasks = [configs[start : start + n] for start in range(0, len(configs), n)]
        self._files.mkdir(parents=True, exist_ok=True)
        submission = Submission.create(
            self._folder / f"{self._name}.json", self._name, [[self._trial_id(c) for c in task] for task in tasks]
        )
        try:
            submission = submission.with_job(self._submit(tasks, len(configs)))
            print(  # noqa: T201 - a command
                f"{len(configs)} trials in {len(tasks)} jobs of Slurm: squeue --name={self._name}; their logs: "
                f"{self._files}",
                flush=True,
            )
            self._wait(submission)
        except Interrupted as interruption:
            Backlog(self._folder.parent).interrupted(interruption, self._settings.on_interrupt)
            raise
        submission.forget()
        for pickle in self._files.glob("*.pkl"):
            pickle.unlink()
        returns = []
        for index, task in enumerate(tasks):
            outcomes = read_outcomes(self._outcomes_file(index))
            job = submission.job_of(index)
            returns += [self._return(job, outcomes.get(place), config) for place, config in enumerate(task)]
        return returns

    def _trial_id(self, config: DictConfig) -> str:
        overrides = tuple(config.hydra.overrides.task)
        return self._trials[overrides].id if overrides in self._trials else " ".join(filter_overrides(overrides))

    def _submit(self, tasks: Sequence[Sequence[DictConfig]], n_trials: int) -> str:
        """The id of the job, or of the array."""
        settings = self._settings
        options = settings.options(n_trials)
        minutes, cpus = options.pop("time"), options.pop("cpus-per-task")
        executor = submitit.SlurmExecutor(self._files, max_num_timeout=0, python=settings.python)
        executor.update_parameters(
            job_name=self._name,
            time=minutes,
            cpus_per_task=cpus,
            # Slurm 22.05 and later do not hand it down to srun.
            srun_args=[f"--cpus-per-task={cpus}"],
            setup=[f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}", *settings.setup],
            array_parallelism=settings.max_parallel_tasks,
            additional_parameters=options,
        )
        payloads = [
            SlurmTask(task, self._context, self._task_function, Singleton.get_state(), self._outcomes_file(index))
            for index, task in enumerate(tasks)
        ]
        for payload in payloads:
            payload.outcomes.touch()
        try:
            jobs = executor.map_array(run_task, payloads)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            self._queue.cancel(self._name)
            raise ConfigError(f"Slurm must take the jobs of this sweep, but does not: {_last_line(error)}.") from error
        return str(jobs[0].job_id).partition("_")[0]

    def _wait(self, submission: Submission) -> None:
        begin = time.monotonic()
        left = set(range(len(submission.tasks)))
        while left:
            left = {index for index in left if not submission.is_over(index, self._queue)}
            waited = time.monotonic() - begin
            if left:
                time.sleep(min(max(LOOK_S[0], waited * PATIENCE), LOOK_S[1]))

    def _outcomes_file(self, index: int) -> Path:
        return self._files / f"outcomes_{index}.jsonl"

    def _return(self, job_id: str, outcome: tuple[str, Any] | None, config: DictConfig) -> JobReturn:
        returned = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config, task_name=config.hydra.job.name)
        event, value = outcome or ("", None)
        state = self._queue.last_state(job_id)
        if event == RETURNED:
            returned.status, returned.return_value = JobStatus.COMPLETED, value
        elif event or state == CANCELLED:
            # Whoever has cancelled a job does not want it submitted again.
            ended = f"its Slurm job {job_id} ended as {state or 'one that Slurm does not know'}"
            text = ended if event in {"", BEGUN} else value
            returned.status, returned.return_value = JobStatus.FAILED, RuntimeError(text)
        return returned


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("sbatch: ")), lines[-1]).rstrip(".")
