"""A training in a process of its own, and the shipper beside it: watched, and killed where that is asked for."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from rig.place import DEADLINE_S, LRTAPE, TRAIN_PY, Place
from rig.store import Store
from rig.truth import Truth, steps_in

FINE_POLL_S = 0.001
LAST = "last"
"""Where the app notes, for a resume, which training was the last one."""

_RUN = re.compile(r"^run (\w+)$", re.MULTILINE)
_RUN_OF_THE_APP = re.compile(r"/runs/(\w{32})")
_LAST_EPOCH = re.compile(r"^epoch +3/3 .*(train/loss .*)$", re.MULTILINE)
_RESULT = re.compile(r"^result (\S+)$", re.MULTILINE)
_WARNING = re.compile(r"^(?:.*Warning: )?(lrtape: .*)$", re.MULTILINE)
_RESCUE = re.compile(r"run: (lrtape recover .*)$", re.MULTILINE)


class Training(ABC):
    """A training in a process of its own. Its folder is its own, too, and its current one.

    Args:
        place: where it runs.
        name: of its folder there.
        store: where its run ends up.
        root: of its spools; by default ``.lrtape`` in its folder.
    """

    def __init__(self, place: Place, name: str, store: Store, root: Path | None = None) -> None:
        self.place = place
        self.name = name
        self.store = store
        self.folder = place.folder / name
        self.folder.mkdir()
        self.root = root or self.folder / ".lrtape"
        self._said = self.folder / "said"
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, command: Sequence[str | Path]) -> None:
        self._process = self.place.start(command, self._said, self.folder)

    @property
    @abstractmethod
    def run_id(self) -> str:
        """Of its run; empty if there is none."""

    @property
    @abstractmethod
    def truth(self) -> Truth:
        """What it has used, from another source than lrtape."""

    @property
    @abstractmethod
    def result(self) -> str:
        """What it came to, bit for bit; empty if it did not get that far."""

    @property
    def out(self) -> str:
        """What it has said."""
        return self._said.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        """What it has complained about."""
        return self._said.with_suffix(".err").read_text()

    @property
    def warnings(self) -> list[str]:
        """What lrtape has warned about."""
        return _WARNING.findall(self.err)

    @property
    def rescue(self) -> str:
        """The command that it was told to run; empty if there was none."""
        found = _RESCUE.findall(self.err)
        return found[-1].strip() if found else ""

    @property
    def spools(self) -> list[Path]:
        """What is left of its spools."""
        return [folder for folder in self.root.glob("*") if folder.name != LAST]

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._the_process().poll() is not None

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end, and return its exit code.

        Raises:
            TimeoutError: it has not ended by then.
        """
        self.place.wait_until(lambda: self.is_over, f"{self.name} ends", deadline_s)
        return self._the_process().wait()

    def kill(self) -> int:
        """SIGKILL; returns the exit code, which is another one where it was too late for that."""
        self._the_process().kill()
        return self._the_process().wait()

    def shippers(self) -> list[int]:
        """The ids of its shipper processes: one, or none."""
        return [pid for pid in self.place.processes_in(self.folder) if b"lrtape.companion" in _command(pid)]

    @staticmethod
    def kill_shippers(pids: Iterable[int]) -> int:
        """SIGKILL for these shippers; returns how many of them were still there."""
        n_killed = 0
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                n_killed += 1
        return n_killed

    def wait_for_shippers(self) -> None:
        """Wait until none works any more."""
        self.place.wait_until(lambda: not self.shippers(), f"the shipper of {self.name} has ended")

    def recover(self) -> list[str]:
        """``lrtape recover``, in the training's folder; returns what it said if it failed."""
        return self._shell("lrtape recover" if self.root.parent == self.folder else f"lrtape recover '{self.root}'")

    def follow_advice(self) -> list[str]:
        """Do exactly what the last warning said; returns what is wrong with it."""
        return self._shell(self.rescue) if self.rescue else [f"no command to rescue it is named: {self.err}"]

    def _shell(self, command: str) -> list[str]:
        done = self.place.shell(command, self.folder)
        return [f"`{command}` ends with {done.returncode}: {done.stdout}{done.stderr}"] if done.returncode else []

    def _the_process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process


class LoopTraining(Training):
    """By ``loop.py``: a plain loop with one line of lrtape's, of about 1 ms a step.

    Args:
        place: where it runs.
        name: of its folder there.
        store: where its run ends up.
        n_steps: how many optimizer steps.
        options: of ``loop.py``.
        pauses: the steps before which it waits until it may `go_on`.
        root: of its spools; by default ``.lrtape`` in its folder.
        uri: how it reaches the store; directly by default.
        prefix: a command that runs it.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        store: Store,
        n_steps: int,
        *options: str,
        pauses: Sequence[int] = (),
        root: Path | None = None,
        uri: str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__(place, name, store, root)
        self.n_steps = n_steps
        self._truth = self.folder / "truth"
        program = [*prefix, "env", f"MLFLOW_TRACKING_URI={uri or store.uri}", sys.executable, "-m", "rig.loop"]
        self._pauses_over = 0
        when = " ".join(map(str, pauses))
        self._start([*program, self._truth, str(n_steps), "--folder", self.root, "--pauses", when, *options])

    @property
    def run_id(self) -> str:
        """See `Training.run_id`; there when it has taken a step."""
        found = _RUN.findall(self.out)
        return found[0] if found else ""

    def wait_for_pause(self, at_work: bool = True) -> None:
        """Wait until it pauses, and, by default, until its shipper has sent something."""
        wait = self.place.wait_until
        wait(lambda: self.out.count("pausing") > self._pauses_over or self.is_over, f"{self.name} pauses")
        if at_work:
            made = "*/progress.json"
            wait(lambda: any(self.root.glob(made)) or self.is_over, f"the shipper of {self.name} has sent it")

    def go_on(self) -> None:
        """End its pause."""
        self._pauses_over += 1
        Path(f"{self._truth}.go").touch()

    @property
    def steps(self) -> int:
        """How many it has taken and noted."""
        return steps_in(self._truth)

    def has_noted(self, word: str) -> bool:
        """Whether it has said ``stopping``, at the end of its loop, or ``stopped``, when the recording has ended."""
        return word in self.out.split()

    def wait_for_step(self, step: int) -> None:
        """Wait until it has noted so many steps, or has ended."""
        self.place.wait_until(
            lambda: self.steps >= step or self.is_over, f"{self.name} takes step {step}", poll_s=FINE_POLL_S
        )

    def wait_for_note(self, word: str) -> None:
        """Wait until it `has_noted` something, or has ended."""
        self.place.wait_until(lambda: self.has_noted(word) or self.is_over, f"{self.name} is {word}")

    @property
    def truth(self) -> Truth:
        """See `Training.truth`. Where it was killed in its loop, it may have taken one more step than it noted."""
        return Truth.load(self._truth, one_more=not self.has_noted("stopping"))

    @property
    def result(self) -> str:
        """The loss of its last step."""
        found = _RESULT.findall(self.out)
        return found[0] if found else ""

    @property
    def step_times_ms(self) -> list[float]:
        """Milliseconds of each step; none if it did not get to its end."""
        file = Path(f"{self._truth}.times")
        times_ns = array("q", file.read_bytes() if file.exists() else b"")
        return [time_ns / 1e6 for time_ns in times_ns]


class AppTraining(Training):
    """``python train.py``, or ``lrtape train`` where the former is not at hand: steps of `StepLR`, one an epoch.

    Args:
        place: where it runs.
        name: of its folder there.
        store: where its run ends up.
        overrides: of its config.
        uri: how it reaches the store; directly by default.
    """

    N_EPOCHS = 3
    STEPS_PER_EPOCH = 23
    """1,437 digits to train on, 64 at a time."""
    LR = 0.01

    def __init__(self, place: Place, name: str, store: Store, *overrides: str, uri: str | None = None) -> None:
        super().__init__(place, name, store)
        program: list[str | Path] = [sys.executable, TRAIN_PY] if TRAIN_PY.exists() else [LRTAPE, "train"]
        schedule = ["scheduler=steplr", "scheduler.step_size=1", f"trainer.epochs={self.N_EPOCHS}"]
        schedule += [f"tracking.uri={uri or store.uri}"]
        self._start([*program, *schedule, "tracking.close_timeout_s=300", "tracking.log_model=off", *overrides])

    @property
    def run_id(self) -> str:
        """See `Training.run_id`; said at its end. Where its run was still to be created then: the only one there is."""
        found = _RUN_OF_THE_APP.findall(self.out) or self.store.run_ids()
        return found[-1] if found else ""

    @property
    def truth(self) -> Truth:
        """What torch's scheduler does by itself."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self.LR)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
        used = []
        for _ in range(self.N_EPOCHS):
            used += [float(optimizer.param_groups[0]["lr"])] * self.STEPS_PER_EPOCH
            optimizer.step()
            scheduler.step()
        return Truth({"lr/all": used})

    @property
    def result(self) -> str:
        """Its last line of losses."""
        found = _LAST_EPOCH.findall(self.out)
        return found[-1] if found else ""


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # It is gone.
