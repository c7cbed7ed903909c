"""A recorder that also records what is asked for beside the lr, every so many steps."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import compress
from typing import Any

from torch.optim import Optimizer

from lrtape.arrivals import Arrival, Arrivals, LateStep
from lrtape.beside import EFFECTIVE_LR, Beside, StepValues, key_of
from lrtape.effective_lr import ignores_lr
from lrtape.groups import FROZEN
from lrtape.lines import warn
from lrtape.recorder import FrameWriter, Recorder
from lrtape.tape import Point

_NEVER = 2**63


def recorder_class(beside: Beside) -> Callable[..., Recorder]:
    """What makes a recorder, with the arguments of `Recorder`."""
    return partial(BesideRecorder, beside=beside) if beside.quantities else Recorder


class BesideRecorder(Recorder):
    """Records more of every n-th step than its lrs: see `lrtape.beside`.

    It is read next to the update, and written with the index and the time of the step when all of it has arrived from
    the device. A step that is skipped has no values; then the next one is read instead. The replay of a CUDA graph has
    none. Any other step costs less than a microsecond more than with `Recorder`.

    A param group whose ``lr`` is not used, for the optimizer makes its own, has no lr in the records.

    Args:
        args: see `Recorder`.
        beside: what is recorded, and how often.
        kwargs: see `Recorder`.
    """

    def __init__(self, *args: Any, beside: Beside, **kwargs: Any) -> None:
        self._beside = beside
        super().__init__(*args, **kwargs)
        self._due = -(-self.steps // beside.every_n_steps) * beside.every_n_steps
        self._look_at = self._due
        """The index from which on there is something to do: `_due`, or 0 while something has not arrived."""
        self._reading: StepValues | None = None
        self._values = Arrivals()
        self._said: set[str] = set()

    def start(self, writer: FrameWriter) -> None:
        """See `Recorder.start`; says once what this optimizer does not have."""
        super().start(writer)
        optimizer = self._optimizer()
        if optimizer is not None:
            for name in self._beside.without_values(optimizer.param_groups):
                self._say(name, f"{type(optimizer).__name__} has nothing that lrtape knows as its {name}")

    def stop(self) -> None:
        """See `Recorder.stop`."""
        super().stop()
        self._reading = None
        self._try(self._values.receive_all)

    def record(self) -> None:
        """See `Recorder.record`. The update is over by then, and so nothing else is recorded."""
        look_at, self._look_at = self._look_at, _NEVER
        super().record()
        self._look_at = look_at

    def reread(self) -> None:
        """See `Recorder.reread`."""
        optimizer, reading = self._optimizer(), self._reading
        if optimizer is None or reading is None:
            super().reread()
        else:
            self.before_step(optimizer, reading.args, reading.kwargs)

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """See `lrtape.step_hooks.Watcher`."""
        Recorder.before_step(self, optimizer, args, kwargs)  # super() takes as long as all that follows
        if (self.steps if self._is_plain else self.next_step) >= self._look_at and self._lrs is not None:
            self._try(lambda: self._look(optimizer, args, kwargs))

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """See `lrtape.step_hooks.Watcher`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            self._try(lambda: self._end(reading))
        Recorder.after_step(self, optimizer, args, kwargs)

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._values.receive()
        if self.next_step >= self._due:
            self._reading = None  # of a step that has raised: two copies of the weights may be too many
            moves = [not group.get(FROZEN) for group in optimizer.param_groups]
            groups = list(compress(zip(self.groups, optimizer.param_groups, strict=True), moves))
            self._reading = StepValues(self._beside.quantities, optimizer, groups, args, kwargs, self._late.devices)
            if isinstance(self._lrs, list):  # Its index is told by `_arrived`.
                self._lrs = self._late.begin([group["lr"] for group in self._moving], None, self._least)
        self._see_when_to_look()

    def _end(self, reading: StepValues) -> None:
        arrival = self._late.devices.copy(reading.end())
        if isinstance(self._lrs, LateStep):
            self._lrs.beside = (reading, arrival)
            every_n_steps = self._beside.every_n_steps
            self._due = (self.next_step // every_n_steps + 1) * every_n_steps
            self._see_when_to_look()
        for name, why in reading.left_out.items():
            self._say(name, f"{name} of {type(self._optimizer()).__name__} is not recorded: {why}")

    def _arrived(self, step: LateStep, lrs: list[float], found_inf: float) -> None:
        super()._arrived(step, lrs, found_inf)
        if step.beside is None:
            return
        if found_inf:
            self._due = self.steps
        else:
            reading, arrival = step.beside
            self._try(lambda: self._expect(reading, arrival, self.steps - 1, step.time_ms))
        self._see_when_to_look()

    def _expect(self, reading: StepValues, arrival: Arrival, step: int, time_ms: int) -> None:
        def write(numbers: list[float]) -> None:
            for name, group, value in reading.values(numbers):
                (named,) = self.named_now((group,))
                self._write(Point(key_of(name, named), step, time_ms, value))

        self._values.expect(arrival, write)

    def _see_when_to_look(self) -> None:
        self._look_at = 0 if self._values else self._due

    def _makes_own_lr(self, param_group: Mapping[str, Any]) -> bool:
        return EFFECTIVE_LR in self._beside.quantities and ignores_lr(param_group)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._reading = None
            self._say("failed", f"could not read what is asked for beside the lr ({error!r}); the training goes on")

    def _say(self, about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            warn(f"lrtape: {text}.")
