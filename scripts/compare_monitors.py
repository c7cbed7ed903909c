"""What lrtape, Lightning's LearningRateMonitor and transformers' MLflowCallback record of the same trainings.

``python scripts/compare_monitors.py`` prints the tables of ``docs/frameworks.md``, in about a minute; it needs
``pip install lrtape[lightning,transformers]``. Both trainings have two param groups, a warm-up over three steps, two
batches a step, and one step that a GradScaler skips. What was used is noted by the optimizer, within the update.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}

import mlflow
import torch
import transformers
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.plugins import MixedPrecision

from lrtape import read_run
from lrtape.adapters.lightning import LRTape
from lrtape.adapters.transformers import LRTapeCallback

GROUPS = ("backbone", "head")
BATCHES_A_STEP = 2
N_STEPS = 7
OVERFLOWS_IN_BATCH = 9
WARM_UP = (1 / 3, 2 / 3, 1.0)

Rows = dict[str, dict[int, list[float]]]
"""By group and step, in the order of their times."""


class NotingSGD(torch.optim.SGD):
    """Notes the lr of each group within the update, under the framework's own step number."""

    def __init__(self, net: Any, step: Callable[[], int]) -> None:
        groups = [
            {"params": net.backbone.parameters(), "lr": 0.1, "name": "backbone"},
            {"params": net.head.parameters(), "lr": 0.01, "name": "head"},
        ]
        self.used: Rows = {group: defaultdict(list) for group in GROUPS}
        self._step = step
        super().__init__(groups)

    def _init_group(self, group: dict[str, Any], *args: Any) -> Any:
        self.used[group["name"]][self._step()].append(group["lr"])
        return super()._init_group(group, *args)  # type: ignore[no-untyped-call]


class LightningNet(LightningModule):
    """Warms up by hand, in optimizer_step, as Lightning's documentation shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)
        self.batches = 0

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        """The loss; infinite in one batch."""
        self.batches += 1
        loss: torch.Tensor = self.head(self.backbone(batch)).square().mean()
        self.log("train/loss", loss)
        return loss * torch.inf if self.batches == OVERFLOWS_IN_BATCH else loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:  # noqa: ARG002
        """Set the lr, and step."""
        if self.trainer.global_step < len(WARM_UP):
            for group, lr in zip(optimizer.param_groups, (0.1, 0.01), strict=True):
                group["lr"] = lr * WARM_UP[self.trainer.global_step]
        optimizer.step(closure=optimizer_closure)

    def configure_optimizers(self) -> Any:
        """Two groups; from the fifth step on their lr is a tenth."""
        self.optimizer = NotingSGD(self, lambda: self.trainer.fit_loop.epoch_loop._batches_that_stepped)
        schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [4])
        return [self.optimizer], [{"scheduler": schedule, "interval": "step"}]


class TransformersNet(torch.nn.Module):
    """The same net, for a Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)
        self.batches = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss; infinite in one batch."""
        self.batches += 1
        loss = self.head(self.backbone(x)).square().mean()
        return {"loss": loss * torch.inf if self.batches == OVERFLOWS_IN_BATCH else loss}


def scaler() -> torch.amp.GradScaler:
    """One for the CPU, so that anyone can run this."""
    return torch.amp.GradScaler("cpu", init_scale=1.0)


def train_lightning(uri: str) -> tuple[Rows, str]:
    """What was used, and the id of the run."""
    logger = MLFlowLogger(tracking_uri=uri)
    net = LightningNet()
    trainer = LightningTrainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[LearningRateMonitor("step"), LRTape()],
        max_steps=N_STEPS,
        accumulate_grad_batches=BATCHES_A_STEP,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler())],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, torch.utils.data.DataLoader(torch.randn(4 * BATCHES_A_STEP * N_STEPS, 4), batch_size=2))  # type: ignore[arg-type]
    return net.optimizer.used, logger.run_id


def train_transformers() -> tuple[Rows, str]:
    """What was used, and the id of the run."""
    net = TransformersNet()
    trainer: Any = None
    optimizer = NotingSGD(net, lambda: trainer.state.global_step + 1)
    factors = [*WARM_UP, 1.0] + [0.1] * N_STEPS
    args = transformers.TrainingArguments(
        "out",
        report_to="mlflow",
        logging_steps=1,
        max_steps=N_STEPS,
        gradient_accumulation_steps=BATCHES_A_STEP,
        per_device_train_batch_size=2,
        max_grad_norm=0,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = transformers.Trainer(
        net,
        args,
        train_dataset=[{"x": torch.randn(4)} for _ in range(4 * BATCHES_A_STEP * N_STEPS)],
        callbacks=[LRTapeCallback()],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[step])),
    )
    trainer.accelerator.scaler = scaler()
    with mlflow.start_run() as run, contextlib.redirect_stdout(None):
        trainer.train()
    return optimizer.used, run.info.run_id


def rows_of(run_id: str, uri: str, keys: tuple[str, ...]) -> Rows:
    """What a run has of the two groups, by step."""
    found: Rows = {}
    for group, key in zip(GROUPS, keys, strict=False):
        found[group] = defaultdict(list)
        for metric in mlflow.MlflowClient(tracking_uri=uri).get_metric_history(run_id, key):
            found[group][metric.step].append(metric.value)
    return found


def table(used: Rows, steps: list[int], **recorded: Rows) -> str:
    """In Markdown: a line a step, backbone and head side by side; what is not what was used is in bold."""

    def cell(rows: Rows, step: int) -> str:
        texts = []
        for group in GROUPS:
            truth = used[group].get(step, [])
            values = rows.get(group, {}).get(step, [])
            texts.append(", ".join(f"{lr:.4g}" if [lr] == truth else f"**{lr:.4g}**" for lr in values) or "-")
        return " / ".join(texts)

    lines = ["| step | used | " + " | ".join(recorded) + " |", "|---" * (2 + len(recorded)) + "|"]
    lines += [
        f"| {step} | {cell(used, step) if step in used['head'] else 'skipped'} | "
        + " | ".join(cell(rows, step) for rows in recorded.values())
        + " |"
        for step in steps
    ]
    return "\n".join(lines)


def main() -> None:
    """Train, read back, print."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        uri = f"sqlite:///{Path(folder) / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        used, run_id = train_lightning(uri)
        monitor = rows_of(run_id, uri, tuple(f"lr-NotingSGD/{group}" for group in GROUPS))
        mine = rows_of(run_id, uri, tuple(f"lr/{group}" for group in GROUPS))
        steps = sorted(set(read_run(run_id, uri)["train/loss"].steps))
        print("Lightning, backbone / head:\n")
        print(table(used, steps, LearningRateMonitor=monitor, lrtape=mine))
        used, run_id = train_transformers()
        callback = rows_of(run_id, uri, ("learning_rate",))
        mine = rows_of(run_id, uri, tuple(f"lr/{group}" for group in GROUPS))
        steps = sorted(set(read_run(run_id, uri)["loss"].steps))
        print("\ntransformers, backbone / head:\n")
        print(table(used, steps, MLflowCallback=callback, lrtape=mine))


if __name__ == "__main__":
    main()
