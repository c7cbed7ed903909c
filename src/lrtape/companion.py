"""``python -m lrtape.companion PID``: the shipper process, which a `CompanionProcess` starts beside the training.

It ships one recording after another of the process with that number, and waits for the next one in between: what takes
two seconds, and what a short training would wait for, is to import MLflow. Before a recording it may create its run, so
that the training process need not import MLflow at all. It outlives Ctrl-C and the training process, and is done with a
recording when everything is stored and the run says how it ended.
"""

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lrtape.companion_words import (
    EXIT_AGAIN,
    IDLE_S,
    MAX_RECORDINGS,
    Answer,
    Recording,
    RunCreated,
    RunRefused,
    RunWanted,
    Settings,
)
from lrtape.errors import LRTapeError
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Status
from lrtape.tracking.uri import is_server, mask_credentials
from lrtape.training_process import TrainingProcess

if TYPE_CHECKING:
    from lrtape.delivery import Delivery
    from lrtape.tracking.mlflow_run import MlflowRun

_STDOUT, _STDERR = 1, 2

MAX_PROBLEM_CHARACTERS = 8000
_LONG_S = 1e6
"""For ever: the training prepares itself, or looks at its data."""
NICENESS = 10
"""From the first recording on: under contention this process gets about a tenth of what the trainer gets, which goes
first. Before, the trainer waits for it."""


def main() -> None:
    """Ship what is recorded, and say each time whether everything is stored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    answers = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)  # Whatever else is printed belongs into the log.
    trainer = TrainingProcess(int(sys.argv[1]))
    with contextlib.suppress(Exception):  # What is wrong is said when there is a log to say it in.
        _warm_up()
    serve(trainer, lambda answer: _say(answers, answer))
    os._exit(EXIT_AGAIN)  # at once: nobody shall take it for one that is there


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """A run that a training has asked for, ``None`` where it was refused, and the folder that says what it is."""

    folder: SpoolFolder
    run: "MlflowRun | None"

    def clear_away(self) -> None:
        """End the run and remove the folder, which may have got another name, unless another companion ships it."""
        from lrtape.tracking.kept import end_unrecorded  # late: see main()

        folders = [SpoolFolder(path) for path in self.folder.path.parent.glob(f"*-{self.folder.recording_id}")]
        if any(folder.spool.exists() for folder in folders):
            return
        if self.run is not None:
            self.run.finish(Status.KILLED)
        for folder in folders:
            # What cannot be stored now is left to `lrtape recover`, as is what that is at already.
            with contextlib.suppress(Exception), folder.claim():
                if self.run is not None:
                    end_unrecorded(folder, self.run, folder.recording_id)
                folder.remove()


def serve(trainer: TrainingProcess, say: Callable[[Answer | RunCreated | RunRefused], object]) -> None:
    """Do what a training process asks for, until nothing more comes, or `MAX_RECORDINGS` are shipped."""
    unrecorded: dict[str, _Unrecorded] = {}
    """By the id of the recording, which has not begun."""
    n_recordings = 0
    while n_recordings < MAX_RECORDINGS:
        is_waiting = any(one.run is not None for one in unrecorded.values())
        task = trainer.next_task(_LONG_S if is_waiting else IDLE_S)
        if task is None:
            break
        with _taking_over(task.settings) as folder:
            if isinstance(task, Recording):
                if not n_recordings:
                    os.nice(NICENESS)
                unrecorded.pop(folder.recording_id, None)
                n_recordings += 1
                delivery = _ship(task, folder, trainer)
                # No more than a pipe holds: nobody reads it before the training has ended.
                problem = delivery.problem[:MAX_PROBLEM_CHARACTERS]
                is_last = n_recordings == MAX_RECORDINGS
                say(Answer(delivery.is_complete, problem, is_last, tuple(sorted(delivery.views))))
            else:
                run, answer = _create_run(task, folder)
                unrecorded[folder.recording_id] = _Unrecorded(folder, run)
                say(answer)
    if trainer.is_gone:
        for one in unrecorded.values():
            one.clear_away()


def _say(answers: int, answer: Answer | RunCreated | RunRefused) -> None:
    with contextlib.suppress(BrokenPipeError):  # The trainer is dead, and nobody is curious.
        os.write(answers, msgspec.json.encode(answer) + b"\n")


def _warm_up() -> None:
    """Import what any recording needs; and, where it goes into a database, what takes MLflow as long again."""
    for module in ("lrtape.delivery", "lrtape.tracking.realize", "pyarrow.parquet"):
        importlib.import_module(module)
    if not is_server(os.environ.get("MLFLOW_TRACKING_URI", "")):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        importlib.import_module("sqlalchemy.orm").configure_mappers()


@contextlib.contextmanager
def _taking_over(settings: Settings) -> Iterator[SpoolFolder]:
    """Be where the training is, with its environment; what is printed goes into the folder's log."""
    _put(settings.environment)
    with contextlib.suppress(OSError):  # It is gone, and then nothing relative to it is meant.
        os.chdir(settings.cwd)
    folder = SpoolFolder(Path(os.fsdecode(settings.folder)))
    with _logging_into(folder):
        yield folder


def _create_run(wanted: RunWanted, folder: SpoolFolder) -> "tuple[MlflowRun | None, RunCreated | RunRefused]":
    try:
        from lrtape.tracking.realize import create  # late: see main()

        with _having(wanted.patience):
            run = create(folder, os.fsdecode(wanted.settings.tracking_uri))
    except LRTapeError as error:
        return None, RunRefused(type(error).__name__, str(error)[:MAX_PROBLEM_CHARACTERS])
    except Exception as error:  # noqa: BLE001 - the training process tries it itself, and says what is wrong
        text = mask_credentials(repr(error))[:MAX_PROBLEM_CHARACTERS]
        logging.error("cannot create a run: %s", text)
        return None, RunRefused("", text)
    return run, RunCreated(run.run_id, run.experiment_id)


@contextlib.contextmanager
def _having(environment: list[tuple[bytes, bytes | None]]) -> Iterator[None]:
    """With these in the environment, for a while."""
    before = [(name, os.environb.get(name)) for name, _ in environment]
    _put(environment)
    try:
        yield
    finally:
        _put(before)


def _put(environment: list[tuple[bytes, bytes | None]]) -> None:
    for name, text in environment:
        if text is None:
            os.environb.pop(name, None)
        else:
            os.environb[name] = text


def _ship(recording: Recording, folder: SpoolFolder, trainer: TrainingProcess) -> "Delivery":
    with folder.claim(), _forcing(folder.spool, recording.fsync_every_s):
        from lrtape.delivery import deliver  # late: see main()
        from lrtape.run_page.environment import environment
        from lrtape.shipper import GIVE_UP_S

        with contextlib.suppress(Exception):  # a full disk, or a strange package
            # Of what the training runs on, here, beside it: the spool may be shipped elsewhere.
            folder.environment.write_text(json.dumps(environment(), indent=2), encoding="utf-8")
        return deliver(folder, os.fsdecode(recording.settings.tracking_uri), trainer, GIVE_UP_S)


@contextlib.contextmanager
def _logging_into(folder: SpoolFolder) -> Iterator[None]:
    """Let what is printed go into the folder's log; if this fails, it stays there."""
    try:
        log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError:
        log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # What is important is said in other ways, too.
    before = os.dup(_STDERR)
    for stream in (_STDOUT, _STDERR):
        os.dup2(log, stream)
    os.close(log)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    yield
    sys.stdout.flush()
    for stream in (_STDOUT, _STDERR):
        os.dup2(before, stream)
    os.close(before)


@contextlib.contextmanager
def _forcing(spool: Path, every_s: float | None) -> Iterator[None]:
    """Force a spool to the disk now and then; here, so that the training need not wait for the disk."""
    if every_s is None:
        yield
        return
    is_over = threading.Event()
    thread = threading.Thread(target=_force, args=(spool, every_s, is_over), daemon=True)
    thread.start()
    yield
    is_over.set()


def _force(spool: Path, every_s: float, is_over: threading.Event) -> None:
    with spool.open("rb") as file:
        folder = os.open(spool.parent, os.O_RDONLY)
        os.fsync(folder)  # its name, too
        os.close(folder)
        while True:
            os.fsync(file.fileno())
            if is_over.wait(every_s):
                return


if __name__ == "__main__":
    main()
