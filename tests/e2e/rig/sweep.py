"""A sweep in a process of its own, as a person starts it, and what the store has of it afterwards."""

import os
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rig.place import TRAIN_PY, Place
from rig.store import Server, Store

N_STEPS = 10
RUNNING = "RUNNING"


@dataclass(frozen=True)
class Run:
    """A run of a sweep.

    Attributes:
        id: of the run.
        status: as MLflow calls it.
        tags: all of it.
    """

    id: str
    status: str
    tags: dict[str, str]

    @property
    def name(self) -> str:
        """What people see."""
        return self.tags["mlflow.runName"]


class Sweep:
    """``python train.py -m experiment=steplr ...``: trials of ten steps.

    Args:
        place: where it runs.
        server: where its runs end up; or a store itself.
        name: of the experiment, and of the folder.
        overrides: what is swept, and how.
    """

    def __init__(self, place: Place, server: Server | Store, name: str, *overrides: str) -> None:
        self.folder = place.folder / name
        self.folder.mkdir(exist_ok=True)
        self._place = place
        self._store = server if isinstance(server, Store) else server.store
        self._name = name
        self._n_started = 0
        self._command: list[str | Path] = [
            "python",
            TRAIN_PY,
            "-m",
            "experiment=steplr",
            f"tracking.uri={server.uri}",
            f"tracking.experiment={name}",
            "tracking.log_model=off",
            *overrides,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, or go on with it."""
        self._n_started += 1
        self.process = self._place.start(self._command, self._said, self.folder)
        return self.process

    def run(self) -> int:
        """Start it and wait for its end; returns its exit code."""
        return self.start().wait()

    def interrupt(self, number: signal.Signals) -> int:
        """Send the driver a signal and wait for its end; returns its exit code."""
        assert self.process is not None
        if number == signal.SIGINT:  # as a terminal does: to all that it has started
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)
        return self.process.wait()

    @property
    def said(self) -> str:
        """What the driver that was started last has said."""
        return self._said.with_suffix(".out").read_text() + self._said.with_suffix(".err").read_text()

    @property
    def _said(self) -> Path:
        return self.folder / f"driver-{self._n_started}"

    @property
    def runs(self) -> list[Run]:
        """Every run of it, the parent too."""
        store = self._store
        return [Run(run_id, store.status(run_id), store.tags(run_id)) for run_id in store.run_ids_of(self._name)]

    @property
    def parents(self) -> list[Run]:
        """The runs of the sweep itself, of which there must be one."""
        return [run for run in self.runs if "lrtape.sweep" in run.tags]

    @property
    def children(self) -> list[Run]:
        """The runs of its trials."""
        (parent,) = self.parents
        return [run for run in self.runs if run.tags.get("mlflow.parentRunId") == parent.id]

    def statuses(self) -> Counter[str]:
        """How many runs have which status, of the trials."""
        return Counter(run.status for run in self.children)

    def wait_for(self, n: int, status: str) -> None:
        """Wait until so many trials have a status; the driver must go on meanwhile."""

        def has_come() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.said
            return bool(self.parents) and self.statuses()[status] >= n

        self._place.wait_until(has_come, f"{n} of {self._name} are {status}")

    def missing(self) -> list[str]:
        """What the store has not of a sweep whose trials must all be trained, each one once."""
        problems = [f"{run.name} is {run.status}" for run in self.runs if run.status != "FINISHED"]
        trials = Counter(run.tags.get("lrtape.trial") for run in self.children)
        problems += [f"{n} runs of trial {trial}" for trial, n in trials.items() if n != 1]
        problems += [f"{run.name} is no child" for run in self.runs if run not in [*self.parents, *self.children]]
        for run in self.children:
            stored = self._store.values(run.id)
            steps = sorted(step for _, step in stored)
            if steps != list(range(N_STEPS)) or any(len(values) != 1 for values in stored.values()):
                problems.append(f"{run.name} has steps {steps}")
        return problems
