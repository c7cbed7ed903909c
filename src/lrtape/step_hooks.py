"""Where a step of an optimizer begins to update, where it has updated, and where a GradScaler has skipped it."""

import contextlib
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Protocol

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle

DYNAMO = "torch._dynamo"

_PRE, _POST = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"


class Watcher(Protocol):
    """Is told about the steps of one optimizer, by the thread that makes them. Never raises.

    ``before_step`` begins with `keep_compiler_out`, as soon as `DYNAMO` is among the imported modules. The optimizer is
    the first of the ``args``.
    """

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The optimizer is about to update. Where called several times, the last one is next to the update."""

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """It has updated. Where called several times, the first one is next to the update. Not called if it raises."""

    def before_scaler(self) -> None:
        """A GradScaler decides whether to step. A fused optimizer is called anyway, and given a ``found_inf``."""

    def after_scaler(self, raised: bool) -> None:
        """It has decided, and stepped, or not.

        Args:
            raised: an exception.
        """


class StepHooks:
    """Lets nothing come between a watcher and the update of an optimizer.

    Other people's hooks may step a scheduler, and a subclass may set the lr before it calls ``super().step()``. So the
    watcher is called behind all pre-hooks and before all post-hooks of the optimizer, also those that are registered
    later, and around the ``step()`` of base classes, too.

    Args:
        optimizer: is not held.
        watcher: is told.
    """

    def __init__(self, optimizer: Optimizer, watcher: Watcher) -> None:
        for hook in (type(watcher).before_step, type(watcher).after_step):
            hook._torchdynamo_disable = True  # type: ignore[attr-defined]  # what torch.compiler.disable() sets
        watch_grad_scalers()
        _watch_base_classes(type(optimizer))
        self._hooks = [
            _own(optimizer, _PRE, ours_first=False).add(watcher, watcher.before_step),
            _own(optimizer, _POST, ours_first=True).add(watcher, watcher.after_step),
        ]

    def remove(self) -> None:
        """Tell no more; idempotent."""
        while self._hooks:
            self._hooks.pop()()


class _Hooks(MutableMapping[int, Any]):
    """The hooks of an optimizer: those that are registered with it, and ours, which nobody can get behind.

    It takes the place of torch's dictionary, and stays: handles that remove a hook refer to it. A change while torch
    goes through the hooks does no harm. A copy, and a pickle, is what the optimizer would have without us.

    Args:
        registered: torch's dictionary, which handles refer to, too. Has ours, too: torch may have begun with it.
        ours_first: whether ours are called before the others, or behind.
    """

    __slots__ = ("__weakref__", "_n", "_order", "_ours", "_ours_first", "_view", "registered")

    def __init__(self, registered: MutableMapping[int, Any], ours_first: bool) -> None:
        self.registered = registered
        self._ours: dict[int, Watcher] = {}
        self._ours_first = ours_first
        self._view = None if ours_first else _View(self)
        self._order: tuple[Any, ...] = ()
        self._n = -1

    def add(self, watcher: Watcher, hook: Callable[..., None]) -> Callable[[], None]:
        """Add one of ours; returns what removes it."""
        key = RemovableHandle(self.registered).id
        self._ours[key] = watcher
        self[key] = hook

        def remove() -> None:
            del self._ours[key]
            del self[key]

        return remove

    @property
    def watchers(self) -> tuple[Watcher, ...]:
        """Those of ours."""
        return tuple(self._ours.values())

    def order(self) -> tuple[Any, ...]:
        """The hooks in the order in which they are called."""
        if len(self.registered) != self._n:  # A handle of before may have removed one.
            ours = tuple(hook for key, hook in self.registered.items() if key in self._ours)
            theirs = tuple(hook for key, hook in self.registered.items() if key not in self._ours)
            self._order = ours + theirs if self._ours_first else theirs + ours
            self._n = len(self.registered)
        return self._order

    def values(self) -> Any:
        """What torch goes through."""
        if self._view is not None and _global_optimizer_pre_hooks:
            return self._view
        return self._order if len(self.registered) == self._n else self.order()  # without a call, in every step

    def __getitem__(self, key: int) -> Any:
        return self.registered[key]

    def __setitem__(self, key: int, hook: Any) -> None:
        self.registered[key] = hook
        self._n = -1

    def __delitem__(self, key: int) -> None:
        del self.registered[key]
        self._n = -1

    def __iter__(self) -> Iterator[int]:
        return iter(self.registered)

    def __len__(self) -> int:
        return len(self.registered)

    def __reduce__(self) -> Any:
        return OrderedDict, ([(key, hook) for key, hook in self.registered.items() if key not in self._ours],)


class _View:
    """The pre-hooks as they are when torch comes to the first of them: those of all optimizers may have added some."""

    __slots__ = ("_hooks",)

    def __init__(self, hooks: _Hooks) -> None:
        self._hooks = hooks

    def __iter__(self) -> Iterator[Any]:
        hooks = self._hooks
        # order(), without the call: this runs in every step.
        return iter(hooks._order if len(hooks.registered) == hooks._n else hooks.order())


def _own(optimizer: Optimizer, name: str, ours_first: bool) -> _Hooks:
    """The hooks of an optimizer, as ours."""
    hooks = vars(optimizer)[name]
    if not isinstance(hooks, _Hooks):
        hooks = _Hooks(hooks, ours_first)
        setattr(optimizer, name, hooks)
    return hooks


def _watchers(optimizer: object) -> tuple[Watcher, ...]:
    """Of an optimizer; none of anything else, whatever a class that is watched is mixed into."""
    hooks = getattr(optimizer, "__dict__", {}).get(_PRE)
    return hooks.watchers if isinstance(hooks, _Hooks) else ()


@functools.cache
def keep_compiler_out() -> None:
    """Let ``torch.compile`` see nothing of lrtape: it would turn a hook into what it was in its first step.

    To be called when the compiler has been imported, which takes seconds, and so is left to whoever compiles.
    """
    with contextlib.suppress(Exception):  # a part of torch that may change; without it, only what is compiled suffers
        from torch._dynamo import trace_rules

        trace_rules.add("lrtape")


def innermost(optimizer: Any) -> Any:
    """What a wrapper of an optimizer steps, as Lightning's and Accelerate's do; anything else as it is.

    A wrapper that is an optimizer of its own, with hooks of its own, is no wrapper: ``ZeroRedundancyOptimizer``, say.
    """
    outer, seen = optimizer, set()
    while id(outer) not in seen:
        seen.add(id(outer))
        inner = getattr(outer, "optimizer", getattr(outer, "optim", None))
        if has_hooks(outer) and not (has_hooks(inner) and _are_shared(outer, inner)):
            return outer
        if inner is None:
            break
        outer = inner
    return optimizer


def has_hooks(optimizer: object) -> bool:
    """Whether torch calls hooks in its steps."""
    return isinstance(optimizer, Optimizer) and _PRE in vars(optimizer)


def _are_shared(*optimizers: Any) -> bool:
    """Whether these have the same hooks."""
    hooks = [vars(optimizer)[_PRE] for optimizer in optimizers]
    return len({id(one.registered if isinstance(one, _Hooks) else one) for one in hooks}) == 1


def _watch_base_classes(optimizer_class: type[Optimizer]) -> None:
    """Torch calls hooks in the ``step()`` of a class of which an object was made, and not in those of its bases."""
    overriding = [
        cls
        for cls in optimizer_class.__mro__
        if issubclass(cls, Optimizer) and cls is not Optimizer and inspect.isfunction(vars(cls).get("step"))
    ]
    for cls in overriding[1:]:
        step = vars(cls)["step"]
        if not getattr(step, "hooked", False) and not getattr(step, "watched", False):
            cls.step = _watched(step, cls)  # type: ignore[method-assign]


def _watched(step: Callable[..., Any], cls: type[Optimizer]) -> Callable[..., Any]:
    """The same ``step()``; stays with the class, and does nothing for an optimizer that nobody watches."""

    @functools.wraps(step)
    def watched(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        # Torch may have put its own hooks around this since: they were called just now.
        is_hooked = any(getattr(one.step, "__wrapped__", None) is watched for one in (type(optimizer), cls))
        watchers = () if is_hooked else _watchers(optimizer)
        given = (optimizer, *args)  # as torch says it
        for watcher in watchers:
            watcher.before_step(optimizer, given, kwargs)
        result = step(optimizer, *args, **kwargs)
        for watcher in watchers:
            watcher.after_step(optimizer, given, kwargs)
        return result

    watched.watched = True  # type: ignore[attr-defined]
    return watched


def watch_grad_scalers() -> None:
    """See which steps a GradScaler skips: it calls no hook at all there. Called before the first of its steps."""
    step = GradScaler.step
    if getattr(step, "watched", False):
        return

    @functools.wraps(step)
    def watched(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        watchers = _watchers(optimizer)
        for watcher in watchers:
            watcher.before_scaler()
        raised = True
        try:
            result = step(scaler, optimizer, *args, **kwargs)
            raised = False
        finally:
            for watcher in watchers:
                watcher.after_scaler(raised)
        return result

    watched.watched = True  # type: ignore[attr-defined]
    GradScaler.step = watched  # type: ignore[assignment,method-assign]
