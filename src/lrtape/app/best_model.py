"""The best checkpoint of a training becomes the model of its run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lrtape.app.checkpoint import Place, load_checkpoint
from lrtape.app.trainer import Trainer
from lrtape.lines import warn
from lrtape.tracking.datasets import LoggedDataset
from lrtape.tracking.saved_model import ModelNote, save_model

N_EXAMPLES = 2
"""Samples of the input example: a traced graph takes one for a size that never changes."""


def keep_best_model(folder: Path | None, best: Path, trainer: Trainer, datasets: Sequence[LoggedDataset]) -> None:
    """Save the best checkpoint as a model, where the training is over: the trainer has its weights then, on the CPU.

    Whoever ships the spool stores it. A failure is warned about. Nothing happens where there is no best checkpoint, as
    no loss was finite.

    Args:
        folder: see `MlflowRun.model_folder`; ``None`` where nothing is tracked.
        best: the checkpoint.
        trainer: of the training.
        datasets: what the run says of the data.
    """
    if folder is None or not best.is_file():
        return
    try:
        checkpoint = load_checkpoint(best)
        place = Place.of(checkpoint)
        model = trainer.model.cpu()
        model.load_state_dict(checkpoint["model"])
        model.eval()
        described = {dataset.context: (dataset.name, dataset.digest) for dataset in datasets}
        note = ModelNote(max(place.epoch - 1, 0), max(place.next_step - 1, 0), described)
        save_model(folder, model, _examples(trainer), note)
    except Exception as error:  # noqa: BLE001 - the training is over, and nothing of it may be lost
        warn(
            f"lrtape: the run will have no model, as the best checkpoint cannot be made one: {error!r} It is safe in "
            f"{best}. tracking.log_model=off leaves models out."
        )


def _examples(trainer: Trainer) -> Tensor:
    """The first inputs, of those that validate if there are any: they are seldom augmented."""
    dataset = trainer.data.train if trainer.data.val is None else trainer.data.val
    n_samples = min(N_EXAMPLES, len(dataset))  # type: ignore[arg-type]  # it is sized
    inputs: Tensor = default_collate([dataset[index] for index in range(n_samples)])[0].detach()
    return inputs if n_samples == N_EXAMPLES else torch.cat([inputs] * N_EXAMPLES)
