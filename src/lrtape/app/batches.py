"""The batches that a training and its validation are made of."""

import math
import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, Subset

from lrtape.app.config import TrainerSettings
from lrtape.app.interrupts import ignore_interrupts, starting_workers
from lrtape.ranks import ALONE, Ranks

Batch = tuple[Tensor, Tensor]

_SEED_STRIDE = 0x9E3779B1
"""Odd and large: seeds of neighbouring workers are neighbours, too."""


class _Batches(DataLoader[Batch]):
    """A DataLoader whose workers outlive the signals that are sent to all processes of a training."""

    def __iter__(self) -> Any:
        with starting_workers():
            return super().__iter__()


class _Shares(Sampler[list[int]]):
    """Of each batch of all ranks together, the share of one of them.

    Where a batch has fewer samples than there are ranks, a rank that gets none takes the first one once more, which
    does not count: it has to take part.
    """

    def __init__(self, batches: Sampler[list[int]], ranks: Ranks) -> None:
        self._batches = batches
        self._ranks = ranks

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch[self._ranks.rank :: self._ranks.n_ranks] or batch[:1]

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # a BatchSampler is sized


def load_batches(
    dataset: Any,
    settings: TrainerSettings,
    device: torch.device,
    shuffle: torch.Generator | None = None,
    ranks: Ranks = ALONE,
) -> DataLoader[Batch]:
    """Batches in the order of the data set, or in one that `shuffle` draws for each epoch: one rank's share of them."""
    order: Sampler[int]
    order = SequentialSampler(dataset) if shuffle is None else RandomSampler(dataset, generator=shuffle)
    return _Batches(
        dataset,
        batch_sampler=_Shares(BatchSampler(order, settings.batch_size * ranks.n_ranks, drop_last=False), ranks),
        generator=shuffle,
        num_workers=settings.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=partial(_begin_worker, ranks.rank),
    )


def _begin_worker(rank: int, worker_id: int) -> None:
    ignore_interrupts(worker_id)
    if rank:  # The order is the same on all ranks, and with it the seed that torch has given to this worker.
        seed = (torch.initial_seed() + rank * _SEED_STRIDE) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class Window(NamedTuple):
    """What makes one optimizer step.

    Attributes:
        batches: at least one.
        weights: of the mean loss of each batch. Their products add up to the mean over all samples of the window; on
            several ranks it is the mean over the ranks of these sums that does.
    """

    batches: list[Batch]
    weights: list[float]


class Windows:
    """The batches of an epoch in random order, as many together as make one optimizer step; the last may be smaller.

    The order is the same on all ranks, and each has its share of every batch: ``batch_size`` samples.

    Args:
        dataset: a sized one.
        settings: of the training.
        device: where the batches go.
        seed: of the order.
        ranks: of the training.
    """

    def __init__(
        self, dataset: Any, settings: TrainerSettings, device: torch.device, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self._shuffle = torch.Generator().manual_seed(seed)
        self._batches = load_batches(dataset, settings, device, self._shuffle, ranks)
        self._n_batches = settings.accumulate_grad_batches
        self._ranks = ranks
        n_samples, n_together = len(dataset), settings.batch_size * ranks.n_ranks
        self._sizes = [min(n_together, n_samples - first) for first in range(0, n_samples, n_together)]
        """Of the batches of all ranks together."""

    def __len__(self) -> int:
        """How many there are in an epoch."""
        return math.ceil(len(self._batches) / self._n_batches)

    def order(self) -> Tensor:
        """The state from which the order of the next epoch is drawn."""
        return self._shuffle.get_state()

    def begin(self, order: Tensor, n_done: int = 0) -> Iterator[Window]:
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
        return self._rest(batches, self._sizes[n_done * self._n_batches :])

    def _rest(self, batches: Iterator[Batch], sizes: Sequence[int]) -> Iterator[Window]:
        first = 0
        while window := list(islice(batches, self._n_batches)):
            of_window = sizes[first : first + len(window)]
            yield Window(window, [self._weight(size, sum(of_window)) for size in of_window])
            first += len(window)

    def _weight(self, size: int, n_samples: int) -> float:
        """Of this rank's share of a batch of `size` samples, in a window of `n_samples`."""
        n_mine = len(range(self._ranks.rank, size, self._ranks.n_ranks))
        return n_mine / n_samples * self._ranks.n_ranks


def share_of(dataset: Any, ranks: Ranks) -> Any:
    """Every n-th sample of a data set, for one of n ranks; it may be none."""
    return dataset if ranks.n_ranks == 1 else Subset(dataset, range(ranks.rank, len(dataset), ranks.n_ranks))
