"""Accelerate: attach what `prepare` returned. Then, accumulation and mixed precision included, a row an update."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator

import lrtape


def train(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterable[torch.Tensor],
) -> None:
    """Train `model` on what it returns as its loss, and record the lrs and the loss of every update."""
    model, optimizer, scheduler, batches = accelerator.prepare(model, optimizer, scheduler, batches)
    with lrtape.attach(optimizer, model=model) as session:
        for batch in batches:
            with accelerator.accumulate(model):
                step = session.steps
                loss = model(batch)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if session.steps > step:
                session.log("train/loss", loss.detach(), step)
