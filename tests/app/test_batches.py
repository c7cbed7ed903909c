"""The workers that load batches."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch.utils.data import TensorDataset

from lrtape.app.batches import load_batches
from lrtape.app.config import check

N_EPOCHS = 8


def children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_worker_outlives_a_signal_that_meets_it_as_it_starts(
    compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """A terminal and Slurm signal every process of a job, also a worker that has had no time to ignore anything."""
    dataset = TensorDataset(torch.arange(4.0), torch.arange(4.0))
    settings = check(compose("trainer.batch_size=2", "trainer.num_workers=2"), tmp_path)
    batches = load_batches(dataset, settings.trainer, torch.device("cpu"))
    before = children()
    over = threading.Event()
    signalled: set[int] = set()

    def signal_all() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # a worker that is over already
                for child in children() - before - signalled:
                    signalled.add(child)
                    os.kill(child, signal.SIGTERM)

    thread = threading.Thread(target=signal_all)
    thread.start()
    try:
        seen = [len(list(batches)) for _ in range(N_EPOCHS)]
    finally:
        over.set()
        thread.join()

    assert seen == [2] * N_EPOCHS
    assert signalled
