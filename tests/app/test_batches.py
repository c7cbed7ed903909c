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
from torch.utils.data import Dataset, TensorDataset

from lrtape.app.batches import load_batches
from lrtape.app.config import check
from lrtape.ranks import Ranks

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


class Drawn(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Its samples are random numbers, as those of an augmentation."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(()), torch.rand(())


def test_workers_of_two_ranks_draw_different_numbers(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    """The order of the samples is the same on all ranks, and with it the seed of the workers; not what they draw."""
    settings = check(compose("trainer.batch_size=2", "trainer.num_workers=1"), tmp_path)

    def drawn(*ranks: int) -> list[float]:
        shuffle = torch.Generator().manual_seed(1)
        batches = load_batches(Drawn(), settings.trainer, torch.device("cpu"), shuffle, Ranks(*ranks))
        return [number for inputs, _ in batches for number in inputs.tolist()]

    assert drawn(0, 2) == drawn(0, 2)
    assert drawn(1, 2) == drawn(1, 2)
    assert not set(drawn(0, 2)) & set(drawn(1, 2))
