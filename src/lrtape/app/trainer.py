"""The reference trainer: one plain loop, in which every optimizer step is recorded."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lrtape.app.build import Scheduler
from lrtape.app.checkpoint import Checkpoints
from lrtape.app.config import TrainerSettings
from lrtape.app.console import Console
from lrtape.app.data import Data
from lrtape.errors import ConfigError, TrainingDivergedError
from lrtape.session import Session

Batch = tuple[Tensor, Tensor]

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class Length(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: passes over the data, the last one perhaps cut short.
        steps: optimizer steps altogether.
    """

    epochs: int
    steps: int

    @classmethod
    def of(cls, data: Data, settings: TrainerSettings) -> "Length":
        """From the size of the data; ``max_steps`` decides where it is set, else ``epochs``."""
        n_batches = math.ceil(len(data.train) / settings.batch_size)  # type: ignore[arg-type]  # it is sized
        per_epoch = math.ceil(n_batches / settings.accumulate_grad_batches)
        if settings.max_steps is None:
            return cls(settings.epochs, settings.epochs * per_epoch)
        return cls(math.ceil(settings.max_steps / per_epoch), settings.max_steps)


def resolve_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "`trainer.device` must be a device of this machine, but is 'cuda', and torch finds no CUDA. Use "
            "`trainer.device=auto`, or install a CUDA build of torch."
        )
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


class Trainer:
    """Trains a model. `fit` reads from top to bottom.

    Args:
        model: on its device already.
        data: what to train on.
        optimizer: of the model's parameters.
        scheduler: of the optimizer.
        interval: when the scheduler is stepped, after each optimizer ``step`` or each ``epoch``.
        monitor: the metric that the scheduler is given, ``val/loss`` say, or ``None``.
        settings: everything else.
        device: where the batches go.
        seed: of the order of the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        optimizer: Optimizer,
        scheduler: Scheduler,
        interval: str,
        monitor: str | None,
        settings: TrainerSettings,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model = model
        self.data = data
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.monitor = monitor
        self.settings = settings
        self.device = device
        self.length = Length.of(data, settings)
        self.scaler = GradScaler(device.type, enabled=settings.precision == "16")
        self._train_batches = self._batches(data.train, torch.Generator().manual_seed(seed))
        self._val_batches = self._batches(data.val) if data.val is not None else None
        if monitor is not None and monitor not in (metrics := self._metric_names()):
            raise ConfigError(f"`scheduler.monitor` must be one of {', '.join(metrics)}, but is {monitor!r} instead.")

    def fit(self, session: Session, console: Console, checkpoints: Checkpoints) -> dict[str, float]:
        """Train, and return the metrics of the last epoch.

        Everything is logged under the index of the optimizer step that it belongs to, from 0.

        Raises:
            TrainingDivergedError: a loss was not finite, and ``stop_on_nonfinite`` is set.
        """
        lowest = math.inf
        metrics: dict[str, float] = {}
        for epoch in range(self.length.epochs):
            metrics = {"train/loss": self._train_epoch(epoch, session, console)}
            if self._val_batches is not None and self._is_due(epoch):
                metrics |= self._validate(self._val_batches)
                for name in metrics.keys() - {"train/loss"}:
                    session.log(name, metrics[name], session.steps - 1)
            lrs = session.last.lrs if session.last else self._next_lrs()
            if self.interval == "epoch" and session.steps:
                self.scheduler.step(*([metrics[self.monitor]] if self.monitor in metrics else []))
            console.epoch(epoch, session.steps - 1, lrs, self._next_lrs(), metrics)

            checkpoints.save(checkpoints.last, epoch + 1, session.steps)
            loss = metrics.get("val/loss", metrics["train/loss"])
            if loss < lowest:
                lowest = loss
                checkpoints.save(checkpoints.best, epoch + 1, session.steps)
        return metrics

    def _train_epoch(self, epoch: int, session: Session, console: Console) -> float:
        """Make the optimizer steps of one epoch; returns the mean of their losses."""
        self.model.train()
        losses = []
        for window in self._windows():
            if session.steps == self.length.steps:
                break
            before = session.steps
            loss = self._step(window)
            losses.append(loss)
            # With GradScaler a step whose gradients overflow is no step: it has no lr, and moves no schedule.
            stepped = session.steps > before
            if stepped or not math.isfinite(loss):
                session.log("train/loss", loss, before)
            if not math.isfinite(loss) and self.settings.stop_on_nonfinite:
                raise TrainingDivergedError(
                    f"the loss of step {before} is {loss}, and `trainer.stop_on_nonfinite` is set. "
                    f"The lr of that step was {session.last.lrs if session.last else self._next_lrs()}."
                )
            if stepped and session.last is not None:
                if self.interval == "step":
                    self.scheduler.step()
                console.step(epoch, before, session.last.lrs, self._next_lrs(), loss)
        return sum(losses) / len(losses)

    def _step(self, window: list[Batch]) -> float:
        """One optimizer step on the mean loss over all samples of a window of batches; returns that loss."""
        self.optimizer.zero_grad()
        n_samples = sum(len(targets) for _, targets in window)
        loss = torch.zeros((), device=self.device)
        for inputs, targets in window:
            part = self._loss(inputs, targets)[0] * (len(targets) / n_samples)
            self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]  # torch 2.13
            loss += part.detach()
        if self.settings.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()

    @torch.no_grad()
    def _validate(self, batches: DataLoader[Batch]) -> dict[str, float]:
        """Mean loss, and accuracy where it makes sense, over all samples."""
        self.model.eval()
        n_samples = n_right = 0
        loss = 0.0
        for inputs, targets in batches:
            part, outputs = self._loss(inputs, targets)
            n_samples += len(targets)
            loss += part.item() * len(targets)
            if self.data.classification:
                n_right += int((outputs.argmax(dim=1).cpu() == targets).sum())
        metrics = {"val/loss": loss / n_samples}
        return metrics | ({"val/acc": n_right / n_samples} if self.data.classification else {})

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and the outputs."""
        dtype = _AUTOCAST_TYPES.get(self.settings.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            outputs = self.model(inputs.to(self.device))
            return self.data.loss(outputs, targets.to(self.device)), outputs

    def _windows(self) -> Iterator[list[Batch]]:
        """The batches of one epoch, as many together as make one optimizer step; the last window may be smaller."""
        batches = iter(self._train_batches)
        while window := list(islice(batches, self.settings.accumulate_grad_batches)):
            yield window

    def _batches(self, dataset: Any, shuffle: torch.Generator | None = None) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            self.settings.batch_size,
            shuffle=shuffle is not None,
            generator=shuffle,
            num_workers=self.settings.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _next_lrs(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.settings.val_every_n_epochs == 0 or epoch + 1 == self.length.epochs

    def _metric_names(self) -> list[str]:
        validated = ["val/loss", *(["val/acc"] if self.data.classification else [])]
        return ["train/loss", *(validated if self._val_batches is not None else [])]
