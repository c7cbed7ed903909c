"""What Ctrl-C and SIGTERM mean for a training: finish the step, write a checkpoint, ship, end. A second one: end now.

The library installs no signal handlers; the app does, for as long as it trains.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the training.

    Args:
        number: of the signal.

    Attributes:
        checkpoint: where the training can go on from; ``None`` if the signal came outside of the loop.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.checkpoint: Path | None = None

    @property
    def exit_code(self) -> int:
        """What shells say of a command that a signal has ended."""
        return 128 + self.number


class Detached(Interrupted):
    """A signal has ended the driver of a sweep; its trainings go on elsewhere."""


class Interrupts:
    """Listens for signals; a context manager. Outside of the main thread, which alone may do so, it hears none.

    The first signal raises `Interrupted`, at once or, within `held`, when `check` is called. A second one ends the
    process where it stands: what was recorded is in the spool, and the shipper process does the rest.

    A signal that is ignored when the training begins, as Ctrl-C is in a background job, stays ignored.

    Args:
        repeats_within_s: a second signal that comes so soon is the same one: to every process of a job that torchrun
            has started, it passes on what they have got themselves.

    Attributes:
        requested: the number of the first signal, or ``None``.
    """

    def __init__(self, repeats_within_s: float = 0.0) -> None:
        self.requested: int | None = None
        self._repeats_within_s = repeats_within_s
        self._first_s = 0.0
        self._is_held = False
        self._is_ignored = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a signal back within the block, until `check` is called. One that comes after the last call waits for
        the end of the training.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def check(self) -> None:
        """Called where the training can stop.

        Raises:
            Interrupted: there was a signal.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested is not None:
            if time.monotonic() - self._first_s < self._repeats_within_s:
                return
            name = signal.Signals(number).name
            # print() could meet itself here.
            os.write(2, f"lrtape: {name} again: stopped at once; what was recorded is safe in the spool.\n".encode())
            os._exit(128 + number)
        self.requested = number
        self._first_s = time.monotonic()
        if not self._is_held and not self._is_ignored:
            raise Interrupted(number)

    def ignore(self) -> None:
        """From now on a first signal changes nothing: the training has failed, and is about to end anyway."""
        self._is_ignored = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before is not None and before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if (
            error is None or kind is KeyboardInterrupt
        ) and not self._is_ignored:  # Ray makes one of whatever a handler raises
            self.check()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Hold signals back from the processes that are started within the block, until they call `ignore_interrupts`.

    A terminal or Slurm sends a signal to every process of a job; a worker that it meets before it can ignore anything
    would die, and take the training with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts(worker_id: int) -> None:  # noqa: ARG001 - what a DataLoader calls in its workers
    """Leave signals to the main process, also those that were held back; see `starting_workers`."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
