"""The recorder: two hooks on one optimizer that turn every step into a `Record`."""

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sized
from itertools import compress
from sys import modules
from time import perf_counter_ns, time_ns
from typing import Any, Protocol, SupportsFloat

from torch.optim import Optimizer

from lrtape.arrivals import CUDA, Devices, LateStep, LateSteps, is_capturing
from lrtape.errors import ConfigError
from lrtape.groups import FROZEN
from lrtape.keys import GroupNames, Keys, legal_key
from lrtape.lines import warn
from lrtape.step_findings import ambiguous_lr, captured_step, steps_skipped
from lrtape.step_hooks import DYNAMO, StepHooks, keep_compiler_out
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, now_ms

SKIPPED_STEPS = "health/skipped_steps"
"""Metric: how many steps were skipped so far, at the next step that was not."""
SAMPLE_MASK = 0x3F
"""One step of 64 is timed; never the first, which has more to do."""
MAX_SAMPLES = 1000


def _step_is_torchs(optimizer_class: type[Optimizer]) -> bool:
    """Whether its ``step()`` is torch's, in nothing but torch's wrappers and ours: then it changes no lr."""
    step: Any = optimizer_class.step
    while step is not None:
        if not getattr(step, "__globals__", {}).get("__name__", "").startswith(("torch.", "lrtape.")):
            return False
        step = getattr(step, "__wrapped__", None)
    return f"{optimizer_class.__module__}.".startswith("torch.optim.")


class FrameWriter(Protocol):
    """Where a recorder writes to."""

    def write(self, frame: GroupLayout | Record | Point | Finding) -> bool:
        """Keep one frame and say whether it is safe. Called within every step: never raises, never waits."""

    def tend(self) -> None:
        """See that things go on. Called every now and then within a step: never raises, never waits."""


class Recorder:
    """Records the lr that each step of one optimizer used. Belongs to the thread that steps the optimizer.

    The lr of every group is read in a pre-hook and committed in the first post-hook that follows. So whatever set the
    lr before the step, it is what the step used; a step that raises commits nothing; and a ``step()`` that calls
    ``super().step()``, which fires the hooks twice, is recorded once, with what the inner call used.

    A step that a GradScaler skips, because gradients have overflowed, does not count. A fused optimizer runs its
    ``step()`` even so, and tells on the device whether it has updated anything.

    What lies on a GPU, an lr or that answer, is copied there and looked at when it has arrived; until then the step,
    and those behind it, wait in memory, at most `lrtape.arrivals.MAX_WAITING` of them. Nothing waits for the GPU.

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
        devices: what is not to be waited for.

    Attributes:
        steps: index of the next step.
        skipped_steps: how many steps were skipped.
        last: the last recorded step.
        groups: all param groups.
        moving_groups: those that have an lr in the records.
        findings: what a person should know.
        samples_ns: what some of the steps took here, in nanoseconds.

    Raises:
        ConfigError: two groups would share a key and are not to be numbered, or an lr is not a number.
    """

    # With more than 30 attributes, without slots, CPython (3.11) looks up each of them in a dictionary.
    __slots__ = (
        "__weakref__",
        "_awaits_compiler",
        "_before_ns",
        "_flagged",
        "_frozen",
        "_has_begun",
        "_hooks",
        "_index",
        "_is_on_device",
        "_is_plain",
        "_keys",
        "_late",
        "_least",
        "_lrs",
        "_moving",
        "_name",
        "_names",
        "_optimizer",
        "_param_groups",
        "_renamed",
        "_resumes",
        "_step_is_torchs",
        "_tend",
        "_told",
        "_told_groups",
        "_told_skips",
        "_write",
        "findings",
        "groups",
        "is_on",
        "last",
        "moving_groups",
        "samples_ns",
        "skipped_steps",
        "steps",
    )

    def __init__(
        self,
        optimizer: Optimizer,
        index: int,
        keys: Keys,
        name: str = "",
        param_paths: Mapping[int, str] | None = None,
        numbered: bool = False,
        first_step: int = 0,
        devices: Devices = CUDA,
    ) -> None:
        for position, param_group in enumerate(optimizer.param_groups):
            if not isinstance(param_group.get("lr"), SupportsFloat) and not self._makes_own_lr(param_group):
                raise ConfigError(
                    f"the lr of param group {position} of {type(optimizer).__name__} must be a number, but is "
                    f"{param_group.get('lr')!r} instead. lrtape records the 'lr' of each param group; of an Adafactor "
                    "that makes its own, attach(optimizer, also=['effective_lr'], also_every_n_steps=1) does."
                )
        self.steps = first_step
        self._resumes = first_step > 0
        self.skipped_steps = 0
        self._least = 0
        self.last: Record | None = None
        self.findings: list[Finding] = []
        self.samples_ns: deque[int] = deque(maxlen=MAX_SAMPLES)
        self._awaits_compiler = True
        self._before_ns = 0
        self.groups: tuple[Group, ...] = ()
        self.moving_groups: tuple[Group, ...] = ()
        self._index = index
        self._keys = keys
        self._name = name
        self._names = GroupNames(param_paths)
        self._renamed: list[tuple[Group, Group]] = []
        self._write: Callable[[GroupLayout | Record | Point | Finding], bool] = lambda _: False
        self._tend: Callable[[], None] = lambda: None
        self._hooks: StepHooks | None = None
        self.is_on = False
        self._late = LateSteps(devices, self._arrived)
        self._is_plain = True
        self._step_is_torchs = False
        self._has_begun: bool | None = None
        self._lrs: list[float] | LateStep | None = None
        self._told_groups: tuple[Group, ...] | None = None
        self._told_skips = 0
        self._told: set[str] = set()
        self._param_groups: list[dict[str, Any]] = []
        self._flagged: list[dict[str, Any]] = []
        self._moving: list[dict[str, Any]] = []
        # Not held: who trains one model after the other wants the memory back.
        self._optimizer = weakref.ref(optimizer, self._forget)
        reserve = keys.resume if first_step else keys.reserve
        self._name_groups(optimizer.param_groups, keys.reserve_numbered if numbered else reserve)

    def start(self, writer: FrameWriter) -> None:
        """Record from the next step on; `writer` gets a `GroupLayout` before the first `Record` and at each change."""
        self.stop()
        self._write = writer.write
        self._tend = writer.tend
        optimizer = self._optimizer()
        if optimizer is not None:
            self._hooks = StepHooks(optimizer, self)
            self._step_is_torchs = _step_is_torchs(type(optimizer))
            self.is_on = True

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer, as long as somebody else holds it."""
        return self._optimizer()

    def move(self, keys: Keys, writer: FrameWriter) -> None:
        """Go on in another run: to another writer, and by names that are numbered where its `keys` are taken.

        It leaves the hooks alone, so that it may be called within a step, by the `FrameWriter` that it replaces.
        """
        self._write = writer.write
        self._tend = writer.tend
        self._keys = keys
        reserve = keys.resume_numbered if self._resumes else keys.reserve_numbered
        self._renamed += self._names.rename(lambda name: reserve(name, self._name))
        self.groups = self.named_now(self.groups)
        self.moving_groups = self.named_now(self.moving_groups)

    def named_now(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """The groups of a step that was made before `move`, by their new names; any others as they are."""
        new = tuple(next((now for before, now in self._renamed if before is group), group) for group in groups)
        return groups if new == groups else new

    def align(self, step: int) -> None:
        """Give the next step to begin at least the index `step`; called between two steps."""
        self._least = step
        if self.steps < step and not self._late:
            self.steps = step

    @property
    def next_step(self) -> int:
        """Index of the next step to begin, if none of those that wait for a device was skipped."""
        return max(self.steps + len(self._late), self._least)

    def receive_all(self) -> None:
        """Wait for the steps that wait for a device."""
        try:
            self._late.receive_all()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._cannot_record(self._optimizer(), error)
        self.steps = max(self.steps, self._least)

    def reread(self) -> None:
        """Take the lrs as they are now for the step that is under way, if there is one.

        For who knows that it has not updated anything yet: a closure may have set them since the step began.
        """
        optimizer = self._optimizer()
        if self._lrs is not None and optimizer is not None:
            self.before_step(optimizer, (), {})

    def record(self) -> None:
        """Record a step for which torch calls no hook: the replay of a CUDA graph, with the lrs as they are now."""
        optimizer = self._optimizer()
        if optimizer is not None:
            self.before_step(optimizer, (), {})
            self.after_step(optimizer, (), {})

    def before_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:  # noqa: ARG002
        """See `lrtape.step_hooks.Watcher`."""
        if self._awaits_compiler and DYNAMO in modules:
            self._awaits_compiler = False
            keep_compiler_out()
        sampled = self.steps & SAMPLE_MASK == SAMPLE_MASK
        if sampled:
            begin = perf_counter_ns()
        try:
            param_groups = optimizer.param_groups
            try:
                # Comparing lists compares identities first, and nothing else as long as all are the same: 1 ns a group,
                # where any other way takes 30. load_state_dict() puts equal dictionaries in the place of all.
                changed = param_groups != self._param_groups or param_groups[0] is not self._param_groups[0]
            except Exception:  # noqa: BLE001
                changed = True  # Values of two different groups, which cannot be compared.
            if changed and not self._are_hidden_groups(param_groups):
                self._name_groups(param_groups, self._keys.reserve_numbered)
            elif self._flagged and self._frozen != [group.get(FROZEN) for group in self._flagged]:
                self._leave_out_frozen()
            # float() copies: a tensor lr is changed in place by its scheduler.
            self._lrs = [float(group["lr"]) for group in self._moving] if self._is_plain else self._begin(optimizer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._lrs = None
            self._cannot_record(optimizer, error)
        if sampled:
            self._before_ns = perf_counter_ns() - begin

    def after_step(self, optimizer: Optimizer, args: Sized, kwargs: object) -> None:
        """See `lrtape.step_hooks.Watcher`."""
        lrs = self._lrs
        if lrs is None:
            return  # The outer of two nested calls: the inner one is recorded already.
        before_ns = self._before_ns  # 0 where this step is not sampled
        if before_ns:
            begin = perf_counter_ns()
        self._lrs = None
        time_ms = time_ns() // 1_000_000  # now_ms(), without the call
        try:
            if isinstance(lrs, LateStep):
                self._end_late(lrs, time_ms)
            else:
                if self.moving_groups is self._told_groups:  # _commit(), without the call
                    step = self.steps
                    self.steps = step + 1
                    self.last = record = Record(self._index, step, time_ms, lrs)
                    self._write(record)
                else:
                    self._commit(self.moving_groups, time_ms, lrs)
                # Only a closure can have changed an lr in a step of torch's own.
                is_settled = self._step_is_torchs and len(args) < 2 and not kwargs
                if not is_settled and lrs != [group["lr"] for group in self._moving]:
                    self._lr_changed(lrs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._cannot_record(optimizer, error)
        if before_ns:
            self._before_ns = 0
            self.samples_ns.append(before_ns + perf_counter_ns() - begin)
            self._tend()

    def _commit(self, groups: tuple[Group, ...], time_ms: int, lrs: list[float]) -> None:
        if groups is not self._told_groups:
            self._tell_groups(groups, time_ms)
        step = self.steps
        self.steps = step + 1
        self.last = record = Record(self._index, step, time_ms, lrs)
        if self._told_groups is not None:
            self._write(record)

    def _tell_groups(self, groups: tuple[Group, ...], time_ms: int) -> None:
        """What is to be told before the next record."""
        self._told_groups = groups if self._write(GroupLayout(self._index, groups)) else None
        if self.skipped_steps != self._told_skips:
            self._told_skips = self.skipped_steps
            key = legal_key(f"{SKIPPED_STEPS}/{self._name}" if self._name else SKIPPED_STEPS)
            self._write(Point(key, self.steps, time_ms, float(self.skipped_steps)))

    def _begin(self, optimizer: Optimizer) -> list[float] | LateStep | None:
        """What the step uses, where that is not plain to see; ``None`` where nothing is updated now."""
        if self._has_begun is not None:
            self._has_begun = True
        if is_capturing():
            self._tell(captured_step(type(optimizer).__name__, self.groups[0].key, self.steps))
            return None
        lrs = [group["lr"] for group in self._moving]
        found_inf = getattr(optimizer, "found_inf", None)  # GradScaler gives it to a fused optimizer
        if self._late or found_inf is not None or any(map(self._late.devices.holds, lrs)):
            return self._late.begin(lrs, found_inf, self._least)
        return [float(lr) for lr in lrs]

    def _end_late(self, step: LateStep, time_ms: int) -> None:
        try:
            self._late.end(step, self.moving_groups, time_ms, [group["lr"] for group in self._moving])
        finally:
            self._see_what_is_plain()

    def _arrived(self, step: LateStep, lrs: list[float], found_inf: float) -> None:
        if found_inf:
            self._skip()
            return
        self.steps = max(self.steps, step.least)
        self._commit(self.named_now(step.groups) if self._renamed else step.groups, step.time_ms, lrs)
        if step.changed is not None:
            self._tell_ambiguity(step.groups[step.changed].key, lrs[step.changed], f"from {lrs[step.changed]!r}")

    def before_scaler(self) -> None:
        """See `lrtape.step_hooks.Watcher`."""
        self._has_begun = False
        self._see_what_is_plain()

    def after_scaler(self, raised: bool) -> None:
        """See `lrtape.step_hooks.Watcher`."""
        if self._has_begun is False and not raised:  # not None: of a recorder that was started in between
            self._late.call_behind(self._skip)
        self._has_begun = None
        self._see_what_is_plain()

    def skips(self) -> list[Finding]:
        """What is to be said of the skipped steps so far."""
        n_skipped = self.skipped_steps
        return [steps_skipped(n_skipped, self.steps, self.groups[0].key)] if n_skipped else []

    def _skip(self) -> None:
        self.skipped_steps += 1
        self._told_groups = None  # and so it is told with the next record

    def _forget(self, _: object) -> None:
        """The optimizer is gone; its param groups hold its parameters."""
        self._names = GroupNames()
        for groups in (self._param_groups, self._flagged, self._moving):
            groups.clear()

    def _name_groups(self, param_groups: list[dict[str, Any]], reserve: Callable[[str, str], Group]) -> None:
        self.groups = self._names.assign(param_groups, lambda name: reserve(name, self._name))
        self._param_groups = list(param_groups)
        self._flagged = [group for group in param_groups if FROZEN in group]
        self._leave_out_frozen()

    def _leave_out_frozen(self) -> None:
        self._frozen = [group.get(FROZEN) for group in self._flagged]
        moves = [not group.get(FROZEN) and not self._makes_own_lr(group) for group in self._param_groups]
        self._moving = list(compress(self._param_groups, moves))
        self.moving_groups = tuple(compress(self.groups, moves))
        # Looked at here, and not in every step: an lr that becomes a tensor later is right too, but is waited for.
        values = (value for group in self._param_groups for value in (group["lr"], *group["params"]))
        self._is_on_device = any(map(self._late.devices.holds, values))
        self._see_what_is_plain()

    def _makes_own_lr(self, param_group: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether the ``lr`` of a param group is not used, and something else is recorded."""
        return False

    def _see_what_is_plain(self) -> None:
        # A fused optimizer may be told not to update, by GradScaler or by somebody else's scaler.
        is_fused = getattr(self._optimizer(), "_step_supports_amp_scaling", False)
        self._is_plain = not (self._is_on_device or self._late or self._has_begun is not None or is_fused)

    def _are_hidden_groups(self, param_groups: list[dict[str, Any]]) -> bool:
        """Whether a step that is under way goes on with some of its groups: then it has the others nevertheless."""
        return self._lrs is not None and all(any(group is one for one in self._param_groups) for group in param_groups)

    def _cannot_record(self, optimizer: Optimizer | None, error: Exception) -> None:
        if "failed" not in self._told:
            self._told.add("failed")
            warn(
                f"lrtape could not record step {self.steps} of {type(optimizer).__name__} ({error!r}); the "
                "training goes on, and so does the recording of the steps that can be read."
            )

    def _lr_changed(self, lrs: list[float]) -> None:
        now = [float(group["lr"]) for group in self._moving]
        # None where they differ only in their type, or are NaN, which does not equal itself.
        index = next((i for i, lr in enumerate(lrs) if now[i] != lr and (now[i] == now[i] or lr == lr)), None)
        if index is None:
            return
        self._tell_ambiguity(self.moving_groups[index].key, lrs[index], f"from {lrs[index]!r} to {now[index]!r}")

    def _tell_ambiguity(self, key: str, lr: float, change: str) -> None:
        self._tell(ambiguous_lr(key, lr, change, self.steps - 1))

    def _tell(self, finding: Finding) -> None:
        """Say it once."""
        if finding.code not in self._told:
            self._told.add(finding.code)
            self.findings.append(finding)
            self._write(finding)
            warn(finding.message)

    def stop(self) -> None:
        """Record no more steps, until `start`; idempotent. Waits for what is on its way from a device."""
        if self._hooks is None:
            return
        self._hooks.remove()
        self._hooks = None
        self.is_on = False
        self._has_begun = None
        self.receive_all()
        if self.skipped_steps != self._told_skips:
            self._tell_groups(self.moving_groups, now_ms())
