"""Checkpoints: the states of a training, in a file that loads with ``weights_only=True``."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lrtape.app.bookmark import Bookmark
from lrtape.app.randomness import random_states
from lrtape.app.schedule import Length, Schedule, Scheduler
from lrtape.app.world import World
from lrtape.errors import ConfigError

FORMAT = 1
"""Of the file; another one cannot be resumed."""
RNG_OF_OTHERS = "rng_of_other_ranks"
"""The states of the random generators of rank 1 and those after it; not in a checkpoint of one process."""


@dataclass(slots=True)
class Place:
    """Where a training is. All indices are from 0.

    Attributes:
        epoch: index of the epoch that runs, or of the next one.
        next_step: index of the next optimizer step.
        first_step: of this epoch.
        losses: one for each window of batches that this epoch has done.
        order: the state from which the order of this epoch was, or will be, drawn; empty before the first one.
        lowest: the lowest loss of an epoch, for the best checkpoint.
        stalled: whether the epoch before made no step, as every one of them overflowed.
        used_lrs: of the last step, one for each param group.
    """

    epoch: int = 0
    next_step: int = 0
    first_step: int = 0
    losses: list[float] = field(default_factory=list)
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    lowest: float = math.inf
    stalled: bool = False
    used_lrs: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "Place":
        """Where the training was that wrote `checkpoint`."""
        return cls(**{attribute.name: checkpoint[attribute.name] for attribute in fields(cls)})


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of a training that have a state."""

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    scaler: GradScaler

    def states(self) -> dict[str, Any]:
        """Of each of them; the schedule's with the number of its calls."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.scheduler.state_dict(),
            "scheduler_calls": self.schedule.calls,
            "scaler": self.scaler.state_dict(),
        }


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Writes the checkpoints of one training.

    Attributes:
        folder: where they go; created with the first one.
        run_id: of the MLflow run; empty where nothing is tracked.
        config: of the training, plain and portable.
        length: of the training.
        bookmark: notes the newest one; ``None`` where nothing is tracked.
        world: the processes that train together, of which rank 0 writes.
    """

    folder: Path
    run_id: str
    parts: Parts
    config: dict[str, Any]
    length: Length
    bookmark: Bookmark | None = None
    world: World = field(default_factory=World)

    @property
    def last(self) -> Path:
        """The newest one."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The one with the lowest loss."""
        return self.folder / "best.pt"

    def save(self, path: Path, place: Place, next_lrs: Sequence[float]) -> None:
        """Write a checkpoint, in one piece: a reader finds the old one or the new one. Called on all ranks together.

        Args:
            path: `last` or `best`.
            place: where the training is.
            next_lrs: what the next step will use, one for each param group; empty where that is not known yet.
        """
        of_rank_0, *of_others = self.world.gather(random_states())
        if not self.world.ranks.records:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "format": FORMAT,
            "run_id": self.run_id,
            "config": self.config,
            "length": list(self.length),
            **asdict(place),
            "next_lrs": list(next_lrs),
            "rng": of_rank_0,
            **({RNG_OF_OTHERS: of_others} if of_others else {}),
            **self.parts.states(),
        }
        new = path.with_suffix(".new")
        torch.save(state, new)
        new.replace(path)
        if path == self.last and self.bookmark is not None:
            self.bookmark.put(path.absolute(), self.run_id)


_KEYS = {
    *("format", "run_id", "config", "length", "next_lrs", "rng"),
    *(attribute.name for attribute in fields(Place)),
    *("model", "optimizer", "scheduler", "scheduler_calls", "scaler"),
}


def refuse_unloadable(scheduler: Scheduler) -> None:
    """See, before the training, that what it is going to save can be loaded.

    Raises:
        ConfigError: the scheduler has a state that needs code of its own to be loaded.
    """
    file = io.BytesIO()
    try:
        torch.save(scheduler.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            "`scheduler` must have a state of plain values and tensors, which loads with weights_only=True, but "
            f"{type(scheduler).__name__}.state_dict() has not: {why} Leave the rest out of it."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU; nothing in it is executed.

    Raises:
        ConfigError: there is no such file, or it is no checkpoint of this version.
    """
    expected = f"`trainer.resume` must be the path of a checkpoint that lrtape wrote, or last, but {path}"
    how = "Name a last.pt or best.pt in the folder `checkpoints` of a training."
    if not path.is_file():
        raise ConfigError(f"{expected} {'is a folder' if path.is_dir() else 'does not exist'}. {how}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's text goes on with advice that leads astray here.
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{expected} cannot be read as one: {why} {how}") from error
    if not isinstance(checkpoint, dict) or "format" not in checkpoint:
        raise ConfigError(f"{expected} is another file: it has no `format`. {how}")
    if checkpoint["format"] != FORMAT:
        raise ConfigError(
            f"{expected} has format {checkpoint['format']!r}, and this version of lrtape reads {FORMAT}. Resume it "
            "with the version that wrote it."
        )
    if missing := _KEYS - set(checkpoint):
        raise ConfigError(f"{expected} lacks {', '.join(sorted(missing))}. {how}")
    return checkpoint
