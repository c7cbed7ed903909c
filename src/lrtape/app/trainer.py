"""The reference trainer: one plain loop, in which every optimizer step is recorded."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lrtape.app.checkpoint import Checkpoints
from lrtape.app.config import TrainerSettings
from lrtape.app.console import Console
from lrtape.app.data import Data
from lrtape.app.schedule import Length, Schedule
from lrtape.errors import ConfigError, TrainingDivergedError
from lrtape.session import Session

Batch = tuple[Tensor, Tensor]

TRAIN_LOSS = "train/loss"
VAL_LOSS = "val/loss"
VAL_ACC = "val/acc"

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


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
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


class Trainer:
    """Trains a model. `fit` reads from top to bottom.

    Args:
        model: on its device already.
        data: what to train on.
        optimizer: of the model's parameters.
        schedule: of the optimizer.
        settings: everything else.
        device: where the batches go.
        seed: of the order of the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        optimizer: Optimizer,
        schedule: Schedule,
        settings: TrainerSettings,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model = model
        self.data = data
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.device = device
        self.length = Length.of(data, settings)
        self.scaler = GradScaler(device.type, enabled=settings.precision == "16")
        self._train_batches = self._batches(data.train, torch.Generator().manual_seed(seed))
        self._val_batches = self._batches(data.val) if data.val is not None else None
        schedule.check_monitor(self._metric_names())
        self.steps = 0
        self._used_lrs = self._lrs()
        # GradScaler skips a step whose gradients overflow: then the optimizer, and this hook, are not called.
        # It marks, and does not count: a step() that calls its parent's fires it twice.
        self._stepped = False
        optimizer.register_step_post_hook(self._mark_step)

    def fit(self, session: Session, console: Console, checkpoints: Checkpoints) -> dict[str, float]:
        """Train, and return the metrics of the last epoch.

        Everything is logged under the index of the optimizer step that it belongs to, from 0.

        Raises:
            TrainingDivergedError: a loss was not finite, and ``stop_on_nonfinite`` is set.
        """
        lowest = math.inf
        metrics: dict[str, float] = {}
        for epoch in self._epochs():
            before = self.steps
            metrics = {TRAIN_LOSS: self._train_epoch(epoch, session, console)}
            stepped = self.steps > before  # not, where every step of the epoch overflowed
            if self._val_batches is not None and self._is_due(epoch):
                metrics |= self._validate(self._val_batches)
                if stepped:
                    for name in metrics.keys() - {TRAIN_LOSS}:
                        session.log(name, metrics[name], self.steps - 1)
            if stepped:
                self.schedule.after_epoch(metrics)
            console.epoch(epoch, self.steps - 1, self._used_lrs, self._lrs(), metrics)

            checkpoints.save(checkpoints.last, epoch + 1, self.steps)
            # Where an epoch does not validate, its train/loss is no match for the val/loss of the others.
            loss = metrics.get(VAL_LOSS if self._val_batches is not None else TRAIN_LOSS, math.inf)
            if loss < lowest:
                lowest = loss
                checkpoints.save(checkpoints.best, epoch + 1, self.steps)
        return metrics

    def _train_epoch(self, epoch: int, session: Session, console: Console) -> float:
        """Make the optimizer steps of one epoch; returns the mean of their losses."""
        self.model.train()
        losses = []
        for window in self._windows():
            if self.steps == self.length.steps:
                break
            step = self.steps
            self._used_lrs = self._lrs()
            self._stepped = False
            loss = self._step(window)
            losses.append(loss)
            # A step that was skipped has no lr, and moves no schedule.
            stepped = self._stepped
            self.steps += stepped
            if stepped or not math.isfinite(loss):
                session.log(TRAIN_LOSS, loss, step)
            if not math.isfinite(loss) and self.settings.stop_on_nonfinite:
                raise TrainingDivergedError(
                    f"the loss of step {step} is {loss}, and `trainer.stop_on_nonfinite` is set. The learning rates of "
                    f"that step were {self._used_lrs}."
                )
            if stepped:
                self.schedule.after_step()
                console.step(epoch, step, self._used_lrs, self._lrs(), loss)
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
        metrics = {VAL_LOSS: loss / n_samples}
        return metrics | ({VAL_ACC: n_right / n_samples} if self.data.classification else {})

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and the outputs."""
        dtype = _AUTOCAST_TYPES.get(self.settings.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            outputs = self.model(inputs.to(self.device))
            return self.data.loss(outputs, targets.to(self.device)), outputs

    def _epochs(self) -> Iterator[int]:
        """The planned epochs, and more where skipped steps leave ``max_steps`` unreached and yet some step is made."""
        epoch, before = 0, -1
        while epoch < self.length.epochs or (
            self.settings.max_steps is not None and before < self.steps < self.length.steps
        ):
            before = self.steps
            yield epoch
            epoch += 1

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

    def _mark_step(self, *_: object) -> None:
        self._stepped = True

    def _lrs(self) -> list[float]:
        """What the next step will use."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.settings.val_every_n_epochs == 0 or epoch + 1 == self.length.epochs

    def _metric_names(self) -> list[str]:
        validated = [VAL_LOSS, *([VAL_ACC] if self.data.classification else [])]
        return [TRAIN_LOSS, *(validated if self._val_batches is not None else [])]
