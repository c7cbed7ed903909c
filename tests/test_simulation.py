import copy
import math
import random
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch.nn import Linear, Module, Sequential
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import SWALR

import lrtape
from lrtape.errors import ConfigError
from lrtape.groups import frozen_backbone, thaw
from lrtape.plan import Plan
from lrtape.schedules import Constant, inverse_sqrt, warmup_cosine, warmup_linear, wsd
from lrtape.simulation import describe_scheduler, plan_of, simulate
from lrtape.tape import Tape

Record = Callable[[Optimizer], Callable[[], Tape]]
Build = Callable[[Optimizer], Any]

STEPS_PER_EPOCH = 4
EPOCHS = 3

SCHEDULERS: dict[str, Build] = {
    "LambdaLR": lambda optimizer: schedulers.LambdaLR(optimizer, lambda call: 0.9**call),
    "MultiplicativeLR": lambda optimizer: schedulers.MultiplicativeLR(optimizer, lambda call: 0.8 + 0.01 * call),
    "StepLR": lambda optimizer: schedulers.StepLR(optimizer, 2, 0.1),
    "MultiStepLR": lambda optimizer: schedulers.MultiStepLR(optimizer, [1, 2, 7], 0.3),
    "ConstantLR": lambda optimizer: schedulers.ConstantLR(optimizer, 0.3, 2),
    "LinearLR": lambda optimizer: schedulers.LinearLR(optimizer, 0.1, 1.0, 5),
    "ExponentialLR": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.7),
    "SequentialLR": lambda optimizer: schedulers.SequentialLR(
        optimizer, [schedulers.LinearLR(optimizer, 0.1, 1.0, 2), schedulers.CosineAnnealingLR(optimizer, 10)], [2]
    ),
    "CosineAnnealingLR": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 7, 1e-5),
    "ChainedScheduler": lambda optimizer: schedulers.ChainedScheduler(
        [schedulers.LinearLR(optimizer, 0.1, 1.0, 2), schedulers.ExponentialLR(optimizer, 0.9)]
    ),
    "ReduceLROnPlateau": lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, factor=0.3, patience=0),
    "CyclicLR": lambda optimizer: schedulers.CyclicLR(optimizer, 1e-3, 1e-1, 3, mode="exp_range", gamma=0.9),
    "CosineAnnealingWarmRestarts": lambda optimizer: schedulers.CosineAnnealingWarmRestarts(optimizer, 2, 2, 1e-6),
    "OneCycleLR": lambda optimizer: schedulers.OneCycleLR(optimizer, 0.1, 12),
    "PolynomialLR": lambda optimizer: schedulers.PolynomialLR(optimizer, 12, 2.0),
    "SWALR": lambda optimizer: SWALR(optimizer, 0.01, 2),
    "warmup_cosine": lambda optimizer: warmup_cosine(optimizer, 2, 12),
    "warmup_linear": lambda optimizer: warmup_linear(optimizer, 2, 12),
    "wsd": lambda optimizer: wsd(optimizer, 2, 3, 12),
    "inverse_sqrt": lambda optimizer: inverse_sqrt(optimizer, 2),
    "Constant": Constant,
    "none": lambda optimizer: None,
}


def net(n_layers: int = 3) -> Module:
    return Sequential(*(Linear(2, 2) for _ in range(n_layers)))


def optimizer_of(model: Module, n_groups: int = 3) -> SGD:
    layers = list(model.children())
    shares = [layers] if n_groups == 1 else [[layer] for layer in layers]
    groups = [
        {"params": [p for layer in share for p in layer.parameters()], "lr": 0.1 / (index + 1), "name": f"g{index}"}
        for index, share in enumerate(shares)
    ]
    return SGD(groups, lr=0.1, momentum=0.9)


def metrics_for(n_calls: int) -> list[float]:
    return [1.0, 0.5, 0.6, 0.4, 0.4, 0.4, 0.3, 0.5, 0.2, 0.2, 0.2, 0.2][:n_calls]


def train(
    model: Module, optimizer: Optimizer, scheduler: Any, interval: str, accumulate: int, metrics: list[float] | None
) -> None:
    """A plain loop, as people write it."""
    given = iter(metrics or [])
    batches = 0
    for _ in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH * accumulate):
            model(torch.ones(1, 2)).sum().backward()
            batches += 1
            if batches % accumulate:
                continue
            optimizer.step()
            optimizer.zero_grad()
            if interval == "step" and scheduler is not None:
                scheduler.step(*([next(given)] if metrics else []))
        if interval == "epoch" and scheduler is not None:
            scheduler.step(*([next(given)] if metrics else []))


def columns(tape: Tape) -> dict[str, tuple[list[int], list[float]]]:
    return {key: (list(series.steps), list(series.values)) for key, series in tape.items()}


def test_the_table_has_every_scheduler_of_torch() -> None:
    """A scheduler that torch adds is missed here."""
    assert set(schedulers.__all__) - {"LRScheduler"} <= set(SCHEDULERS)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_simulated_is_recorded_bit_for_bit(
    record: Record, kind: str, n_groups: int, interval: str, accumulate: int
) -> None:
    """The keys, steps and values of a simulation are those that a real training of the same objects records."""
    model = net()
    optimizer = optimizer_of(model, n_groups)
    scheduler = SCHEDULERS[kind](optimizer)
    n_steps = EPOCHS * STEPS_PER_EPOCH
    metrics = metrics_for(n_steps if interval == "step" else EPOCHS) if kind == "ReduceLROnPlateau" else None
    simulated = simulate(
        optimizer, scheduler, n_steps, interval=interval, steps_per_epoch=STEPS_PER_EPOCH, metrics=metrics
    )
    read = record(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(model, optimizer, scheduler, interval, accumulate, metrics)

    assert columns(simulated) == columns(read())
    assert list(simulated) == list(read())


@pytest.mark.parametrize(
    ("kind", "closed_form"),
    [
        ("StepLR", lambda step: 0.1 * 0.1 ** (step // 2)),
        ("ExponentialLR", lambda step: 0.1 * 0.7**step),
        ("MultiStepLR", lambda step: 0.1 * 0.3 ** sum(step >= milestone for milestone in (1, 2, 7))),
        ("PolynomialLR", lambda step: 0.1 * (1 - step / 12) ** 2),
        ("LinearLR", lambda step: 0.1 * (0.1 + 0.9 * min(step, 5) / 5)),
        ("CosineAnnealingLR", lambda step: 1e-5 + (0.1 - 1e-5) * (1 + math.cos(math.pi * step / 7)) / 2),
    ],
)
def test_a_simulation_follows_the_closed_form(kind: str, closed_form: Callable[[int], float]) -> None:
    """Where a schedule has a formula, every simulated step is on it."""
    optimizer = optimizer_of(net(), 1)
    values = simulate(optimizer, SCHEDULERS[kind](optimizer), 12)["lr/g0"].values

    assert values == pytest.approx([closed_form(step) for step in range(12)], rel=1e-9, abs=1e-12)


def test_everything_stays_as_it_was(record: Record) -> None:
    """Optimizer, scheduler, parameters, gradients and random generators; and nothing is recorded, no hook is called."""
    model = net()
    optimizer = optimizer_of(model)
    scheduler = schedulers.LambdaLR(
        optimizer, lambda call: 0.9**call * (1 + 0.1 * (random.random() + float(torch.rand(())) + numpy.random.rand()))
    )
    train(model, optimizer, scheduler, "step", 1, None)
    called: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: called.append("own"))
    handle = register_optimizer_step_post_hook(lambda *_: called.append("global"))
    read = record(optimizer)

    def state() -> tuple[Any, ...]:
        return copy.deepcopy(
            (
                optimizer.state_dict(),
                scheduler.state_dict(),
                list(model.parameters()),
                [param.grad for param in model.parameters()],
                torch.get_rng_state().tolist(),
                random.getstate(),
                numpy.random.get_state(legacy=False),
                [id(group) for group in optimizer.param_groups],
                set(vars(optimizer)),
            )
        )

    before = state()
    try:
        simulate(optimizer, scheduler, 12)
    finally:
        handle.remove()

    assert repr(state()) == repr(before)
    assert called == []
    assert read() == Tape()


def test_a_tensor_lr_is_not_touched() -> None:
    """A scheduler changes a tensor lr in place; the simulation changes its own."""
    optimizer = SGD(net().parameters(), lr=torch.tensor(0.5))
    scheduler = schedulers.StepLR(optimizer, 1, 0.5)
    tape = simulate(optimizer, scheduler, 3)

    assert list(tape["lr/group_00"].values) == [0.5, 0.25, 0.125]
    assert float(optimizer.param_groups[0]["lr"]) == 0.5


def test_it_goes_on_from_where_the_scheduler_is() -> None:
    """A scheduler in the middle of a training is simulated from there."""
    optimizer = optimizer_of(net(), 1)
    scheduler = schedulers.StepLR(optimizer, 3, 0.1)
    whole = simulate(optimizer, scheduler, 8)["lr/g0"].values
    for _ in range(4):
        optimizer.step()
        scheduler.step()

    assert simulate(optimizer, scheduler, 4)["lr/g0"].values == whole[4:]


def test_the_last_epoch_may_be_cut_short() -> None:
    """The steps are as many as asked for, wherever an epoch ends."""
    optimizer = optimizer_of(net(), 1)
    tape = simulate(optimizer, schedulers.StepLR(optimizer, 1, 0.5), 5, interval="epoch", steps_per_epoch=2)

    assert list(tape["lr/g0"].values) == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert list(tape["lr/g0"].times_ms) == [0, 1, 2, 3, 4]


def test_the_model_names_the_groups() -> None:
    """Groups without names are named after the modules of their parameters, as `attach` does; not all need be there."""
    model = net(3)
    optimizer = SGD([{"params": layer.parameters()} for layer in list(model.children())[:2]], lr=0.1)

    assert list(simulate(optimizer, None, 1)) == ["lr/group_00", "lr/group_01"]
    assert list(simulate(optimizer, None, 1, model=model, name="gan")) == ["lr/gan/0", "lr/gan/1"]


def test_a_plan_is_simulated_by_the_same_function() -> None:
    """Its interval and the length of its epochs count."""
    optimizer = optimizer_of(net(), 1)
    scheduler = schedulers.StepLR(optimizer, 1, 0.5)
    plan = Plan(6, "epoch", 3, accumulate_grad_batches=4)

    assert simulate(optimizer, scheduler, plan) == simulate(
        optimizer, scheduler, 6, interval="epoch", steps_per_epoch=3
    )
    assert plan_of(optimizer, scheduler, 6, interval="epoch", steps_per_epoch=3).simulated == simulate(
        optimizer, scheduler, plan
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "`n_steps` must be a whole number >= 1, but is 0 instead"),
        ({"n_steps": 2.5}, "`n_steps` must be a whole number >= 1, but is 2.5 instead"),
        ({"n_steps": 4, "interval": "batch"}, "`interval` must be one of step, epoch, but is 'batch' instead"),
        ({"n_steps": 4, "interval": "epoch"}, "`steps_per_epoch` must be given where `interval` is epoch"),
        ({"n_steps": 4, "steps_per_epoch": 0}, "`steps_per_epoch` must be a whole number >= 1"),
        ({"n_steps": 4, "metrics": [1.0]}, "`metrics` must be None for StepLR, which takes no metric"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """Each text says what was given and what was expected."""
    optimizer = optimizer_of(net())
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        simulate(optimizer, schedulers.StepLR(optimizer, 1), **arguments)


@pytest.mark.parametrize("metrics", [None, [1.0], [1.0] * 5])
def test_a_scheduler_that_takes_a_metric_gets_one_for_each_call(metrics: list[float] | None) -> None:
    """Neither too few nor too many, and a text that says how many."""
    optimizer = optimizer_of(net())
    with pytest.raises(ConfigError, match="`metrics` must have 4 values for ReduceLROnPlateau, one for each step"):
        simulate(optimizer, schedulers.ReduceLROnPlateau(optimizer), 4, metrics=metrics)


def test_an_epoch_without_a_metric_does_not_step_the_scheduler() -> None:
    """`None` stands for an epoch that does not validate: patience counts those that do."""
    optimizer = optimizer_of(net(), 1)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)

    assert list(simulate(optimizer, scheduler, 4, metrics=[1.0, None, 1.0, 1.0])["lr/g0"].values) == pytest.approx(
        [0.1, 0.1, 0.1, 0.01]
    )


def test_a_scheduler_of_another_optimizer_is_refused() -> None:
    """It would be simulated without an effect; also one that is wrapped, as Accelerate does it."""

    class Wrapper:
        def __init__(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def step(self, *args: Any, **kwargs: Any) -> None:
            self.scheduler.step(*args, **kwargs)

    optimizer, other = optimizer_of(net()), optimizer_of(net())
    for scheduler in (schedulers.StepLR(other, 1), Wrapper(schedulers.StepLR(other, 1))):
        with pytest.raises(ConfigError, match="`scheduler` must be a scheduler of this optimizer"):
            simulate(optimizer, scheduler, 4)
    assert simulate(optimizer, Wrapper(schedulers.StepLR(optimizer, 1)), 2)["lr/g0"].values[1] < 0.1


def test_a_scheduler_that_fails_is_refused() -> None:
    """A OneCycleLR that is too short raises in the middle of a run: it is said before."""
    optimizer = optimizer_of(net())
    with pytest.raises(
        ConfigError, match="must stand 12 calls of step\\(\\), the length of this run, but fails at call 7"
    ):
        simulate(optimizer, schedulers.OneCycleLR(optimizer, 0.1, 6), 12)


def test_a_scheduler_that_cannot_be_copied_is_refused() -> None:
    """What a user's scheduler holds on to may have no copy."""
    optimizer = optimizer_of(net())
    scheduler = schedulers.StepLR(optimizer, 1)
    scheduler.drawn = (gamma for gamma in (0.1, 0.2))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="`scheduler` must be something that can be copied"):
        simulate(optimizer, scheduler, 4)


def test_a_simulation_says_nothing() -> None:
    """No warning comes out of it: the order of the calls is its own."""
    optimizer = optimizer_of(net())
    scheduler = SCHEDULERS["SequentialLR"](optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(optimizer, scheduler, 12)


def test_ten_thousand_steps_take_less_than_a_second() -> None:
    """10,000 steps of four groups, in CPU time; about 0.1 s."""
    optimizer = optimizer_of(net(4))
    scheduler = schedulers.CosineAnnealingLR(optimizer, 10_000)
    begin = time.process_time()
    simulate(optimizer, scheduler, 10_000)

    assert time.process_time() - begin < 1.0


def test_a_scheduler_is_described_as_its_config() -> None:
    """What it still knows of its arguments, under torch's own names; those within others too."""
    optimizer = optimizer_of(net())

    assert describe_scheduler(schedulers.MultiStepLR(optimizer, [3, 5, 5], 0.2)) == {
        "_target_": "torch.optim.lr_scheduler.MultiStepLR",
        "milestones": [3, 5, 5],
        "gamma": 0.2,
    }
    described = describe_scheduler(SCHEDULERS["SequentialLR"](optimizer))
    assert described["milestones"] == [2]
    assert [part["_target_"].rpartition(".")[2] for part in described["schedulers"]] == [
        "LinearLR",
        "CosineAnnealingLR",
    ]


def test_the_function_is_not_hidden_by_a_module() -> None:
    """`lrtape.simulate` is the function, also after an import of its module."""
    from lrtape.simulation import simulate as imported

    assert lrtape.simulate is imported


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("due", [1, 2, None])
def test_a_group_is_thawed_as_in_the_training(record: Record, interval: str, due: int | None) -> None:
    """Its curve begins with the first step of its epoch, where its scheduler has brought its lr; or never."""
    model = Sequential(OrderedDict(body=Linear(2, 2), head=Linear(2, 2)))
    optimizer = SGD(frozen_backbone(model, 0.1, unfreeze_at_epoch=due), lr=0.1)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    n_steps = EPOCHS * STEPS_PER_EPOCH
    simulated = simulate(optimizer, scheduler, n_steps, interval=interval, steps_per_epoch=STEPS_PER_EPOCH)
    assert optimizer.param_groups[0]["frozen"] is True, "simulate() must leave the optimizer as it was"

    recorded = record(optimizer)
    for epoch in range(EPOCHS):
        thaw(optimizer.param_groups, epoch)
        for _ in range(STEPS_PER_EPOCH):
            optimizer.step()
            if interval == "step":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()

    assert columns(simulated) == columns(recorded())
    assert list(simulated["lr/head"].steps) == list(range(n_steps))
    if due is None:
        assert "lr/backbone" not in simulated
    else:
        assert simulated["lr/backbone"].steps[0] == due * STEPS_PER_EPOCH
