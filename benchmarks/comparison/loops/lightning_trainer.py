"""Lightning's Trainer, with its own monitor or with lrtape's callback."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor
from torch.nn import functional

from loops.workload import Batch, Workload
from lrtape.adapters.lightning import LRTape


class _Module(LightningModule):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.net = workload.net()
        self._workload = workload

    def training_step(self, batch: Batch) -> Tensor:
        """The loss."""
        inputs, targets = batch
        return functional.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> Any:
        """The schedule is stepped after every step."""
        optimizer = self._workload.optimizer(self.net)
        return [optimizer], [{"scheduler": self._workload.schedule(optimizer), "interval": "step"}]


class LightningLoop:
    """See `Loop`.

    Args:
        recording: the callback that records.
        log_every_n_steps: how often the loggers are given something; ``None`` for Lightning's default.
    """

    def __init__(self, recording: Callable[[], Callback], log_every_n_steps: int | None = None) -> None:
        self._recording = recording
        self._log_every_n_steps = log_every_n_steps
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def train(self, workload: Workload, recorded: bool) -> None:
        """See `Loop.train`."""
        logger = MLFlowLogger(workload.experiment, tracking_uri=workload.uri) if recorded else False
        trainer = Trainer(
            accelerator="cpu",
            logger=logger,
            callbacks=[self._recording()] if recorded else [],
            log_every_n_steps=self._log_every_n_steps,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(_Module(workload), workload.loader())


def with_monitor() -> LightningLoop:
    """The monitor of Lightning."""
    return LightningLoop(lambda: LearningRateMonitor("step"), log_every_n_steps=1)


def with_lrtape() -> LightningLoop:
    """The callback of lrtape."""
    return LightningLoop(LRTape)
