"""The recorder: two hooks on one optimizer that turn every step into a `Record`."""

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import compress
from time import perf_counter_ns, time_ns
from typing import Any, Protocol, SupportsFloat

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lrtape.errors import ConfigError
from lrtape.groups import FROZEN
from lrtape.keys import GroupNames, Keys
from lrtape.tape import Finding, Group, GroupLayout, Record

AMBIGUOUS_LR = "ambiguous-lr"
SAMPLE_MASK = 0x3F
"""One step of 64 is timed; never the first, which has more to do."""
MAX_SAMPLES = 1000

# Record(...) goes through Python code, at twice the time.
_new_record = partial(tuple.__new__, Record)


class FrameWriter(Protocol):
    """Where a recorder writes to."""

    def write(self, frame: GroupLayout | Record | Finding) -> bool:
        """Keep one frame and say whether it is safe. Called within every step: never raises, never waits."""

    def tend(self) -> None:
        """See that things go on. Called every now and then within a step: never raises, never waits."""


class Recorder:
    """Records the lr that each step of one optimizer used. Belongs to the thread that steps the optimizer.

    The lr of every group is read in a pre-hook and committed in the first post-hook that follows. So whatever set the
    lr before the step, it is what the step used; a step that raises commits nothing; and a ``step()`` that calls
    ``super().step()``, which fires the hooks twice, is recorded once, with what the inner call used.

    A group that is flagged ``frozen`` (see `lrtape.groups`) has a key and no rows: an lr that moves nothing was not
    used. Its curve begins with the first step after it was thawed. A group must have the flag, true or false, when it
    is added: then it is looked at in every step.

    ``benchmarks/`` tells what a step costs; most of it is the write of the spool.

    Args:
        optimizer: the optimizer to watch.
        index: its index in the session, from 0.
        keys: of the run.
        name: the optimizer's part of its keys; empty for the first optimizer of the session.
        param_paths: dotted path of each parameter by its ``id()``, to name groups that have no names.
        numbered: number groups that would share a key, instead of refusing them. Groups that are added later are
            numbered in any case: training has started by then.
        first_step: index of the next step; more than 0 in a training that is resumed, which goes on with the keys that
            an earlier session of the run has released.

    Raises:
        ConfigError: two groups would share a key and are not to be numbered, or an lr is not a number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        keys: Keys,
        name: str = "",
        param_paths: Mapping[int, str] | None = None,
        numbered: bool = False,
        first_step: int = 0,
    ) -> None:
        for position, param_group in enumerate(optimizer.param_groups):
            if not isinstance(param_group.get("lr"), SupportsFloat):
                raise ConfigError(
                    f"the lr of param group {position} of {type(optimizer).__name__} must be a number, but is "
                    f"{param_group.get('lr')!r} instead. lrtape records the 'lr' of each param group."
                )
        self.steps = first_step
        self.last: Record | None = None
        self.findings: list[Finding] = []
        self.samples_ns: deque[int] = deque(maxlen=MAX_SAMPLES)
        self._before_ns = 0
        self._optimizer = optimizer
        self._index = index
        self._keys = keys
        self._name = name
        self._names = GroupNames(param_paths)
        self._write: Callable[[GroupLayout | Record | Finding], bool] = lambda _: False
        self._tend: Callable[[], None] = lambda: None
        self._hooks: list[RemovableHandle] = []
        self._lrs: list[float] | None = None
        self._layout_written = False
        self._failed = False
        reserve = keys.resume if first_step else keys.reserve
        self._name_groups(keys.reserve_numbered if numbered else reserve)

    def start(self, writer: FrameWriter) -> None:
        """Record from the next step on; `writer` gets a `GroupLayout` before the first `Record` and at each change."""
        self.stop()
        self._write = writer.write
        self._tend = writer.tend
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def align(self, step: int) -> None:
        """Give the next step at least the index `step`; cheap enough for every step."""
        if step > self.steps:
            self.steps = step

    def reread(self) -> None:
        """Take the lrs as they are now for the step that is under way, if there is one.

        For who knows that it has not updated anything yet: a closure may have set them since the step began.
        """
        if self._lrs is not None:
            self._before_step(self._optimizer, (), {})

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        sampled = self.steps & SAMPLE_MASK == SAMPLE_MASK
        if sampled:
            begin = perf_counter_ns()
        try:
            if self._groups_changed(optimizer.param_groups):
                self._name_groups(self._keys.reserve_numbered)
            elif self._flagged and self._frozen != [group.get(FROZEN) for group in self._flagged]:
                self._leave_out_frozen()
            # float() copies: a tensor lr is changed in place by its scheduler.
            self._lrs = [float(group["lr"]) for group in self._moving]
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._lrs = None
            self._cannot_record(error)
        if sampled:
            self._before_ns = perf_counter_ns() - begin

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        lrs = self._lrs
        if lrs is None:
            return  # The outer of two nested calls: the inner one is recorded already.
        sampled = self.steps & SAMPLE_MASK == SAMPLE_MASK
        if sampled:
            begin = perf_counter_ns()
        self._lrs = None
        if not self._layout_written:
            self._layout_written = self._write(GroupLayout(self._index, self.moving_groups))
        step = self.steps
        self.steps = step + 1
        self.last = record = _new_record((self._index, step, time_ns() // 1_000_000, lrs))  # now_ms(), without the call
        if self._layout_written:
            self._write(record)
        if lrs != [group["lr"] for group in self._moving]:
            self._lr_changed_within_step(record)
        if sampled:
            self.samples_ns.append(self._before_ns + perf_counter_ns() - begin)
            self._tend()

    def _name_groups(self, reserve: Callable[[str, str], Group]) -> None:
        param_groups = self._optimizer.param_groups
        self.groups = self._names.assign(param_groups, lambda name: reserve(name, self._name))
        self._param_groups = list(param_groups)
        self._flagged = [group for group in param_groups if FROZEN in group]
        self._leave_out_frozen()

    def _leave_out_frozen(self) -> None:
        self._frozen = [group.get(FROZEN) for group in self._flagged]
        moves = [not group.get(FROZEN) for group in self._param_groups]
        self._moving = list(compress(self._param_groups, moves))
        self.moving_groups = tuple(compress(self.groups, moves))
        self._layout_written = False

    def _groups_changed(self, param_groups: list[dict[str, Any]]) -> bool:
        # Comparing lists compares identities first, and nothing else as long as all are the same: 1 ns a group, where
        # any other way takes 30. load_state_dict() puts equal dictionaries in the place of all.
        try:
            return param_groups != self._param_groups or param_groups[0] is not self._param_groups[0]
        except RuntimeError:
            return True  # Parameters of two different groups, which cannot be compared.

    def _cannot_record(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            _warn(
                f"lrtape could not record step {self.steps} of {type(self._optimizer).__name__} ({error!r}); the "
                "training goes on, and so does the recording of the steps that can be read."
            )

    def _lr_changed_within_step(self, record: Record) -> None:
        """Say, once, that something set an lr between our two hooks, perhaps before the update."""
        if self.findings:
            return
        now = [group["lr"] for group in self._moving]
        index = next(index for index, lr in enumerate(record.lrs) if now[index] != lr)
        key = self.moving_groups[index].key
        finding = Finding(
            AMBIGUOUS_LR,
            f"{key} changed from {record.lrs[index]!r} to {now[index]!r} while step {record.step} ran, and nothing "
            f"tells which of the two the step used; {record.lrs[index]!r} is recorded. Set the lr before "
            "optimizer.step(), and step the scheduler after it has returned.",
            key,
            record.step,
        )
        self.findings.append(finding)
        self._write(finding)
        _warn(finding.message)

    def stop(self) -> None:
        """Record no more steps, until `start`; idempotent."""
        for hook in self._hooks:
            hook.remove()


def _warn(text: str) -> None:
    """Warn; not even where warnings are errors may a step fail."""
    with contextlib.suppress(UserWarning):
        warnings.warn(text, stacklevel=3)
