"""The batches that a training and its validation are made of."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrtape.app.config import TrainerSettings
from lrtape.app.interrupts import ignore_interrupts, starting_workers

Batch = tuple[Tensor, Tensor]


class _Batches(DataLoader[Batch]):
    """A DataLoader whose workers outlive the signals that are sent to all processes of a training."""

    def __iter__(self) -> Any:
        with starting_workers():
            return super().__iter__()


def load_batches(
    dataset: Any, settings: TrainerSettings, device: torch.device, shuffle: torch.Generator | None = None
) -> DataLoader[Batch]:
    """Batches in the order of the data set, or in one that `shuffle` draws for each epoch."""
    return _Batches(
        dataset,
        settings.batch_size,
        shuffle=shuffle is not None,
        generator=shuffle,
        num_workers=settings.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_interrupts,
    )


class Windows:
    """The batches of an epoch in random order, as many together as make one optimizer step; the last may be smaller.

    Args:
        dataset: a sized one.
        settings: of the training.
        device: where the batches go.
        seed: of the order.
    """

    def __init__(self, dataset: Any, settings: TrainerSettings, device: torch.device, seed: int) -> None:
        self._shuffle = torch.Generator().manual_seed(seed)
        self._batches = load_batches(dataset, settings, device, self._shuffle)
        self._n_batches = settings.accumulate_grad_batches

    def __len__(self) -> int:
        """How many there are in an epoch."""
        return math.ceil(len(self._batches) / self._n_batches)

    def order(self) -> Tensor:
        """The state from which the order of the next epoch is drawn."""
        return self._shuffle.get_state()

    def begin(self, order: Tensor, n_done: int = 0) -> Iterator[list[Batch]]:
        """Begin an epoch.

        Args:
            order: what `order` returned before this epoch.
            n_done: how many windows to leave out, as they were done before. Their data are loaded before this returns,
                for an augmentation may draw random numbers.
        """
        self._shuffle.set_state(order)
        batches = iter(self._batches)
        for _ in islice(batches, n_done * self._n_batches):
            pass
        return self._rest(batches)

    def _rest(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        while window := list(islice(batches, self._n_batches)):
            yield window
