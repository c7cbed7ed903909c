"""The processes that train one model together, as ``torchrun`` starts them; mostly it is one.

Every method of a `World` that talks to the others is called by all of them, in the same order. Rank 0 decides, writes
and prints.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrtape.app.config import sentence
from lrtape.app.exit_codes import exit_code_of
from lrtape.app.interrupts import SIGNALS, Interrupted, Interrupts
from lrtape.errors import ConfigError, LRTapeError, RankFailedError, RankKilledError
from lrtape.ranks import ALONE, Board, Ranks, these_ranks

NOTE_DELAY_S = 3.0
"""How long to wait for the last word of a rank on another machine that is gone: it is sent before its process ends."""
CLOSING_S = 90.0
"""How long the other ranks wait for rank 0, which stores what is left; ``torchrun`` waits 30 s after a signal."""
POLL_S = 0.05
_CRASH, _OVER = "crash", "over"

T = TypeVar("T")


class World:
    """One process alone, which has nobody to ask.

    Attributes:
        ranks: which process this is.
    """

    ranks: Ranks = ALONE

    def __init__(self) -> None:
        self._interrupts: Interrupts | None = None

    def listen(self, interrupts: Interrupts) -> None:
        """Hear the signals that this process gets."""
        self._interrupts = interrupts

    @property
    def heard(self) -> int | None:
        """The number of the signal that is to end the training; on all ranks the same at the same step."""
        return None if self._interrupts is None else self._interrupts.requested

    def check(self) -> None:
        """Called where the training can stop.

        Raises:
            Interrupted: there was a signal.
        """
        if self.heard is not None:
            raise Interrupted(self.heard)

    def agree(self, act: Callable[[], T]) -> T:
        """Do something that may fail: where it does on one rank, it does on all.

        Raises:
            Exception: what `act` has raised here.
            RankFailedError: it has raised on another rank only.
        """
        return act()

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of a scalar over the ranks."""
        return loss

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over the ranks."""
        return list(values)

    def gather(self, value: T) -> list[T]:
        """What every rank has, by rank."""
        return [value]

    def wrap(self, model: nn.Module) -> nn.Module:
        """What computes the outputs of `model`, and the gradients over all ranks with them."""
        return model

    def accumulating(
        self,
        wrapped: nn.Module,  # noqa: ARG002
        is_last: bool,  # noqa: ARG002
    ) -> contextlib.AbstractContextManager[Any]:
        """The gradients within the block need not be reduced yet, unless they are the last ones of a step."""
        return contextlib.nullcontext()

    def align(self, model: nn.Module) -> None:
        """Take over from rank 0 what each rank has counted for itself, as running means."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What goes wrong on one rank within the block, ends all of them.

        Raises:
            RankFailedError: another rank has failed.
        """
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def open_world(device: str) -> World:
    """Meet the other processes of this training, if there are any.

    Args:
        device: as ``trainer.device`` has it.

    Raises:
        ConfigError: they cannot be met.
    """
    ranks = these_ranks()
    return World() if ranks.n_ranks == 1 else _Several(ranks, device)


class _Several(World):
    """Several processes, in torch's default process group."""

    def __init__(self, ranks: Ranks, device: str) -> None:
        super().__init__()
        uses_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self._is_ours = not distributed.is_initialized()
        try:
            if self._is_ours:
                # What is said here is short, and goes by gloo; gradients of a GPU by nccl.
                distributed.init_process_group("cpu:gloo,cuda:nccl" if uses_cuda else "gloo")
        except Exception as error:
            raise ConfigError(
                f"RANK={ranks.rank} and WORLD_SIZE={ranks.n_ranks} in the environment must be those of processes that "
                f"torchrun has started, but they cannot meet: {error}. Use torchrun, or unset both."
            ) from error
        self.ranks = these_ranks()
        board = Board.find("app")
        assert board is not None  # noqa: S101 - there is a process group
        self._board = board
        self._heard: int | None = None
        self._is_broken = False
        self._pids: list[tuple[str, int]] = []
        self._pids = self.gather((socket.gethostname(), os.getpid()))

    @property
    def heard(self) -> int | None:
        """See `World.heard`."""
        return self._heard

    def agree(self, act: Callable[[], T]) -> T:
        """See `World.agree`."""
        mine: Exception | None = None
        try:
            result = act()
        except Exception as error:  # noqa: BLE001 - it is raised below
            mine = error
        said = self.gather(None if mine is None else (sentence(mine), exit_code_of(mine)))
        rank, failure = next(((rank, one) for rank, one in enumerate(said) if one is not None), (0, None))
        if failure is None:
            return result
        if mine is not None and rank == self.ranks.rank:
            raise mine
        text, code = failure
        raise RankFailedError(f"rank {rank}: {text}", code) from mine

    def mean(self, loss: Tensor) -> Tensor:
        """See `World.mean`."""
        return torch.tensor(self.total([loss.item()])[0] / self.ranks.n_ranks, dtype=torch.float64)

    def total(self, values: Sequence[float]) -> list[float]:
        """See `World.total`. The signals that came meanwhile go along."""
        requested = None if self._interrupts is None else self._interrupts.requested
        sums = torch.tensor([*values, *(float(requested == number) for number in SIGNALS)], dtype=torch.float64)
        distributed.all_reduce(sums)
        numbers: list[float] = sums.tolist()
        for number, count in zip(SIGNALS, numbers[len(values) :], strict=True):
            if count and self._heard is None:
                self._heard = number
        return numbers[: len(values)]

    def gather(self, value: T) -> list[T]:
        """See `World.gather`."""
        values: list[Any] = [None] * self.ranks.n_ranks
        with self.watching():
            distributed.all_gather_object(values, value)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """See `World.wrap`."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        return DistributedDataParallel(model, find_unused_parameters=True)

    def accumulating(self, wrapped: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """See `World.accumulating`."""
        if is_last or not isinstance(wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return wrapped.no_sync()

    def align(self, model: nn.Module) -> None:
        """See `World.align`."""
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See `World.watching`."""
        try:
            yield
        except LRTapeError:
            raise  # All ranks have seen it.
        except Exception as error:
            if self._is_broken:
                raise
            self._is_broken = True
            if self._interrupts is not None:
                # torchrun ends the ranks that are left with SIGTERM, which is nobody's wish to stop.
                self._interrupts.ignore()
            failure = self._failure_elsewhere(error)
            if failure is not None:
                raise failure from error
            error.add_note(f"rank {self.ranks.rank} of {self.ranks.n_ranks}")
            raise

    def _failure_elsewhere(self, error: Exception) -> Exception | None:
        """What has happened to another rank, if it is to blame; else a note is left that this one is."""
        is_lost = _is_of_connection(error)
        deadline = time.monotonic() + (NOTE_DELAY_S if is_lost else 0.0)
        while True:
            killed = self._dead_ranks() if is_lost else ()  # What one of them had to say, it has said by now.
            with contextlib.suppress(Exception):  # The board may be gone with its rank.
                note = self._board.read(_CRASH)
                if note is None and not is_lost:
                    text = f"rank {self.ranks.rank} failed: {type(error).__name__}: {error}"
                    self._board.put(_CRASH, text.encode())
                    self._board.read(_CRASH)  # It has arrived.
                    return None
                if note is not None:
                    return RankFailedError(note.decode())
            if not is_lost:
                return None
            if killed:
                return RankKilledError(" and ".join(f"rank {rank} was killed" for rank in killed), killed)
            if time.monotonic() >= deadline:
                return RankKilledError(f"another rank was lost: {error}")
            time.sleep(POLL_S)

    def _dead_ranks(self) -> tuple[int, ...]:
        """On this machine; of others nothing is known."""
        here = socket.gethostname()
        return tuple(rank for rank, (host, pid) in enumerate(self._pids) if host == here and _is_dead(pid))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # When the first process has ended, torchrun sends a signal to the others: each is to end as it means to.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(Exception):
            if self.ranks.records:
                self._board.put(_OVER, b"")
            elif error is not None and not self._is_broken:
                self._wait_for_first_rank()
        if self._is_ours and error is None:
            distributed.destroy_process_group()

    def _wait_for_first_rank(self) -> None:
        """Do not end before rank 0 has stored everything: torchrun would not leave it the time."""
        deadline = time.monotonic() + CLOSING_S
        while self._board.read(_OVER) is None and 0 not in self._dead_ranks() and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _is_of_connection(error: Exception) -> bool:
    """Whether a collective has failed, as another rank is gone: gloo raises a plain RuntimeError (torch 2.13)."""
    kinds = tuple(getattr(distributed, name) for name in ("DistError",) if hasattr(distributed, name))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _is_dead(pid: int) -> bool:
    """Whether a process of this machine is no more, or waits for its parent to take notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return True
    except OSError:
        pass
    else:
        return state in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
