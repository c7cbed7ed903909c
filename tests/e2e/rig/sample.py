"""Data for the trials of a sweep: quick or slow, and deadly where that is asked for."""

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from lrtape.app.data import Data, one_sample

DEADLY = 1
"""The kind that kills its process."""
STEPS_TO_LIVE = 3


@dataclass(frozen=True)
class Sample(Dataset[Any]):
    """One sample, which takes its time."""

    data: Data
    pause_s: float
    kind: int
    calls: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        time.sleep(self.pause_s)
        if not self.calls:
            print(  # noqa: T201 - read by tests
                f"trained with {torch.get_num_threads()} threads", flush=True
            )
        self.calls.append(index)
        if self.kind == DEADLY and len(self.calls) > STEPS_TO_LIVE:
            os.kill(os.getpid(), signal.SIGKILL)
        sample: tuple[Tensor, ...] = self.data.train[index]
        return sample


def sample(in_features: int = 10, out_features: int = 2, seed: int = 0, pause_s: float = 0.0, kind: int = 0) -> Data:
    """One random sample for regression; an epoch is a step of `pause_s`.

    Args:
        in_features: of the input.
        out_features: of the target.
        seed: of the sample.
        pause_s: how long a step takes.
        kind: `DEADLY` for a trial that kills its process after `STEPS_TO_LIVE`; any other number for one that does not.
    """
    data = one_sample(in_features, out_features, seed)
    return Data(Sample(data, pause_s, kind), None, functional.mse_loss)
