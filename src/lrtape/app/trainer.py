"""The reference trainer: one plain loop, in which every optimizer step is recorded."""

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from lrtape.app.batches import Window, Windows, load_batches, share_of
from lrtape.app.checkpoint import Checkpoints, Parts, Place
from lrtape.app.config import TrainerSettings
from lrtape.app.console import Console
from lrtape.app.data import Data
from lrtape.app.evaluation import VAL_ACC, VAL_LOSS, Evaluation
from lrtape.app.interrupts import Interrupted, Interrupts
from lrtape.app.randomness import restore_random_states
from lrtape.app.schedule import Length, Schedule
from lrtape.app.updates import Updates
from lrtape.app.world import World
from lrtape.arrivals import CUDA, Arrivals
from lrtape.errors import ConfigError, TrainingDivergedError
from lrtape.groups import FROZEN, moving_lrs, thaw
from lrtape.ranks import ALONE, Ranks
from lrtape.session import Session

TRAIN_LOSS = "train/loss"

AfterEpoch = Callable[[Mapping[str, float]], None]


def resolve_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device called `name`; ``auto`` is CUDA where there is one. Each of several processes has a GPU of its own.

    Raises:
        ConfigError: CUDA is asked for and there is none, or fewer GPUs than processes.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "`trainer.device` must be a device of this machine, but is 'cuda', and torch finds no CUDA. Use "
            "`trainer.device=auto`, or install a CUDA build of torch."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.n_ranks > 1:
        local_rank, n_gpus = int(os.environ.get("LOCAL_RANK", ranks.rank)), torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise ConfigError(
                f"`torchrun --nproc-per-node` must be at most the number of GPUs, {n_gpus}, but this is process "
                f"{local_rank} of this machine, counted from 0. Start fewer, or use trainer.device=cpu."
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(name)


def metric_names(data: Data) -> list[str]:
    """What a training on these data measures after each epoch."""
    validated = [VAL_LOSS, *([VAL_ACC] if data.classification else [])]
    return [TRAIN_LOSS, *(validated if data.val is not None else [])]


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
        world: the processes that train together.

    Attributes:
        place: where the training is.
        parts: what has a state, beside the place.
        skipped_steps: how many steps a GradScaler has skipped in this process.
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
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        ranks = self._world.ranks
        self.model = model
        self.data = data
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.device = device
        self.length = Length.of(data, settings, ranks.n_ranks)
        self.scaler = GradScaler(device.type, enabled=settings.precision == "16")
        self._evaluation = Evaluation(model, data, device, settings.precision, self._world)
        self._wrapped = model
        self._n_trained = -1
        self.parts = Parts(model, optimizer, schedule, self.scaler)
        # LBFGS alone, in torch: it evaluates the model as often as it likes.
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is closure.empty
        if self._needs_closure and self.scaler.is_enabled():
            raise ConfigError(
                f"`trainer.precision` must be 32 or bf16 for {type(optimizer).__name__}, which evaluates the model "
                "within its step, but is 16 instead."
            )
        self._windows = Windows(data.train, settings, device, seed, ranks)
        self._val_batches = None
        if data.val is not None:
            self._val_batches = load_batches(share_of(data.val, ranks), settings, device)
        self.skipped_steps = 0
        schedule.check_monitor(metric_names(data))
        self.place = Place(order=self._windows.order(), used_lrs=self._lrs())
        self._updates = Updates(optimizer)
        self._resumed_randomness: dict[str, Any] | None = None
        # GradScaler skips a step whose gradients overflow: then the optimizer, and this hook, are not called.
        # It marks, and does not count: a step() that calls its parent's fires it twice.
        self._stepped = False
        optimizer.register_step_post_hook(self._mark_step)

    def go_on_from(self, place: Place, randomness: dict[str, Any]) -> None:
        """Begin `fit` where another training was when it wrote a checkpoint, with all `parts` in their states of then.

        Args:
            place: where it was.
            randomness: the states of the global generators then; see `random_states`.
        """
        self.place = place
        self._updates = Updates(self.optimizer)  # loading the states has moved everything
        self._resumed_randomness = randomness

    def has_more(self) -> bool:
        """Whether an epoch is left: a planned one, one that was begun, or one more where skipped steps leave
        ``max_steps`` unreached and yet some step is made.
        """
        place = self.place
        is_short = self.settings.max_steps is not None and place.next_step < self.length.steps
        return place.epoch < self.length.epochs or bool(place.losses) or (is_short and not place.stalled)

    def never_updated(self, session: Session) -> list[str]:
        """The keys of the groups that have an lr, and that have not moved in this process."""
        return [session.groups[index].key for index in self._updates.missing()]

    def fit(
        self,
        session: Session,
        console: Console,
        checkpoints: Checkpoints,
        interrupts: Interrupts,
        after_epoch: AfterEpoch = lambda _: None,
    ) -> dict[str, float]:
        """Train, and return the metrics of the last epoch.

        Everything is logged under the index of the optimizer step that it belongs to, from 0.

        Args:
            session: records.
            console: shows.
            checkpoints: are written after each epoch.
            interrupts: end the training after a step.
            after_epoch: called with the metrics of an epoch when its checkpoints are written; what it raises ends the
                training.

        Raises:
            TrainingDivergedError: a loss was not finite, and ``stop_on_nonfinite`` is set.
            Interrupted: by a signal, after a step; the last checkpoint is written.
            RankFailedError: another process of the training has failed.
        """
        self._world.listen(interrupts)
        metrics: dict[str, float] = {}
        try:
            with interrupts.held(), self._world.watching():
                while self.has_more():
                    metrics = self._epoch(session, console, checkpoints)
                    after_epoch(metrics)
        except Interrupted as interruption:
            checkpoints.save(checkpoints.last, self.place, self._owed_lrs())
            interruption.checkpoint = checkpoints.last
            raise
        return metrics

    def _epoch(self, session: Session, console: Console, checkpoints: Checkpoints) -> dict[str, float]:
        """Train for one epoch, or for what is left of it, and validate; returns the metrics."""
        place = self.place
        metrics = {TRAIN_LOSS: self._train_epoch(session, console)}
        stepped = place.next_step > place.first_step  # not, where every step of the epoch overflowed
        if self._val_batches is not None and self._is_due(place.epoch):
            metrics |= self._evaluation.validate(self._val_batches)
            if stepped:
                for name in metrics.keys() - {TRAIN_LOSS}:
                    session.log(name, metrics[name], place.next_step - 1)
        if stepped:
            self.schedule.after_epoch(metrics)
        shown = moving_lrs(self.optimizer.param_groups, place.epoch + 1)
        console.epoch(place.epoch, place.next_step - 1, self._moving(place.used_lrs), shown, metrics)

        # Where an epoch does not validate, its train/loss is no match for the val/loss of the others.
        loss = metrics.get(VAL_LOSS if self._val_batches is not None else TRAIN_LOSS, math.inf)
        is_best = loss < place.lowest
        self.place = Place(
            epoch=place.epoch + 1,
            next_step=place.next_step,
            first_step=place.next_step,
            order=self._windows.order(),
            lowest=loss if is_best else place.lowest,
            stalled=not stepped,
            used_lrs=place.used_lrs,
        )
        if is_best:
            checkpoints.save(checkpoints.best, self.place, self._lrs())
        checkpoints.save(checkpoints.last, self.place, self._lrs())
        session.mark()
        return metrics

    def endless_steps(self) -> Iterator[float]:
        """Make one optimizer step after the other, and yield the loss of each: no schedule, no validation, no end."""
        self.model.train()
        while True:
            for window in self._windows.begin(self._windows.order()):
                yield self._step(window).item()

    def _train_epoch(self, session: Session, console: Console) -> float:
        """Make the optimizer steps of one epoch; returns the mean of their losses.

        Waits for no loss that is on a GPU: it is seen to, and ends a training that has diverged, when it has arrived.
        """
        place = self.place
        losses = Arrivals()
        thaw(self.optimizer.param_groups, place.epoch)
        self._wrap()
        if not place.losses:
            self._log_frozen(session)
        self.model.train()
        windows = self._windows.begin(place.order, n_done=len(place.losses))
        if self._resumed_randomness is not None:
            # Not before: loading the windows that were done has drawn random numbers once more.
            restore_random_states(self._resumed_randomness)
            self._resumed_randomness = None
        for window in windows:
            if place.next_step == self.length.steps:
                break
            step = place.next_step
            place.used_lrs = self._lrs()
            self._stepped = False
            loss = self._step(window)
            # A step that was skipped has no lr, and moves no schedule.
            stepped = self._stepped
            place.next_step += stepped
            self.skipped_steps += not stepped
            if stepped or not math.isfinite(loss):
                session.log(TRAIN_LOSS, loss, step)
            losses.expect(CUDA.copy([loss]), partial(self._see_loss, step, place.used_lrs))
            if stepped:
                self.schedule.after_step()
                shown = moving_lrs(self.optimizer.param_groups)
                console.step(place.epoch, step, self._moving(place.used_lrs), shown, loss)
            try:
                self._world.check()
            except Interrupted:
                losses.receive_all()
                raise
        losses.receive_all()
        return sum(place.losses) / len(place.losses)

    def _see_loss(self, step: int, used_lrs: list[float], numbers: list[float]) -> None:
        (loss,) = numbers
        self.place.losses.append(loss)
        if not math.isfinite(loss) and self.settings.stop_on_nonfinite:
            raise TrainingDivergedError(
                f"the loss of step {step} is {loss}, and `trainer.stop_on_nonfinite` is set. The learning rates of "
                f"that step were {used_lrs}."
            )

    def _log_frozen(self, session: Session) -> None:
        """Put on the tape which groups do not move from here on, whose lr says nothing."""
        for group in self.optimizer.param_groups:
            if FROZEN in group:
                session.log(f"frozen/{group['name']}", float(group[FROZEN]), self.place.next_step)

    def _wrap(self) -> None:
        """See that the gradients of all parameters that are trained by now are those of all ranks."""
        n_trained = sum(parameter.requires_grad for parameter in self.model.parameters())
        if n_trained != self._n_trained:  # some may have been thawed
            self._wrapped = self._world.wrap(self.model)
            self._n_trained = n_trained

    def _step(self, window: Window) -> Tensor:
        """One optimizer step on the mean loss over all samples of a window of batches; returns that loss."""
        losses: list[Tensor] = []

        def evaluate() -> Tensor:
            losses.append(self._evaluate(window))
            return losses[-1]

        if self._needs_closure:
            self.optimizer.step(evaluate)  # type: ignore[arg-type]  # a tensor is as good as its float
        else:
            evaluate()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return losses[0]

    def _evaluate(self, window: Window) -> Tensor:
        """The mean loss over all samples of a window of batches; leaves its gradients with the parameters."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for index, ((inputs, targets), weight) in enumerate(zip(*window, strict=True), start=1):
            with self._world.accumulating(self._wrapped, is_last=index == len(window.batches)):
                part = self._evaluation.loss(inputs, targets, self._wrapped)[0] * weight
                self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]  # torch 2.13
            loss += part.detach()
        if self.settings.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        return self._world.mean(loss)

    def _mark_step(self, optimizer: Optimizer, *_: object) -> None:
        # A fused optimizer is called all the same, and has been told not to update. It is waited for, as GradScaler
        # waits for the others: the schedule must know.
        self._stepped = not getattr(optimizer, "found_inf", 0.0)

    def _lrs(self) -> list[float]:
        """What the next step will use."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _moving(self, lrs: Sequence[float]) -> list[float | None]:
        """Without those of groups that are frozen."""
        return [None if group.get(FROZEN) else lr for group, lr in zip(self.optimizer.param_groups, lrs, strict=True)]

    def _owed_lrs(self) -> list[float]:
        """What the next step will use; nothing at the end of an epoch, where the scheduler has still to be stepped."""
        is_over = len(self.place.losses) == len(self._windows) or self.place.next_step == self.length.steps
        return [] if is_over else self._lrs()

    def _is_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.settings.val_every_n_epochs == 0 or epoch + 1 >= self.length.epochs
