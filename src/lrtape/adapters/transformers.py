"""`LRTapeCallback`: the learning rates of a Hugging Face Trainer, in the run of its MLflowCallback."""

import atexit
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Unpack

from torch.nn import Module
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrtape import Session, attach
from lrtape.attaching import AttachOptions, check_options
from lrtape.tape import Status


class LRTapeCallback(TrainerCallback):
    """Records the lr that every optimizer step of a Trainer used, for every param group.

    ::

        Trainer(model, args, train_dataset=data, callbacks=[LRTapeCallback()])

    Goes into the run of the Trainer's MLflowCallback, whichever of the two comes first; without one, into the active
    MLflow run or a new one, as `lrtape.attach` does. A row has the ``global_step`` that the Trainer gives to the loss
    of the same step, which is counted from 1.

    A Trainer tells its callbacks nothing of an exception. Where one has ended a training, what was recorded is stored
    when the next training of this thread begins, or when the process ends; a run that was started for the recording is
    then FAILED, or KILLED after Ctrl-C.

    All methods are called by the Trainer, in the training thread; what it does there in a
    step takes less than a microsecond, beside `lrtape.attach`, and beside what the Trainer takes to call it.

    Args:
        options: those of `lrtape.attach` that are in `lrtape.attaching.AttachOptions`: ``names``, ``also``,
            ``print_every_n_steps`` and the like.

    Raises:
        ConfigError: there is no such option.
    """

    _unfinished: ClassVar[dict[int, Session]] = {}
    """The session of the training that is under way, or was broken off, by thread: a thread trains one at a time."""

    def __init__(self, **options: Unpack[AttachOptions]) -> None:
        check_options(options)
        self._options = options
        self._session: Session | None = None
        self._follows_broken_off = False
        self._at_exit: Callable[[], None] = lambda: None

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Store what a training that was broken off has left in this thread."""
        broken_off = self._unfinished.pop(threading.get_ident(), None)
        self._follows_broken_off = broken_off is not None
        if broken_off is not None:
            _break_off(broken_off)
        self._session = None

    def on_step_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        optimizer: Optimizer,
        model: Module,
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Begin to record at the first step, when every callback has begun; count as the Trainer does.

        Raises:
            ConfigError: an argument is wrong, or two param groups would share a metric, perhaps one of them of an
                earlier training in the same run.
            TrackingError: the tracking store cannot be reached.
        """
        step = state.global_step + 1
        if self._session is None:
            # A new training has no step that a run could have already, and must not go on with another one's curves.
            goes_on = state.global_step > 0 or self._follows_broken_off
            self._session = self._open(optimizer, model, step if goes_on else 0)
        self._session.align(step)  # A step that a GradScaler skipped has a number, too.

    def _open(self, optimizer: Optimizer, model: Module, first_step: int) -> Session:
        session = attach(
            optimizer,
            model=model,
            **self._options,
            first_step=first_step,
        )
        self._unfinished[threading.get_ident()] = session
        self._at_exit = partial(_break_off, session)
        atexit.register(self._at_exit)  # runs ahead of the session's own, which knows nothing of a caught exception
        return session

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        """Wait until everything is stored."""
        if self._session is not None:
            self._unfinished.pop(threading.get_ident(), None)
            atexit.unregister(self._at_exit)
            self._session.close(Status.FINISHED)
            self._session = None


def _break_off(session: Session) -> None:
    """End the session of a training that never came to its end."""
    last_error = getattr(sys, "last_value", None)
    session.close(Status.KILLED if isinstance(last_error, KeyboardInterrupt) else Status.FAILED)
