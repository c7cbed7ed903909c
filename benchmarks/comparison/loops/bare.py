"""The loop that everybody writes, and a place in it for what records."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch.nn import functional
from torch.optim import Optimizer

from loops.workload import Workload

AfterStep = Callable[[int], None]
"""Called with the index of a step when it is made, and before the schedule moves on."""
Recording = Callable[[Optimizer], AbstractContextManager[AfterStep]]
"""What records an optimizer as long as the context lasts."""


def nothing_after(_: int) -> None:
    """Where a step is recorded without a call in the loop."""


@contextmanager
def no_recording(_: Optimizer) -> Iterator[AfterStep]:
    """The loop without logging."""
    yield nothing_after


class BareLoop:
    """See `Loop`.

    Args:
        recording: what records.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def train(self, workload: Workload, recorded: bool) -> None:
        """See `Loop.train`."""
        net = workload.net()
        optimizer = workload.optimizer(net)
        schedule = workload.schedule(optimizer)
        recording = self._recording if recorded else no_recording
        with recording(optimizer) as after_step:
            for step, (inputs, targets) in enumerate(workload.loader()):
                optimizer.zero_grad()
                functional.cross_entropy(net(inputs), targets).backward()  # type: ignore[no-untyped-call]  # torch 2.13
                optimizer.step()
                after_step(step)
                schedule.step()
