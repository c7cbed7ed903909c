"""The loops, by name. Importing this imports no framework: each loop is loaded in a process of its own."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loops.workload import Loop

BY_NAME = ("lr/layer1", "lr/layer2", "lr/layer3", "lr/layer4")


@dataclass(frozen=True, slots=True)
class Entry:
    """A loop that can be loaded.

    Attributes:
        name: on the command line.
        title: in the tables.
        home: the module and what makes the loop there.
        settings: what was chosen, for the page.
        keys: the metrics that have the lr of the four groups, in their order; fewer where it records fewer, and none
            where it does not record into MLflow.
        n_steps: of a training whose cost is measured. A shipper of lrtape's takes seconds to start, which a short one
            would be all about.
        n_pairs: of such trainings, with recording and without. What is small takes more to be told from nothing.
        is_ours: whether it is lrtape, for which there are targets.
    """

    name: str
    title: str
    home: str
    settings: str
    keys: tuple[str, ...] = BY_NAME
    n_steps: int = 500
    n_pairs: int = 5
    is_ours: bool = False

    def load(self) -> "Loop":
        """Import the framework, and make the loop."""
        module, _, name = self.home.partition(":")
        loop: Loop = getattr(import_module(f"loops.{module}"), name)()
        return loop


ENTRIES = (
    Entry(
        "floor",
        "reading four lrs, and one `os.write`",
        "floor:floor",
        "what a file needs at least: 48 bytes a step after `optimizer.step()`, which nobody sends anywhere",
        (),
        n_steps=4000,
        n_pairs=7,
    ),
    Entry(
        "log-metric",
        "`mlflow.log_metric`",
        "mlflow_calls:log_metric",
        "four calls after every step, within `with mlflow.start_run()`",
    ),
    Entry(
        "log-metrics",
        "`mlflow.log_metrics`",
        "mlflow_calls:log_metrics",
        "one call with four values after every step, within `with mlflow.start_run()`",
    ),
    Entry(
        "log-metrics-async",
        "`mlflow.log_metrics(synchronous=False)`",
        "mlflow_calls:log_metrics_async",
        "the same with `synchronous=False`; the end of `with mlflow.start_run()` waits for what is queued",
    ),
    Entry(
        "lightning",
        "Lightning, LearningRateMonitor",
        "lightning_trainer:with_monitor",
        '`LearningRateMonitor("step")`, `MLFlowLogger` as it comes, `log_every_n_steps=1`',
        tuple(f"lr-NotingSGD/layer{index}" for index in range(1, 5)),
    ),
    Entry(
        "ignite",
        "Ignite, OptimizerParamsHandler",
        "ignite_engine:IgniteLoop",
        "`MLflowLogger.attach_opt_params_handler` at `Events.ITERATION_STARTED`, as its page shows it",
        tuple(f"lr group_{index}" for index in range(4)),
    ),
    Entry(
        "transformers",
        "HF Trainer, MLflowCallback",
        "transformers_trainer:with_callback",
        '`report_to="mlflow"`, `logging_steps=1`; without the callback that prints every log, which would cost more',
        ("learning_rate",),
    ),
    Entry(
        "autolog",
        "lrtape, `autolog()`",
        "lrtape_calls:autolog",
        "as it comes, within `with mlflow.start_run()`",
        n_steps=4000,
        n_pairs=7,
        is_ours=True,
    ),
    Entry(
        "attach",
        "lrtape, `attach(optimizer)`",
        "lrtape_calls:attach",
        "as it comes, within `with mlflow.start_run()`",
        n_steps=4000,
        n_pairs=7,
        is_ours=True,
    ),
    Entry(
        "lightning-lrtape",
        "lrtape in Lightning, `LRTape()`",
        "lightning_trainer:with_lrtape",
        "`MLFlowLogger` as it comes, which gets nothing else",
        n_steps=2000,
        is_ours=True,
    ),
    Entry(
        "transformers-lrtape",
        "lrtape in HF Trainer, `LRTapeCallback()`",
        "transformers_trainer:with_lrtape",
        'within `with mlflow.start_run()`; `report_to="none"`',
        n_steps=2000,
        is_ours=True,
    ),
    Entry(
        "app",
        "lrtape's own trainer",
        "lrtape_app:AppLoop",
        "`lrtape train`, `tracking=mlflow` against `tracking=off`, both with `tracking.log_model=off`; it loads the "
        "same samples one by one, in an order of its own",
        n_steps=2000,
        is_ours=True,
    ),
)

LOOPS = {entry.name: entry for entry in ENTRIES}
