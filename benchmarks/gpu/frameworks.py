"""The ways of frameworks; none is imported before it is measured."""

import abc
import importlib
import logging
import os
import tempfile
from typing import Any

import mlflow
import torch
from torch.optim.lr_scheduler import LRScheduler

from gpu.training import N_WARM, NAMES, Clock, Cost, Training
from gpu.ways import Way


class Framework(Way):
    """Trains in a loop of its own; with logging, each loop has a run of its own."""

    def __exit__(self, *_: object) -> None:
        """Its logger has stored everything within each loop."""

    def bare(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.bare`."""
        return self._cost(n_steps, clock, logs=False)

    def logging(self, n_steps: int, clock: Clock | None = None) -> Cost:
        """See `Way.logging`."""
        return self._cost(n_steps, clock, logs=True)

    def _cost(self, n_steps: int, given: Clock | None, logs: bool) -> Cost:
        clock = given or Clock(self.training.device, n_steps, traces=False)
        costs: list[Cost] = []

        def step_is_over(index: int) -> None:
            clock.step(index)
            if index == N_WARM + n_steps - 1:
                costs.append(clock.end())

        self.training.begin_again()
        run_id = self.fit(N_WARM + n_steps, step_is_over, logs)
        if logs:
            self.logged[run_id] = [n_steps]
        return costs[0]

    @abc.abstractmethod
    def fit(self, n_steps: int, step_is_over: Any, logs: bool) -> str:
        """Train, and call `step_is_over` with the index of each step when the schedule has moved on.

        Returns:
            The id of the run that was logged into; empty for none.
        """


class _Schedule(LRScheduler):
    """The schedule of a training, with what a framework wants of a scheduler."""

    def __init__(self, training: Training) -> None:
        self._training = training
        super().__init__(training.optimizer)

    def _initial_step(self) -> None:
        """The lrs are there."""

    def get_last_lr(self) -> list[Any]:
        """That the next step will use."""
        return [group["lr"] for group in self._training.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:  # noqa: ARG002
        """Go on."""
        self._training.schedule()


class Lightning(Framework):
    """Lightning's ``LearningRateMonitor`` with its ``MLFlowLogger``, against Lightning without both."""

    keys = [f"lr-AdamW/{name}" for name in NAMES]

    def fit(self, n_steps: int, step_is_over: Any, logs: bool) -> str:
        """See `Framework.fit`."""
        lightning: Any = importlib.import_module("lightning.pytorch")
        loggers: Any = importlib.import_module("lightning.pytorch.loggers")
        training = self.training
        logger: Any = loggers.MLFlowLogger(tracking_uri=self.uri) if logs else False

        class Module(lightning.LightningModule):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.net = training.model

            def configure_optimizers(self) -> Any:
                # The monitor wants a scheduler; this one is stepped when everything is over.
                idle = torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
                return [training.optimizer], [{"scheduler": idle, "interval": "epoch"}]

            def training_step(self, batch: Any, index: int) -> Any:  # noqa: ARG002
                return self.net(training.batch).square().mean()

            def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:  # noqa: ARG002
                training.schedule()
                step_is_over(index)

        trainer = lightning.Trainer(
            accelerator="gpu" if training.device == "cuda" else "cpu",
            devices=1,
            max_steps=n_steps,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=logger,
            callbacks=[lightning.callbacks.LearningRateMonitor(logging_interval="step")] if logs else [],
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.zeros(n_steps, 1)))  # type: ignore[arg-type]
        return logger.run_id if logs else ""


class Ignite(Framework):
    """Ignite's Engine with ``MLflowLogger.attach_opt_params_handler``, against the Engine without."""

    keys = [f"lr group_{index}" for index in range(len(NAMES))]
    first_step = 1

    def fit(self, n_steps: int, step_is_over: Any, logs: bool) -> str:
        """See `Framework.fit`."""
        engines: Any = importlib.import_module("ignite.engine")
        loggers: Any = importlib.import_module("ignite.handlers.mlflow_logger")
        training = self.training

        def update(engine: Any, batch: Any) -> None:  # noqa: ARG001
            training.optimizer.zero_grad()
            training.model(training.batch).square().mean().backward()
            training.optimizer.step()

        def go_on(engine: Any) -> None:
            training.schedule()
            step_is_over(engine.state.iteration - 1)

        trainer = engines.Engine(update)
        trainer.add_event_handler(engines.Events.ITERATION_COMPLETED, go_on)
        if not logs:
            trainer.run(range(n_steps), max_epochs=1)
            return ""
        logger = loggers.MLflowLogger(self.uri)
        run_id: str = mlflow.active_run().info.run_id  # type: ignore[union-attr]
        logger.attach_opt_params_handler(trainer, engines.Events.ITERATION_STARTED, optimizer=training.optimizer)
        try:
            trainer.run(range(n_steps), max_epochs=1)
        finally:
            logger.close()
        return run_id


class Transformers(Framework):
    """The ``MLflowCallback`` of Hugging Face's Trainer, against the Trainer without. It logs the first group alone."""

    keys = ["learning_rate"]
    first_step = 1

    def fit(self, n_steps: int, step_is_over: Any, logs: bool) -> str:
        """See `Framework.fit`."""
        transformers: Any = importlib.import_module("transformers")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        training = self.training
        run_ids: list[str] = []
        os.environ["MLFLOW_TRACKING_URI"] = self.uri

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = training.model

            def forward(self, inputs: Any) -> dict[str, Any]:  # noqa: ARG002
                return {"loss": self.net(training.batch).square().mean()}

        class Clocked(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
                # Before this step's row is logged, and behind that of the step before.
                step_is_over(state.global_step - 1)
                if logs and not run_ids:
                    run_ids.append(mlflow.active_run().info.run_id)  # type: ignore[union-attr]

        trainer = transformers.Trainer(
            Model(),
            transformers.TrainingArguments(
                tempfile.mkdtemp(dir=self.folder.parent),
                report_to="mlflow" if logs else "none",
                logging_strategy="steps" if logs else "no",
                logging_steps=1,
                max_steps=n_steps,
                per_device_train_batch_size=1,
                max_grad_norm=0,
                use_cpu=training.device == "cpu",
                disable_tqdm=True,
                save_strategy="no",
            ),
            data_collator=lambda batch: {"inputs": torch.zeros(len(batch))},
            train_dataset=range(n_steps),
            callbacks=[Clocked()],
            optimizers=(training.optimizer, _Schedule(training)),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        try:
            trainer.train()
        finally:
            mlflow.end_run()
        return run_ids[0] if logs else ""
