"""The recorder: two hooks on one optimizer that turn every step into a `Record`."""

import warnings
from collections.abc import Mapping
from functools import partial
from time import time_ns
from typing import Any, Literal, Protocol, SupportsFloat

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lrtape.errors import ConfigError
from lrtape.keys import Keys, group_names
from lrtape.tape import Finding, Group, Groups, Record

_NS_PER_MS = 1_000_000
# Record(...) goes through Python code, at twice the time.
_new_record = partial(tuple.__new__, Record)

AMBIGUOUS_LR = "ambiguous-lr"


class FrameWriter(Protocol):
    """Where a recorder writes to: a spool, a printer, or several."""

    def write(self, frame: Groups | Record | Finding) -> bool:
        """Take one frame and say whether it was kept. Must not raise: it runs inside ``optimizer.step()``."""


class Recorder:
    """Records the lr that each step of one optimizer used. Created and closed by the training thread.

    The lr of every group is read in a pre-hook and committed in the first post-hook that follows. So whatever set the
    lr before the step, it is what the step used; a step that raises commits nothing; and a ``step()`` that calls
    ``super().step()``, which fires the hooks twice, is recorded once, with what the inner call used.

    Costs about 2 us a step and 0.1 us a group on the training thread, most of it the write of the spool.

    Args:
        optimizer: the optimizer to watch.
        index: its index in the session, from 0.
        keys: hands out the metric keys.
        name: the optimizer's part of its keys; empty for the first optimizer of the session.
        param_paths: dotted path of each parameter by its ``id()``, to name groups that have no names.
        on_duplicate: see `Keys.add`; for the groups that are there now. Later ones are numbered: training has started.

    Raises:
        ConfigError: two groups would share a metric key and that is refused, or an lr is not a number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        keys: Keys,
        name: str = "",
        param_paths: Mapping[int, str] | None = None,
        on_duplicate: Literal["refuse", "number"] = "refuse",
    ) -> None:
        self.groups: tuple[Group, ...] = ()
        self.steps = 0
        self.last: Record | None = None
        self.findings: list[Finding] = []
        self._optimizer = optimizer
        self._index = index
        self._keys = keys
        self._name = name
        self._param_paths = param_paths
        self._known: list[tuple[dict[str, Any], Group]] = []
        self._groups_written = False
        self._failed = False
        self._hooks: list[RemovableHandle] = []
        self._lrs: list[float] | None = None
        for position, param_group in enumerate(optimizer.param_groups):
            if not isinstance(param_group.get("lr"), SupportsFloat):
                raise ConfigError(
                    f"the lr of param group {position} of {type(optimizer).__name__} must be a number, but is "
                    f"{param_group.get('lr')!r} instead. lrtape records the 'lr' of each param group."
                )
        self._name_groups(on_duplicate)

    def start(self, writer: FrameWriter) -> None:
        """Record from the next step on; `writer` gets a `Groups` before the first `Record` and at each change."""
        self._write = writer.write
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]

    def _before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        try:
            # float() copies: a tensor lr is changed in place by its scheduler.
            self._lrs = lrs = [float(group["lr"]) for group in optimizer.param_groups]
            if len(lrs) != len(self.groups):
                self._name_groups("number")
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._lrs = None
            self._cannot_record(error)

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        lrs = self._lrs
        if lrs is None:
            return  # The outer of two nested calls: the inner one is recorded already.
        self._lrs = None
        if not self._groups_written:
            self._groups_written = self._write(Groups(self._index, self.groups))
        step = self.steps
        self.steps = step + 1
        self.last = record = _new_record((self._index, step, time_ns() // _NS_PER_MS, lrs))
        if self._groups_written:
            self._write(record)
        if lrs != [group["lr"] for group in optimizer.param_groups]:
            self._lr_changed_within_step(record)

    def _name_groups(self, on_duplicate: Literal["refuse", "number"]) -> None:
        """Keep the name of every group that is known, and name the new ones."""
        param_groups = self._optimizer.param_groups
        derived = group_names(param_groups, self._param_paths)
        before = self._known
        self._known = []
        for index, (param_group, name) in enumerate(zip(param_groups, derived, strict=True)):
            group = next((group for seen, group in before if seen is param_group), None)
            if group is None and index < len(before) and not any(before[index][0] is seen for seen in param_groups):
                group = before[index][1]  # load_state_dict() put a new dictionary in the place of the old one.
            self._known.append((param_group, group or self._keys.add(name, self._name, on_duplicate)))
        self.groups = tuple(group for _, group in self._known)
        self._groups_written = False

    def _cannot_record(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            warnings.warn(
                f"lrtape could not record step {self.steps} of {type(self._optimizer).__name__} ({error!r}); the "
                "training goes on, and so does the recording of the steps that can be read.",
                stacklevel=2,
            )

    def _lr_changed_within_step(self, record: Record) -> None:
        """Say, once, that something set an lr between our two hooks, perhaps before the update."""
        if self.findings:
            return
        now = [group["lr"] for group in self._optimizer.param_groups]
        index = next((index for index, lr in enumerate(record.lrs) if index < len(now) and now[index] != lr), None)
        if index is None:
            return  # A group was added or removed, and no lr changed.
        key = self.groups[index].key
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
        warnings.warn(finding.message, stacklevel=2)

    def close(self) -> None:
        """Take the hooks off; idempotent."""
        for hook in self._hooks:
            hook.remove()
