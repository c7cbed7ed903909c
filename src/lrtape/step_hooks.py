"""Where a step of an optimizer begins to update, where it has updated, and where a GradScaler has skipped it."""

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

DYNAMO = "torch._dynamo"

_REGISTER = "register_step_pre_hook"
_watching: "weakref.WeakKeyDictionary[Optimizer, list[Watcher]]" = weakref.WeakKeyDictionary()


class Watcher(Protocol):
    """Is told about the steps of one optimizer, by the thread that makes them. Never raises.

    ``before_step`` begins with ``if DYNAMO in sys.modules: keep_compiler_out()``.
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
    watcher's pre-hook stays behind the optimizer's other pre-hooks, also those that are registered later, its post-hook
    in front, and the ``step()`` of base classes is watched, too.

    Args:
        optimizer: is not held.
        watcher: is told.
    """

    def __init__(self, optimizer: Optimizer, watcher: Watcher) -> None:
        for hook in (type(watcher).before_step, type(watcher).after_step):
            hook._torchdynamo_disable = True  # type: ignore[attr-defined]  # what torch.compiler.disable() sets
        self._watcher = watcher
        self._optimizer = weakref.ref(optimizer)
        _watch_base_classes(type(optimizer))
        _watch_grad_scalers()
        _watching.setdefault(optimizer, []).append(watcher)
        self._pre = optimizer.register_step_pre_hook(watcher.before_step)
        self._post = optimizer.register_step_post_hook(watcher.after_step)
        _behind(optimizer._optimizer_step_post_hooks, [*optimizer._optimizer_step_post_hooks][:-1])
        registration = vars(optimizer).get(_REGISTER)
        if not isinstance(registration, _Registration):
            registration = _Registration(optimizer)
            setattr(optimizer, _REGISTER, registration)
        registration.last.append(self._pre.id)

    def remove(self) -> None:
        """Tell no more. To be called once, and not within a step of the optimizer."""
        self._pre.remove()
        self._post.remove()
        optimizer = self._optimizer()
        if optimizer is None:
            return
        _watching[optimizer].remove(self._watcher)
        registration = vars(optimizer)[_REGISTER]
        registration.last.remove(self._pre.id)
        if not registration.last:
            delattr(optimizer, _REGISTER)


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
    inner = getattr(optimizer, "optimizer", None)
    if not isinstance(inner, Optimizer):
        return optimizer
    hooks = vars(optimizer).get("_optimizer_step_pre_hooks")
    is_wrapper = hooks is None or hooks is inner._optimizer_step_pre_hooks
    return innermost(inner) if is_wrapper else optimizer


class _Registration:
    """``optimizer.register_step_pre_hook``, as long as ours have to stay the last ones."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.last: list[int] = []

    def __call__(self, hook: Any) -> RemovableHandle:
        optimizer = self._optimizer()
        assert optimizer is not None  # noqa: S101 - it is called as the optimizer's own method
        handle = type(optimizer).register_step_pre_hook(optimizer, hook)
        _behind(optimizer._optimizer_step_pre_hooks, self.last)
        return handle


def _behind(hooks: dict[int, Any], ids: list[int]) -> None:
    """Put these at the end, in this order."""
    for hook_id in ids:
        hooks[hook_id] = hooks.pop(hook_id)


def _watch_base_classes(optimizer_class: type[Optimizer]) -> None:
    """Torch calls hooks in the ``step()`` of a class of which an object was made, and not in those of its bases."""
    overriding = [cls for cls in optimizer_class.__mro__ if "step" in vars(cls) and cls is not Optimizer]
    for cls in overriding[1:]:
        step = vars(cls)["step"]
        if not getattr(step, "hooked", False) and not getattr(step, "watched", False):
            cls.step = _watched(step, cls)  # type: ignore[attr-defined]


def _watched(step: Callable[..., Any], cls: type[Optimizer]) -> Callable[..., Any]:
    """The same ``step()``; stays with the class, and does nothing for an optimizer that nobody watches."""

    @functools.wraps(step)
    def watched(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        # Torch may have put its own hooks around this since: they were called just now.
        is_hooked = any(getattr(one.step, "__wrapped__", None) is watched for one in (type(optimizer), cls))
        watchers = [] if is_hooked else _watching.get(optimizer, [])
        for watcher in watchers:
            watcher.before_step(optimizer, args, kwargs)
        result = step(optimizer, *args, **kwargs)
        for watcher in watchers:
            watcher.after_step(optimizer, args, kwargs)
        return result

    watched.watched = True  # type: ignore[attr-defined]
    return watched


def _watch_grad_scalers() -> None:
    """A step that a GradScaler skips calls no hook at all."""
    step = GradScaler.step
    if getattr(step, "watched", False):
        return

    @functools.wraps(step)
    def watched(scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        watchers = _watching.get(optimizer, [])
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
