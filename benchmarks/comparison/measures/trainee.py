"""A process that trains as often as it is told to, watched from here."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loops.catalogue import Entry
from loops.notes import NotesReader, Step
from measures.rows import Rows
from rig.place import Place
from rig.store import Store

LOAD_S = 120.0
POLL_S = 0.002


class Training:
    """One training of a `Trainee`.

    Args:
        trainee: whose.
        notes: where it keeps its notes.
    """

    def __init__(self, trainee: "Trainee", notes: Path) -> None:
        self._trainee = trainee
        self._path = notes
        self._reader: NotesReader | None = None
        self._answer: dict[str, Any] | None = None

    @property
    def n_updates(self) -> int:
        """How many updates it has made."""
        self._reader = self._reader or NotesReader.when_there(self._path)
        return 0 if self._reader is None else self._reader.n_updates

    def steps(self) -> list[Step]:
        """What it has noted."""
        return [] if self.n_updates == 0 or self._reader is None else self._reader.steps()

    def wait_for_update(self, n_updates: int, deadline_s: float) -> bool:
        """Wait until it has made so many, or has ended; returns whether it has."""
        deadline = time.monotonic() + deadline_s
        while self.n_updates < n_updates and not self.is_over():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return self.n_updates >= n_updates

    def is_over(self) -> bool:
        """Whether it has come to an end, of whatever kind."""
        if self._answer is None and self._trainee.has_answered(0.0):
            self._answer = self._trainee.answer(0.0)
        return self._answer is not None

    def wait(self, deadline_s: float) -> str:
        """Wait for its end; returns what it died of, empty if it did not."""
        if self._answer is None:
            self._answer = self._trainee.answer(deadline_s)
        return str(self._answer["error"])


class Trainee:
    """A process with one framework in it. A context manager, which ends it.

    Args:
        place: where it runs, in a folder of its own.
        entry: the loop.
        store: where its runs end up.
        uri: how it reaches that.
    """

    def __init__(self, place: Place, entry: Entry, store: Store, uri: str) -> None:
        self.entry = entry
        self.folder = place.folder / f"{entry.name}-{len(list(place.folder.iterdir()))}"
        self.folder.mkdir()
        self._place = place
        self._n_trainings = 0
        self.rows = Rows(store.path, entry.name, entry.keys)
        self._said = b""
        with (self.folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loops.child", entry.name],
                cwd=self.folder,
                env=place.environment() | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": entry.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )

    def wait_until_loaded(self) -> None:
        """Wait until it has imported everything, and may be told to train.

        Raises:
            RuntimeError: it has not.
        """
        if error := self.answer(LOAD_S).get("error"):
            raise RuntimeError(f"{error}\n{self.complaints()}")

    def begin(self, n_steps: int, recorded: bool, period_s: float = 0.0) -> Training:
        """Let it train, and come back at once; see `Workload` for the arguments."""
        self._n_trainings += 1
        notes = self.folder / f"notes-{self._n_trainings}"
        order = {"n_steps": n_steps, "recorded": recorded, "period_s": period_s, "notes": str(notes)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return Training(self, notes)

    def has_answered(self, deadline_s: float) -> bool:
        """Whether a line is there, or the process has ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], deadline_s)[0])

    def answer(self, deadline_s: float) -> dict[str, Any]:
        """The next one; ``error`` says how the process has died, or that none came."""
        assert self._process.stdout is not None
        if not self.has_answered(deadline_s):
            return {"error": f"no end within {deadline_s:.0f} s"}
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        return {"error": f"the process has ended with {self._process.wait()}"}

    def kill(self) -> None:
        """SIGKILL for the training process alone."""
        self._process.kill()
        self._process.wait()

    def wait_until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait until something holds; returns whether it does."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def left(self) -> list[int]:
        """The processes that are left of it: a shipper, say."""
        return self._place.processes_in(self.folder)

    def complaints(self) -> str:
        """The end of what it has written to stderr."""
        return (self.folder / "stderr").read_text(errors="replace")[-2000:]

    def __enter__(self) -> "Trainee":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
