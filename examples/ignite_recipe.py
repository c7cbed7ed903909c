"""Ignite: attach around `run`, and count as the trainer's other handlers do: `trainer.state.iteration`, from 1."""

from collections.abc import Iterable

import torch
from ignite.engine import Engine, Events

import lrtape


def train(trainer: Engine, optimizer: torch.optim.Optimizer, data: Iterable[object], max_epochs: int = 1) -> None:
    """Run a trainer whose update steps `optimizer` and returns the loss, and record the lrs and the loss."""
    with lrtape.attach(optimizer) as session:
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda: session.align(trainer.state.iteration))
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda: session.log("train/loss", trainer.state.output, trainer.state.iteration),
        )
        trainer.run(data, max_epochs)
