"""Hugging Face's Trainer, with its own MLflowCallback or with lrtape's callback."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import mlflow
from torch import Tensor, nn
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainingArguments

from loops.workload import Batch, Samples, Workload
from lrtape.adapters.transformers import LRTapeCallback


class _Model(nn.Module):
    """Computes its loss, as a Trainer wants it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.net = workload.net()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss."""
        return {"loss": functional.cross_entropy(self.net(inputs), labels)}


def _the_only_one(batches: Sequence[Batch]) -> dict[str, Tensor]:
    ((inputs, targets),) = batches
    return {"inputs": inputs, "labels": targets}


class TransformersLoop:
    """See `Loop`.

    Args:
        by_mlflow_callback: whether the Trainer's own callback records, or lrtape's.
    """

    def __init__(self, by_mlflow_callback: bool) -> None:
        self._by_mlflow_callback = by_mlflow_callback

    def train(self, workload: Workload, recorded: bool) -> None:
        """See `Loop.train`."""
        logs = recorded and self._by_mlflow_callback
        model = _Model(workload)
        optimizer = workload.optimizer(model.net)
        arguments = TrainingArguments(
            "out",
            report_to="mlflow" if logs else "none",
            logging_strategy="steps" if logs else "no",
            logging_steps=1,
            max_steps=workload.n_steps,
            per_device_train_batch_size=1,
            train_sampling_strategy="sequential",
            max_grad_norm=0,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer: Any = Trainer(
            model,
            arguments,
            data_collator=_the_only_one,
            train_dataset=Samples(workload.n_steps),
            callbacks=[LRTapeCallback()] if recorded and not logs else [],
            optimizers=(optimizer, workload.schedule(optimizer)),
        )
        trainer.remove_callback(PrinterCallback)
        with mlflow.start_run() if recorded and not logs else nullcontext():
            trainer.train()


def with_callback() -> TransformersLoop:
    """The callback of the Trainer."""
    return TransformersLoop(by_mlflow_callback=True)


def with_lrtape() -> TransformersLoop:
    """The callback of lrtape."""
    return TransformersLoop(by_mlflow_callback=False)
