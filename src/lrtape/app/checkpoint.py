"""Checkpoints: the states of a training, in a file that loads with ``weights_only=True``."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lrtape.app.schedule import Scheduler


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Writes the checkpoints of one training.

    Attributes:
        folder: where they go; created with the first one.
        run_id: of the MLflow run; empty where nothing is tracked.
    """

    folder: Path
    run_id: str
    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    scaler: GradScaler

    @property
    def last(self) -> Path:
        """The newest one."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The one with the lowest loss."""
        return self.folder / "best.pt"

    def save(self, path: Path, next_epoch: int, next_step: int) -> None:
        """Write a checkpoint, in one piece: a reader finds the old one or the new one.

        Args:
            path: `last` or `best`.
            next_epoch: index of the epoch to go on with, from 0.
            next_step: index of the optimizer step to go on with, from 0.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "run_id": self.run_id,
            "next_epoch": next_epoch,
            "next_step": next_step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": _random_states(),
        }
        new = path.with_suffix(".new")
        torch.save(state, new)
        new.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU; nothing in it is executed."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def _random_states() -> dict[str, Any]:
    """Of the global generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
