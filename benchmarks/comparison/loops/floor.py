"""The least that a loop can do to keep its learning rates."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from loops.bare import AfterStep, BareLoop

_RECORD = struct.Struct("<2q4d")


@contextmanager
def _written(optimizer: Optimizer) -> Iterator[AfterStep]:
    file = os.open("floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(step: int) -> None:
        os.write(file, _RECORD.pack(step, 0, *[group["lr"] for group in optimizer.param_groups]))

    yield write
    os.close(file)


def floor() -> BareLoop:
    """Reading the lrs, and one write."""
    return BareLoop(_written)
