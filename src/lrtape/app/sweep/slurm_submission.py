"""Notes in the folder of a sweep: which of its trials were given to Slurm, so that a later driver waits for them."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from lrtape.app.interrupts import Detached
from lrtape.app.program import typed_command
from lrtape.app.sweep.slurm_queue import SlurmQueue
from lrtape.app.sweep.slurm_settings import DETACH
from lrtape.errors import ConfigError
from lrtape.tape import now_ms

FOLDER = "slurm"
"""In the folder of a sweep."""
CANCEL_S = 150.0
"""How long cancelled jobs may take to be over: Slurm's ``KillWait``, and the time to ship what was recorded."""
LOOK_S = 1.0
SUBMITTING_S = 30.0
"""How long sbatch may take: jobs of a driver that was killed meanwhile may still appear."""


@dataclass(frozen=True, slots=True)
class Submission:
    """Tasks that were submitted together. Written before they are, so that a driver may be killed at any time.

    Attributes:
        path: of the note.
        name: of the jobs; no other submission has it.
        tasks: the ids of the trials of each task.
        submitted_ms: Unix time.
        job_id: of the job, or of the array; empty until Slurm has said so.
    """

    path: Path
    name: str
    tasks: Sequence[Sequence[str]]
    submitted_ms: int
    job_id: str = ""

    @classmethod
    def create(cls, path: Path, name: str, tasks: Sequence[Sequence[str]]) -> Self:
        """Note what is about to be submitted."""
        submission = cls(path, name, tasks, now_ms())
        submission._write()
        return submission

    @classmethod
    def find(cls, sweep_folder: Path) -> list[Self]:
        """Every submission of a sweep whose tasks may not be over."""
        found = []
        for path in sorted((sweep_folder / FOLDER).glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                found.append(cls(path, **json.loads(path.read_text())))
        return found

    def with_job(self, job_id: str) -> Self:
        """The same, when Slurm has named the job."""
        named = replace(self, job_id=job_id)
        named._write()
        return named

    def job_of(self, index: int) -> str:
        """The id of the job of one task."""
        return f"{self.job_id}_{index}" if len(self.tasks) > 1 else self.job_id

    def found_in(self, queue: SlurmQueue) -> Self:
        """The same with its job, where a driver was killed before it could note that."""
        if self.job_id:
            return self
        for job_id, job in (queue.jobs() or {}).items():
            if job.name == self.name:
                return self.with_job(job_id.partition("_")[0])
        return self

    def is_over(self, index: int, queue: SlurmQueue) -> bool:
        """Whether no process of a task is left, and none will be."""
        if self.job_id:
            return queue.is_over(self.job_of(index))
        return queue.jobs() is not None and now_ms() - self.submitted_ms > SUBMITTING_S * 1000

    def forget(self) -> None:
        """All of it is over."""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        note = {key: value for key, value in asdict(self).items() if key != "path"}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(note))
        new.replace(self.path)


class Backlog:
    """The trials of a sweep that wait in Slurm's queue, or are trained, whoever has submitted them.

    Args:
        sweep_folder: where the notes are.
    """

    def __init__(self, sweep_folder: Path) -> None:
        self._sweep_folder = sweep_folder
        self._queue = SlurmQueue()
        self._shown: set[str] = set()

    def jobs(self) -> dict[str, str]:
        """The job of each trial that is not over, by the id of the trial.

        To be asked before the store is: a trial that leaves the backlog meanwhile has a run by then.

        Raises:
            ConfigError: there are some, and no Slurm to ask.
        """
        found: dict[str, str] = {}
        for noted in Submission.find(self._sweep_folder):
            if not self._queue.is_here():
                raise ConfigError(
                    f"a sweep with jobs on Slurm ({noted.name}) must go on where Slurm can be asked for them, but "
                    f"there is no `squeue` here. Go to a machine that has it; or, if they are over, remove "
                    f"{noted.path}."
                )
            submission = noted.found_in(self._queue)
            left = [index for index in range(len(submission.tasks)) if not submission.is_over(index, self._queue)]
            found |= {trial: submission.job_of(index) for index in left for trial in submission.tasks[index]}
            if not left:
                submission.forget()
            elif submission.name not in self._shown:
                self._shown.add(submission.name)
                n_trials = sum(len(submission.tasks[index]) for index in left)
                print(  # noqa: T201 - a command
                    f"{n_trials} trials are in {len(left)} jobs of Slurm already, called {submission.name}: waiting.",
                    file=sys.stderr,
                    flush=True,
                )
        return found

    def interrupted(self, interruption: BaseException, on_interrupt: str) -> None:
        """A signal has ended the driver: cancel every job of the sweep and wait until it is over, or let them go on.

        Raises:
            Detached: they go on.
        """
        names = [submission.name for submission in Submission.find(self._sweep_folder)]
        if not names:
            return
        if on_interrupt == DETACH:
            print(  # noqa: T201 - the end of a command
                f"lrtape: {str(interruption) or 'interrupted'}; the jobs of this sweep go on.\n"
                f"To look:   squeue --name={','.join(names)}\n"
                f"To stop:   scancel {' '.join(f'--name={name}' for name in names)}\n"
                f"To go on:  {typed_command()}\n"
                "           waits for them, and trains what is left",
                file=sys.stderr,
                flush=True,
            )
            raise Detached(getattr(interruption, "number", signal.SIGINT)) from interruption
        print("lrtape: cancelling the jobs of this sweep.", file=sys.stderr, flush=True)  # noqa: T201 - a command
        deadline = time.monotonic() + CANCEL_S
        self._shown.update(names)
        for name in names:
            self._queue.cancel(name)
        while self.jobs() and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def is_over(self, job_id: str) -> bool | None:
        """Whether no process of a job is left; ``None`` where nobody can say."""
        return self._queue.is_over(job_id) if self._queue.is_here() else None
