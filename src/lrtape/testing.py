"""What a test of your own training loop needs: its lrs in memory, and a comparison that says where they are off.

::

    from lrtape.testing import assert_schedule, record

    def test_the_lr_is_halved_every_ten_steps():
        with record() as tape:
            my_training_loop()
        assert_schedule(tape, lambda step: 0.1 * 0.5 ** (step // 10))

No MLflow, no files, no process; torch is imported when `record` is used.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lrtape.columns import Columns
from lrtape.errors import ConfigError
from lrtape.golden import Golden, differences, write_golden
from lrtape.spool import Frame
from lrtape.tape import Series, Tape

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from lrtape.session import Session

__all__ = ["assert_schedule", "record", "write_golden"]


@contextmanager
def record(
    *optimizers: "Optimizer",
    model: "Module | None" = None,
    first_step: int = 0,
    also: Iterable[str] = (),
    also_every_n_steps: int = 1,
) -> Iterator[Tape]:
    """Record what every step within the ``with`` uses, in memory, as `lrtape.attach` records it.

    Args:
        optimizers: what is recorded; without any, every optimizer of the process that makes a step meanwhile.
        model: see `lrtape.attach`.
        first_step: see `lrtape.attach`.
        also: see `lrtape.attach`.
        also_every_n_steps: see `lrtape.attach`; here it is every step.

    Yields:
        The tape, which grows: it may be read within the ``with``, too. It holds a million steps at most.

    Raises:
        ConfigError: see `lrtape.attach`.
    """
    # Late: torch takes a second to import.
    from torch.optim import Optimizer

    from lrtape.attaching import check_first_step
    from lrtape.beside import Beside
    from lrtape.destination import Destination
    from lrtape.keys import optimizer_names
    from lrtape.outbox import KeepingOutbox, NoOutbox
    from lrtape.session import Session
    from lrtape.step_hooks import innermost

    check_first_step(first_step)
    optimizers = tuple(innermost(optimizer) for optimizer in optimizers)
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"`record` takes torch optimizers, but was given {type(optimizer).__name__} instead.")
    beside = Beside.of(also, also_every_n_steps)
    kept = _Kept()
    session = Session(Destination(outbox=KeepingOutbox(NoOutbox(), kept)), beside=beside)
    paths = {} if model is None else {id(param): path for path, param in model.named_parameters()}
    hook = None
    try:
        for optimizer, name in zip(optimizers, optimizer_names(optimizers, model), strict=True):
            session.add(optimizer, name, paths, first_step=first_step)
        if not optimizers:
            hook = _see_all(session, paths, first_step)
        yield _LiveTape(kept)
    finally:
        if hook is not None:
            hook.remove()
        session.close()


def assert_schedule(tape: Tape, golden: Golden, *, rel: float = 0.0) -> None:
    """Assert that every step used the lr that is expected of it, no step is missing, and none is there that is not.

    Args:
        tape: what `record` has yielded; also one of `lrtape.simulate`, `lrtape.read_run` or `lrtape.read_spool`.
        golden: what is expected. Another tape: all of its ``lr/`` keys. A function of the step, counted from 0: the
            same for every group, at all steps from the first recorded one to the last. The path of a file of
            `write_golden`. Or a mapping from key, as ``lr/head``, to a list with the lr of each step from 0 on, a
            mapping from step to lr, a series of a tape, or a function of the step; other keys, as ``momentum/head``,
            are compared if they are in it.
        rel: how far an lr may be off, as a share of the expected one; by default it must be equal to the last bit.

    Raises:
        AssertionError: the tape differs; the text shows the first step that does, and those around it, for each key.
        ConfigError: `golden` or `rel` is none.
    """
    __tracebackhide__ = True
    problems = differences(tape, golden, rel)
    if problems:
        raise AssertionError(problems)


def _see_all(session: "Session", paths: dict[int, str], first_step: int) -> "RemovableHandle":
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from lrtape.keys import optimizer_name

    seen: dict[int, Optimizer] = {}

    def see(optimizer: "Optimizer", args: Any, kwargs: Any) -> None:  # noqa: ARG001
        if id(optimizer) not in seen:
            seen[id(optimizer)] = optimizer  # held, so that no other one can have the same id
            session.add(optimizer, optimizer_name(optimizer, len(seen) - 1), paths, True, first_step)

    return register_optimizer_step_pre_hook(see)


class _Kept(Columns):
    """Columns whose tape is made anew only when there is more."""

    def __init__(self) -> None:
        super().__init__()
        self._tape: Tape | None = None

    def write(self, frame: Frame) -> None:
        super().write(frame)
        self._tape = None

    def tape(self) -> Tape:
        if self._tape is None:
            self._tape = super().tape()
        return self._tape


class _LiveTape(Tape):
    """What has been kept so far, whenever it is read."""

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept

    def __getitem__(self, key: str) -> Series:
        return self._kept.tape()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept.tape())

    def __len__(self) -> int:
        return len(self._kept.tape())
