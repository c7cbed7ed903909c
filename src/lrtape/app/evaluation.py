"""The loss of a model on a batch, and its metrics on all batches that validate."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lrtape.app.batches import Batch
from lrtape.app.data import Data
from lrtape.app.randomness import random_states, restore_random_states
from lrtape.app.world import World

VAL_LOSS = "val/loss"
VAL_ACC = "val/acc"

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class Evaluation:
    """A model with its loss, in one precision on one device.

    Args:
        model: on its device already.
        data: tells the loss, and whether there are classes.
        device: where the batches go.
        precision: ``32``, ``bf16`` or ``16``.
        world: of which each process validates on its share.
    """

    def __init__(
        self, model: nn.Module, data: Data, device: torch.device, precision: str, world: World | None = None
    ) -> None:
        self._world = world or World()
        self._model = model
        self._data = data
        self._device = device
        self._dtype = _AUTOCAST_TYPES.get(precision)

    def loss(self, inputs: Tensor, targets: Tensor, wrapped: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and the outputs; by what wraps the model, to train it."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            outputs = (wrapped or self._model)(inputs.to(self._device, non_blocking=True))
            return self._data.loss(outputs, targets.to(self._device, non_blocking=True)), outputs

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Mean loss, and accuracy where it makes sense, over all samples of all ranks.

        If interrupted, it leaves the global generators as they were: a resumed training validates anew.
        """
        before = random_states()
        self._world.align(self._model)
        self._model.eval()
        n_samples = n_right = loss = 0.0
        for inputs, targets in batches:
            part, outputs = self.loss(inputs, targets)
            n_samples += len(targets)
            loss += part.item() * len(targets)
            if self._data.classification:
                n_right += int((outputs.argmax(dim=1).cpu() == targets).sum())
            self._stop_if_interrupted(before)
        loss, n_right, n_samples = self._world.total([loss, n_right, n_samples])
        self._stop_if_interrupted(before)
        metrics = {VAL_LOSS: loss / n_samples}
        return metrics | ({VAL_ACC: n_right / n_samples} if self._data.classification else {})

    def _stop_if_interrupted(self, before: dict[str, Any]) -> None:
        if self._world.heard is not None:
            restore_random_states(before)
            self._world.check()
