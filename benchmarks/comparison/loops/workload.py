"""The workload: about 1 ms a step on one thread, four named param groups, half a cosine stepped after every step."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset

from loops.notes import Notes

LRS = {"layer1": 0.01, "layer2": 0.02, "layer3": 0.03, "layer4": 0.04}
"""By group: each layer of the model is one."""
N_FEATURES, N_HIDDEN, N_CLASSES, BATCH_SIZE = 64, 256, 10, 64
N_BATCHES = 64
"""Different ones, which come again and again, always in this order."""

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Four layers, and marks where it computes.

    Args:
        notes: of the training.
        period_s: a step begins no sooner than this after the one before was due; 0 for as soon as it can.
    """

    def __init__(self, notes: Notes, period_s: float = 0.0) -> None:
        super().__init__()
        self.layer1 = nn.Linear(N_FEATURES, N_HIDDEN)
        self.layer2 = nn.Linear(N_HIDDEN, N_HIDDEN)
        self.layer3 = nn.Linear(N_HIDDEN, N_HIDDEN)
        self.layer4 = nn.Linear(N_HIDDEN, N_CLASSES)
        self._notes = notes
        self._period_s = period_s
        self._due = 0.0
        for parameter in self.layer1.parameters():  # the backward pass comes to them last
            parameter.register_post_accumulate_grad_hook(lambda _: notes.end_backward())  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of shape (batch, class)."""
        if self._period_s:
            self._wait()
        self._notes.begin_forward()
        hidden = self.layer1(inputs).relu()
        hidden = self.layer2(hidden).relu()
        hidden = self.layer3(hidden).relu()
        scores: Tensor = self.layer4(hidden)
        return scores

    def _wait(self) -> None:
        self._due = self._due or time.perf_counter()
        time.sleep(max(0.0, self._due - time.perf_counter()))
        self._due += self._period_s


class NotingSGD(Optimizer):
    """Plain SGD. Notes the lr of each group within the update, where it is used.

    A step of its own, as ``torch.optim.SGD`` in a subclass would fire its hooks twice.
    """

    def __init__(self, params: Any, notes: Notes, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})
        self._notes = notes

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update; returns what `closure` does, which Lightning trains in."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._notes.begin_update()
        used = []
        for group in self.param_groups:
            used.append(group["lr"])
            torch._foreach_add_(group["params"], [param.grad for param in group["params"]], alpha=-group["lr"])
        self._notes.end_update(used)
        return loss


class Samples(Dataset[Batch]):
    """Random samples, always the same ones.

    Args:
        n_batches: how many batches there are in an epoch.
        by_batch: whether an item is a batch, or one sample.
    """

    def __init__(self, n_batches: int, by_batch: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        n_samples = N_BATCHES * BATCH_SIZE
        inputs = torch.randn(n_samples, N_FEATURES, generator=generator)
        targets = torch.randint(N_CLASSES, (n_samples,), generator=generator)
        self._items: list[Batch] = list(
            zip(torch.split(inputs, BATCH_SIZE), torch.split(targets, BATCH_SIZE), strict=True)
            if by_batch
            else zip(inputs, targets, strict=True)
        )
        self._length = n_batches if by_batch else n_batches * BATCH_SIZE

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        if index >= self._length:
            raise IndexError(index)
        return self._items[index % len(self._items)]


@dataclass(frozen=True)
class Workload:
    """One training.

    Attributes:
        n_steps: optimizer steps: one epoch.
        notes: what it notes.
        uri: of the tracking store.
        experiment: in which its run belongs.
        period_s: see `Net`.
    """

    n_steps: int
    notes: Notes
    uri: str
    experiment: str
    period_s: float = 0.0

    def net(self) -> Net:
        """The model, always with the same weights."""
        torch.manual_seed(0)
        return Net(self.notes, self.period_s)

    def optimizer(self, net: Net) -> NotingSGD:
        """With a group for each layer."""
        groups = [{"params": net.get_submodule(name).parameters(), "lr": lr, "name": name} for name, lr in LRS.items()]
        return NotingSGD(groups, self.notes)

    def schedule(self, optimizer: Optimizer) -> CosineAnnealingLR:
        """To be stepped after every step."""
        return CosineAnnealingLR(optimizer, self.n_steps)

    def loader(self) -> DataLoader[Batch]:
        """The batches of the epoch."""
        return DataLoader(Samples(self.n_steps), batch_size=None)


class Loop(Protocol):
    """A way to train."""

    def train(self, workload: Workload, recorded: bool) -> None:
        """Train, and come back when a person's script would go on: with what is recorded stored, as far as it will be.

        Args:
            workload: what is trained.
            recorded: whether the learning rates of every step go into an MLflow run, or nothing does.
        """
