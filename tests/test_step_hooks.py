"""Nothing comes between our hooks and the update."""

import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer

from lrtape.step_hooks import StepHooks, innermost


class Watch:
    """Notes in which order things happen."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.events: list[str] = []
        self.hooks = StepHooks(optimizer, self)

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.events.append("before" if not hasattr(optimizer, "found_inf") else f"before {optimizer.found_inf.item()}")

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.events.append("after")

    def before_scaler(self) -> None:
        self.events.append("scaler")

    def after_scaler(self, raised: bool) -> None:
        self.events.append("raised" if raised else "done")

    def note(self, event: str) -> Any:
        return lambda *_: self.events.append(event)


def sgd(cls: type[SGD] = SGD) -> SGD:
    return cls([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_other_hooks_stay_outside() -> None:
    """Those of other people run before and after ours, whether they were registered earlier or later."""
    optimizer = sgd()
    events: list[str] = []
    for moment in ("earlier", "later"):
        optimizer.register_step_pre_hook(lambda *_, moment=moment: events.append(f"pre {moment}"))
        optimizer.register_step_post_hook(lambda *_, moment=moment: events.append(f"post {moment}"))
        if moment == "earlier":
            watch = Watch(optimizer)
            watch.events = events
    optimizer.step()

    assert events == ["pre earlier", "pre later", "before", "after", "post earlier", "post later"]


def test_a_base_class_is_watched_too() -> None:
    """What a subclass does before ``super().step()`` is before the update: there, our hooks are called once more."""

    class Base(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            watch.events.append("update")

    class Own(Base):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            watch.events.append("own")
            super().step(closure)

    optimizer = sgd(Own)
    watch = Watch(optimizer)
    optimizer.step()
    assert watch.events == ["before", "own", "before", "update", "after", "after"]

    sgd(Base)  # From now on torch calls the hooks there.
    watch.events.clear()
    optimizer.step()
    assert watch.events == ["before", "own", "before", "update", "after", "after"]


def test_nothing_stays_when_the_hooks_are_removed() -> None:
    """The optimizer has all its own methods again, and its hooks."""
    optimizer = sgd()
    first, second = Watch(optimizer), Watch(optimizer)
    for watch in (first, second):
        watch.hooks.remove()
    optimizer.step()
    handle = optimizer.register_step_pre_hook(first.note("pre"))
    optimizer.step()
    handle.remove()

    assert first.events == ["pre"]
    assert second.events == []
    assert "register_step_pre_hook" not in vars(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_is_not_held() -> None:
    """One that is deleted is freed, with its parameters; one that is watched can be pickled."""
    optimizer = sgd()
    watch = Watch(optimizer)
    optimizer.register_step_pre_hook(watch.note("pre"))
    pickle.loads(pickle.dumps(optimizer)).step()
    parameter = weakref.ref(optimizer.param_groups[0]["params"][0])
    del optimizer
    gc.collect()

    assert parameter() is None
    assert watch.events == []
    watch.hooks.remove()


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_is_watched(fused: bool) -> None:
    """It may skip a step, and no hook is called; a fused optimizer is called as ever, and told to skip."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    watch = Watch(optimizer)
    for gradient in (1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale((optimizer.param_groups[0]["params"][0] * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    scaler.scale(optimizer.param_groups[0]["params"][0].sum()).backward()
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)

    stepped = ["before", "after"]
    expected = [stepped, [], stepped] if not fused else [[f"before {found}", "after"] for found in (0.0, 1.0, 0.0)]
    assert watch.events == [*(e for part in expected for e in ("scaler", *part, "done")), "scaler", "raised"]


def test_a_wrapper_stands_for_what_it_wraps() -> None:
    """One without hooks, or that shares those of the inner optimizer; not one whose step is a step of its own."""

    class Wrapper(Optimizer):
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    class Sharing(Wrapper):
        def __init__(self, optimizer: Optimizer) -> None:
            vars(self).update(vars(optimizer))
            self.optimizer = optimizer

    class Outer(SGD):
        pass

    optimizer = sgd()
    outer = sgd(Outer)
    outer.optimizer = optimizer  # type: ignore[attr-defined]
    assert innermost(optimizer) is optimizer
    assert innermost(Wrapper(Sharing(optimizer))) is optimizer
    assert innermost(outer) is outer
    assert innermost("no optimizer") == "no optimizer"
