"""Ignite's Engine, with the handler of its MLflowLogger."""

from ignite.engine import Engine, Events
from ignite.handlers.mlflow_logger import MLflowLogger
from torch.nn import functional

from loops.workload import Batch, Workload


class IgniteLoop:
    """See `Loop`."""

    def train(self, workload: Workload, recorded: bool) -> None:
        """See `Loop.train`."""
        net = workload.net()
        optimizer = workload.optimizer(net)
        schedule = workload.schedule(optimizer)

        def update(_: Engine, batch: Batch) -> None:
            inputs, targets = batch
            optimizer.zero_grad()
            functional.cross_entropy(net(inputs), targets).backward()  # type: ignore[no-untyped-call]  # torch 2.13
            optimizer.step()

        trainer = Engine(update)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: schedule.step())
        if not recorded:
            trainer.run(workload.loader(), max_epochs=1)
            return
        logger = MLflowLogger(workload.uri)
        logger.attach_opt_params_handler(trainer, event_name=Events.ITERATION_STARTED, optimizer=optimizer)
        try:
            trainer.run(workload.loader(), max_epochs=1)
        finally:
            logger.close()
