"""Nothing comes between our hooks and the update."""

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass
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


def test_nothing_is_told_when_the_hooks_are_removed() -> None:
    """Other people's hooks are called as ever, and their handles remove them; removing ours twice does no harm."""
    optimizer = sgd()
    events: list[str] = []
    early = optimizer.register_step_pre_hook(lambda *_: events.append("early"))
    first, second = Watch(optimizer), Watch(optimizer)
    late = optimizer.register_step_pre_hook(lambda *_: events.append("late"))
    for watch in (first, second, second):
        watch.hooks.remove()
    optimizer.step()
    early.remove()
    optimizer.step()
    late.remove()
    optimizer.step()

    assert events == ["early", "late", "late"]
    assert first.events == second.events == []


def test_hooks_may_change_within_a_step() -> None:
    """One that removes itself, or ends the recording, does no harm; without us torch (2.13) takes it from the last."""
    optimizer = sgd()
    watch = Watch(optimizer)
    events: list[str] = []

    def once(*_: Any) -> None:
        events.append("once")
        handle.remove()

    handle = optimizer.register_step_pre_hook(once)
    optimizer.step()
    optimizer.step()
    optimizer.register_step_pre_hook(lambda *_: watch.hooks.remove())
    optimizer.step()
    optimizer.step()

    assert events == ["once"]
    assert watch.events == ["before", "after", "before", "after", "before"]


def test_a_copy_is_as_without_us() -> None:
    """Also of an optimizer that copies all its attributes: a hook of the copy is the copy's."""

    class Whole(SGD):
        def __getstate__(self) -> dict[str, Any]:
            return vars(self)

        def __setstate__(self, state: dict[str, Any]) -> None:
            vars(self).update(state)

    optimizer = sgd(Whole)
    events: list[str] = []
    watch = Watch(optimizer)
    copied = copy.deepcopy(optimizer)
    copied.register_step_pre_hook(lambda *_: events.append("copied"))
    optimizer.step()
    assert events == []
    copied.step()
    assert events == ["copied"]
    assert watch.events == ["before", "after"]


def test_what_is_no_optimizer_is_left_alone() -> None:
    """A GradScaler that steps somebody's wrapper, which cannot even be hashed; a mixin with a ``step()`` of its own."""

    @dataclass
    class Wrapper:
        optimizer: SGD

        def step(self) -> str:
            return "stepped"

    class Mixin:
        def step(self, closure: Any = None) -> Any:
            events.append("mixin")
            return super().step(closure) if isinstance(self, SGD) else None  # type: ignore[misc]

    class Mixed(Mixin, SGD):
        pass

    events: list[str] = []
    optimizer = sgd(Mixed)
    watch = Watch(optimizer)
    watch.events = events
    optimizer.step()
    Mixin().step()
    assert events[:3] == ["before", "mixin", "before"]
    assert events[-1] == "mixin"
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert scaler.step(Wrapper(optimizer)) == "stepped"  # type: ignore[arg-type, comparison-overlap]


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

    @dataclass
    class Engine:
        optim: Optimizer

    optimizer = sgd()
    outer = sgd(Outer)
    outer.optimizer = optimizer  # type: ignore[attr-defined]
    assert innermost(optimizer) is optimizer
    assert innermost(Wrapper(Sharing(optimizer))) is optimizer
    assert innermost(outer) is outer
    assert innermost(Engine(Wrapper(optimizer))) is optimizer
    early = Sharing(optimizer)
    Watch(optimizer)
    assert innermost(early) is optimizer
    assert innermost("no optimizer") == "no optimizer"
    circle = Engine(optimizer)
    circle.optim = circle  # type: ignore[assignment]
    assert innermost(circle) is circle
