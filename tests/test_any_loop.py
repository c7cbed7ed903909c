"""Whatever a loop does, the tape has what every update used: one row for each, and no other.

The truth comes from the weights. Every parameter is a 0 whose gradient is 1, so that an update moves it by its lr; the
lrs are powers of 2, so that this is exact. No hook is involved.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from lrtape.columns import Columns
from lrtape.destination import Destination
from lrtape.keys import optimizer_name
from lrtape.outbox import KeepingOutbox, NoOutbox
from lrtape.session import Session
from lrtape.step_findings import STEPS_SKIPPED

Curve = list[float]


@dataclass
class Truth:
    """What the weights say: the lr that each update of each optimizer used, by the key that it should have."""

    curves: dict[str, Curve] = field(default_factory=dict)

    def update(self, keys: dict[str, nn.Parameter], step: Callable[[], Any]) -> None:
        """Call `step`, which may update these parameters; one that has moved used what it has moved by."""
        before = {key: param.item() for key, param in keys.items()}
        step()
        for key, param in keys.items():
            if param.item() != before[key]:
                self.curves.setdefault(key, []).append(before[key] - param.item())


def weight() -> nn.Parameter:
    return nn.Parameter(torch.zeros((), dtype=torch.float64))


def backward(*params: nn.Parameter) -> None:
    """Give each a gradient of 1."""
    for param in params:
        param.grad = torch.ones_like(param)


class Loop:
    """What a loop is made of: an optimizer of two groups, whose lrs a scheduler halves after every step.

    Args:
        make: the optimizer's class.
        options: its arguments.
    """

    def __init__(self, make: Callable[..., Optimizer] = SGD, **options: Any) -> None:
        self.a, self.b = weight(), weight()
        self.truth = Truth()
        self.keys = {"lr/a": self.a, "lr/b": self.b}
        groups = [{"params": [self.a], "name": "a"}, {"params": [self.b], "name": "b", "lr": 0.25}]
        self.optimizer = make(groups, **{"lr": 1.0, **options})
        self.scheduler = ExponentialLR(self.optimizer, 0.5)

    def step(self, step: Callable[[], Any] | None = None) -> None:
        backward(self.a, self.b)
        self.truth.update(self.keys, step or self.optimizer.step)
        self.scheduler.step()


Case = Callable[["Attach"], Truth]
Attach = Callable[..., Session]


def plain(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)
    for _ in range(8):
        loop.step()
    return loop.truth


def accumulation(attach: Attach) -> Truth:
    """One row for each optimizer step, however many backward passes it has."""
    loop = Loop()
    attach(loop.optimizer)
    for batch in range(12):
        for param in (loop.a, loop.b):
            (param * 0.25).backward()  # type: ignore[no-untyped-call]
        if batch % 4 == 3:
            loop.truth.update(loop.keys, loop.optimizer.step)
            loop.optimizer.zero_grad()
            loop.scheduler.step()
    return loop.truth


def amp(attach: Attach, **options: Any) -> Truth:
    """Every third gradient overflows: there, nothing is updated, and the scheduler goes on all the same."""
    loop = Loop(**options)
    session = attach(loop.optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)

    def step() -> None:
        scaler.step(loop.optimizer)
        scaler.update()

    for index in range(9):
        loop.optimizer.zero_grad()
        scale = float("inf") if index % 3 == 1 else 1.0
        scaler.scale((loop.a + loop.b) * scale).backward()  # type: ignore[no-untyped-call]
        loop.truth.update(loop.keys, step)
        loop.scheduler.step()
    assert session.skipped_steps == 3
    assert [finding.code for finding in session.findings] == [STEPS_SKIPPED]
    return loop.truth


def amp_skip_plain(attach: Attach) -> Truth:
    return amp(attach, foreach=False)


def amp_skip_foreach(attach: Attach) -> Truth:
    return amp(attach, foreach=True)


def amp_skip_fused(attach: Attach) -> Truth:
    return amp(attach, fused=True)


def closure(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)

    def evaluate() -> float:
        backward(loop.a, loop.b)
        return 0.0

    for _ in range(5):
        loop.step(lambda: loop.optimizer.step(evaluate))
    return loop.truth


def compiled(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)
    step = torch.compile(loop.optimizer.step, backend="aot_eager")
    for _ in range(5):
        loop.step(step)
    return loop.truth


def compiled_with_tensor_lr(attach: Attach) -> Truth:
    loop = Loop(lr=torch.tensor(1.0))
    attach(loop.optimizer)
    step = torch.compile(loop.optimizer.step, backend="aot_eager")
    for _ in range(5):
        loop.step(step)
    return loop.truth


def two_of_one_class(attach: Attach) -> Truth:
    one, other = Loop(), Loop(lr=0.5)
    attach(one.optimizer, other.optimizer)
    other.keys = {"lr/sgd_1/a": other.a, "lr/sgd_1/b": other.b}
    for _ in range(5):
        one.step()
        other.step()
    return Truth(one.truth.curves | other.truth.curves)


def gan(attach: Attach) -> Truth:
    """Two optimizers that make different numbers of steps."""
    generator, discriminator = Loop(), Loop(CallsSuper)
    attach(generator.optimizer, discriminator.optimizer, names=["g", "d"])
    generator.keys = {f"lr/g/{name}": param for name, param in (("a", generator.a), ("b", generator.b))}
    discriminator.keys = {f"lr/d/{name}": param for name, param in (("a", discriminator.a), ("b", discriminator.b))}
    for batch in range(9):
        discriminator.step()
        if batch % 3 == 2:
            generator.step()
    return Truth(generator.truth.curves | discriminator.truth.curves)


def added_group(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)
    loop.step()
    late = weight()
    loop.optimizer.add_param_group({"params": [late], "name": "late", "lr": 0.125})
    loop.scheduler = ExponentialLR(loop.optimizer, 0.5)
    loop.keys["lr/late"] = late
    for _ in range(4):
        backward(late)
        loop.step()
    return loop.truth


def removed_group(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)
    loop.step()
    del loop.optimizer.param_groups[0]
    loop.scheduler = ExponentialLR(loop.optimizer, 0.5)
    for _ in range(4):
        loop.step()
    return loop.truth


def thaw(attach: Attach) -> Truth:
    loop = Loop()
    loop.optimizer.param_groups[0]["frozen"] = True
    attach(loop.optimizer)
    for step in range(6):
        loop.optimizer.param_groups[0]["frozen"] = loop.a.requires_grad_(step >= 3).requires_grad is False
        backward(loop.b, *([loop.a] if step >= 3 else []))
        loop.truth.update(loop.keys, loop.optimizer.step)
        loop.scheduler.step()
    return loop.truth


def set_by_hand(attach: Attach) -> Truth:
    loop = Loop()
    attach(loop.optimizer)
    for lr in (1.0, 0.5, 2.0, 2.0, 0.25):
        loop.optimizer.param_groups[1]["lr"] = lr
        loop.step()
    return loop.truth


def tensor_lr(attach: Attach) -> Truth:
    """A scheduler changes it in place."""
    loop = Loop(lr=torch.tensor(1.0))
    attach(loop.optimizer)
    for _ in range(6):
        loop.step()
    return loop.truth


class WarmUp(SGD):
    """Sets its lr within its step."""

    n_steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.n_steps += 1
        for group in self.param_groups:
            group["lr"] = 2.0 ** -max(0, 4 - self.n_steps)
        super().step(closure)


def warm_up_in_step(attach: Attach) -> Truth:
    loop = Loop(WarmUp)
    attach(loop.optimizer)
    for _ in range(6):
        loop.step()
    return loop.truth


def scheduler_in_pre_hook(attach: Attach) -> Truth:
    """Registered behind ours."""
    loop = Loop()
    attach(loop.optimizer)
    again = StepLR(loop.optimizer, 1, 0.5)
    loop.optimizer.register_step_pre_hook(lambda *_: again.step())
    for _ in range(5):
        loop.step()
    return loop.truth


def scheduler_in_post_hook(attach: Attach) -> Truth:
    """Registered before ours."""
    loop = Loop()
    again = StepLR(loop.optimizer, 1, 0.5)
    loop.optimizer.register_step_post_hook(lambda *_: again.step())
    attach(loop.optimizer)
    for _ in range(5):
        loop.step()
    return loop.truth


def lbfgs(attach: Attach) -> Truth:
    """Evaluates the model several times in a step. Its first update goes against the gradient by lr / |gradient|."""
    truth = Truth()
    for lr in (1.0, 0.25):
        param = weight()
        optimizer = torch.optim.LBFGS([{"params": [param], "name": f"of_{lr}"}], lr=lr, max_iter=1)
        attach(optimizer)

        def evaluate(param: nn.Parameter = param) -> Tensor:
            backward(param)
            return param.detach()

        truth.update({f"lr/of_{lr}": param}, partial(optimizer.step, evaluate))
    return truth


def swa(attach: Attach) -> Truth:
    """SWALR takes over from the scheduler, and an averaged model is kept."""
    loop = Loop()
    attach(loop.optimizer)
    model = nn.ParameterList([loop.a, loop.b])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    last = torch.optim.swa_utils.SWALR(loop.optimizer, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
    for step in range(6):
        if step == 3:
            loop.scheduler = last  # type: ignore[assignment]
        loop.step()
        averaged.update_parameters(model)
    return loop.truth


def ema(attach: Attach) -> Truth:
    """The average swaps its weights in and out between steps."""
    loop = Loop()
    attach(loop.optimizer)
    model = nn.ParameterList([loop.a, loop.b])
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda old, new, _: old.lerp(new, 0.5))
    for _ in range(5):
        loop.step()
        average.update_parameters(model)
        trained = [param.detach().clone() for param in model]
        model.load_state_dict(average.module.state_dict())
        with torch.no_grad():
            for param, before in zip(model, trained, strict=True):
                param.copy_(before)
    return loop.truth


def loaded_state(attach: Attach) -> Truth:
    """Loading a checkpoint puts other dictionaries into the place of the param groups."""
    loop = Loop()
    attach(loop.optimizer)
    loop.step()
    loop.optimizer.load_state_dict(loop.optimizer.state_dict())
    for _ in range(3):
        loop.step()
    return loop.truth


class CallsSuper(SGD):
    """Another class, with a ``step()`` that calls that of its parent."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)


CASES: list[Case] = [
    plain,
    accumulation,
    amp_skip_plain,
    amp_skip_foreach,
    amp_skip_fused,
    closure,
    compiled,
    compiled_with_tensor_lr,
    two_of_one_class,
    gan,
    added_group,
    removed_group,
    thaw,
    set_by_hand,
    tensor_lr,
    warm_up_in_step,
    scheduler_in_pre_hook,
    scheduler_in_post_hook,
    lbfgs,
    swa,
    ema,
    loaded_state,
]


@pytest.fixture
def columns() -> Columns:
    return Columns()


@pytest.fixture
def attach(columns: Columns) -> Iterator[Attach]:
    """Records into memory, as `attach` does."""
    sessions = []

    def begin(*optimizers: Optimizer, names: list[str] | None = None) -> Session:
        session = Session(Destination(outbox=KeepingOutbox(NoOutbox(), columns)))
        for index, optimizer in enumerate(optimizers):
            session.add(optimizer, names[index] if names else optimizer_name(optimizer, index))
        sessions.append(session)
        return session

    yield begin
    for session in sessions:
        session.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_update_has_its_row_and_nothing_else_has(case: Case, attach: Attach, columns: Columns) -> None:
    """Recorded == used, no row too many, none missing."""
    truth = case(attach)
    tape = columns.tape().lr

    assert {key: list(series.values) for key, series in tape.items()} == truth.curves
    assert truth.curves, "the case must update something"
