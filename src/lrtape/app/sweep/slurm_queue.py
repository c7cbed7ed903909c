"""What Slurm says of this user's jobs."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

FRESH_S = 1.0
"""How old an answer of squeue may be; a job that is over stays over."""
ANSWER_S = 60.0
"""How long a command of Slurm's may take."""
CANCELLED = "CANCELLED"
_OVER = frozenset(
    {
        "BOOT_FAIL",
        CANCELLED,
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States that no job leaves: all jobs of lrtape are submitted with ``--no-requeue``."""


class Job(NamedTuple):
    """One job, or one task of an array.

    Attributes:
        name: which the whole array shares.
        state: as Slurm calls it.
    """

    name: str
    state: str

    @property
    def is_over(self) -> bool:
        """Whether no process of it is left."""
        return self.state in _OVER


class SlurmQueue:
    """Asks ``squeue``, and ``sacct`` where that does not answer. Used by the driver of a sweep alone."""

    def __init__(self) -> None:
        self._asked_s = -FRESH_S
        self._jobs: dict[str, Job] | None = None
        self._over: dict[str, str] = {}
        self._has_complained = False

    @staticmethod
    def is_here() -> bool:
        """Whether this machine can ask Slurm at all."""
        return shutil.which("squeue") is not None

    def jobs(self) -> Mapping[str, Job] | None:
        """What Slurm knows of this user's jobs, by id (``12``, or ``12_0`` in an array); ``None``: it does not answer.

        A job that is over is forgotten after a while, five minutes by default.
        """
        if time.monotonic() - self._asked_s >= FRESH_S:
            command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%j|%T"]
            text = self._ask(command)
            self._jobs = None if text is None else _jobs_of(text)
            self._asked_s = time.monotonic()
            self._over |= {job_id: job.state for job_id, job in (self._jobs or {}).items() if job.is_over}
        return self._jobs

    def is_over(self, job_id: str) -> bool:
        """Whether no process of a job is left. While nobody knows, it is not: nothing may be trained twice."""
        if job_id in self._over:
            return True
        jobs = self.jobs()
        if jobs is not None:
            return job_id not in jobs or jobs[job_id].is_over
        state = self._ask_accounting(job_id)
        if state in _OVER:
            self._over[job_id] = state
        return state in _OVER

    def last_state(self, job_id: str) -> str:
        """How a job has ended; empty where nobody knows any more."""
        return self._over.get(job_id) or self._ask_accounting(job_id)

    def cancel(self, name: str) -> None:
        """Ask every job of that name to end, and kill it after Slurm's ``KillWait``, 30 s by default."""
        self._ask(["scancel", f"--user={os.getuid()}", f"--name={name}"])

    def _ask_accounting(self, job_id: str) -> str:
        command = ["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job_id}", "--format=State"]
        words = (self._ask(command, complains=False) or "").split()  # "CANCELLED by 0"
        return words[0] if words else ""

    def _ask(self, command: Sequence[str], complains: bool = True) -> str | None:
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)  # noqa: S603
        except (OSError, subprocess.SubprocessError) as error:
            if complains and not self._has_complained:
                self._has_complained = True
                why = " ".join(str(getattr(error, "stderr", None) or error).split())
                print(f"lrtape: `{command[0]}` does not answer ({why}); asking again.", file=sys.stderr, flush=True)  # noqa: T201
            return None
        return asked.stdout


def _jobs_of(text: str) -> dict[str, Job]:
    jobs = {}
    for line in text.splitlines():
        job_id, _, rest = line.strip().partition("|")
        name, _, state = rest.rpartition("|")
        jobs[job_id] = Job(name, state)
    return jobs
