from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedulers

from lrtape import schedules
from lrtape.errors import ConfigError
from lrtape.plan import Plan
from lrtape.simulation import plan_of
from lrtape.tape import Point, Tape
from lrtape.why import why

OURS = "lrtape.schedules."


def optimizer() -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "a"}], lr=0.1, momentum=0.9)


def planned(build: Callable[[Optimizer], Any], n_steps: int = 60, **config: Any) -> Plan:
    made = optimizer()
    plan = plan_of(made, build(made), n_steps)
    return Plan(n_steps, scheduler={**plan.scheduler, **config}, simulated=plan.simulated)


def reason(plan: Plan, step: int) -> str:
    assert plan.simulated is not None
    return why(plan.simulated, "lr/a", step, plan)


REASONS: dict[str, tuple[Callable[[Optimizer], Any], dict[str, Any], int, str]] = {
    "StepLR": (lambda o: schedulers.StepLR(o, 6), {}, 12, "milestone at step 12, as after each 6 steps"),
    "MultiStepLR": (
        lambda o: schedulers.MultiStepLR(o, [7], 0.5),
        {},
        7,
        "MultiStepLR: milestone at step 7 (gamma 0.5)",
    ),
    "ExponentialLR": (lambda o: schedulers.ExponentialLR(o, 0.9), {}, 3, "times gamma 0.9, as after each step"),
    "LambdaLR": (lambda o: schedulers.LambdaLR(o, lambda n: 0.9**n), {}, 3, "LambdaLR: lr_lambda at step 3"),
    "MultiplicativeLR": (
        lambda o: schedulers.MultiplicativeLR(o, lambda n: 0.9),
        {"lr_lambda": "0.9"},
        3,
        "lr_lambda at step 3 (0.9)",
    ),
    "ConstantLR": (lambda o: schedulers.ConstantLR(o, 0.5, 4), {}, 4, "the factor 0.5 ends at step 4 (total_iters)"),
    "LinearLR": (lambda o: schedulers.LinearLR(o, 0.1, total_iters=9), {}, 3, "warm-up, step 3 of 9 (total_iters)"),
    "LinearLR down": (lambda o: schedulers.LinearLR(o, 1, 0.1, 9), {}, 3, "linear decay, step 3 of 9 (total_iters)"),
    "PolynomialLR": (lambda o: schedulers.PolynomialLR(o, 60), {}, 3, "decay, step 3 of 60 (total_iters)"),
    "CosineAnnealingLR": (lambda o: schedulers.CosineAnnealingLR(o, 50), {}, 3, "half a cosine down, step 3 of 50"),
    "cosine rises": (lambda o: schedulers.CosineAnnealingLR(o, 50), {}, 55, "rises again, as it was made for 50 steps"),
    "cosine falls": (lambda o: schedulers.CosineAnnealingLR(o, 20), {}, 50, "falls again, as it was made for 20 steps"),
    "WarmRestarts": (
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10, 2),
        {},
        30,
        "restart 2 at step 30 (T_0 10)",
    ),
    "within a restart": (lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10, 2), {}, 33, "3 of 40 since restart 2"),
    "OneCycleLR": (lambda o: schedulers.OneCycleLR(o, 0.1, 60), {}, 3, "warm-up to max_lr, step 3 of 60"),
    "OneCycleLR down": (lambda o: schedulers.OneCycleLR(o, 0.1, 60), {}, 50, "annealing, step 50 of 60"),
    "CyclicLR": (
        lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 5),
        {"step_size_up": 5},
        3,
        "up to max_lr, at step 3 (step_size_up 5)",
    ),
    "CyclicLR down": (lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 5), {}, 7, "down to base_lr, at step 7"),
    "SequentialLR": (
        lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o, 0.1), schedulers.ExponentialLR(o, 0.9)], [5]),
        {},
        5,
        "milestone at step 5, where ExponentialLR follows LinearLR",
    ),
    "within SequentialLR": (
        lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o, 0.1), schedulers.PolynomialLR(o, 55)], [5]),
        {},
        7,
        "PolynomialLR: decay, step 2 of 55 (total_iters)",
    ),
    "ChainedScheduler": (
        lambda o: schedulers.ChainedScheduler([schedulers.LinearLR(o, 0.1), schedulers.ExponentialLR(o, 0.9)]),
        {},
        7,
        "ChainedScheduler: ExponentialLR: times gamma 0.9",
    ),
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_change_has_its_reason(kind: str) -> None:
    """Each of torch's schedulers, in the words of its arguments."""
    build, config, step, expected = REASONS[kind]

    assert expected in reason(planned(build, **config), step)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("warmup_cosine", 3, "warm-up, step 3 of 5 (warmup_iters)"),
        ("warmup_cosine", 30, "decay, step 30 of 60 (total_iters)"),
        ("warmup_linear", 30, "decay, step 30 of 60 (total_iters)"),
        ("wsd", 55, "decay, step 55 of 60 (total_iters)"),
        ("inverse_sqrt", 30, "decay with the inverse square root, at step 30"),
    ],
)
def test_our_schedules_have_theirs(name: str, step: int, expected: str) -> None:
    """Warm-up and decay are told apart by the way the lr goes."""
    arguments: dict[str, Any] = {"warmup_iters": 5}
    arguments |= {} if name == "inverse_sqrt" else {"total_iters": 60}
    arguments |= {"decay_iters": 10} if name == "wsd" else {}
    plan = planned(lambda o: getattr(schedules, name)(o, **arguments), _target_=OURS + name, **arguments)

    assert expected in reason(plan, step)


def test_a_schedule_that_ends_above_the_lr_rises() -> None:
    """A warm-up may come from above, and the way to the end may go up: neither is somebody else's change."""
    arguments: dict[str, Any] = {"warmup_iters": 5, "total_iters": 60, "start_factor": 2.0, "end_factor": 3.0}
    plan = planned(lambda o: schedules.warmup_linear(o, **arguments), _target_=OURS + "warmup_linear", **arguments)

    assert "warm-up, step 3 of 5 (warmup_iters)" in reason(plan, 3)
    assert "rise, step 30 of 60 (total_iters)" in reason(plan, 30)


def test_an_epoch_is_counted_in_epochs() -> None:
    """Where the scheduler is stepped after each epoch, its words count epochs."""
    made = optimizer()
    plan = plan_of(made, schedulers.StepLR(made, 6), 460, interval="epoch", steps_per_epoch=23)

    assert reason(plan, 138) == (
        "lr/a changed at step 138 from 0.1 to 0.01: StepLR: milestone at epoch 6, as after each 6 epochs "
        "(step_size 6, gamma 0.1)."
    )


def test_where_it_did_not_change_the_last_change_is_told() -> None:
    """Or that there has been none."""
    plan = planned(lambda o: schedulers.StepLR(o, 20))

    assert reason(plan, 0) == "lr/a begins with 0.1 at step 0."
    assert reason(plan, 19) == "lr/a did not change at step 19: it has been 0.1 since step 0, its first one."
    assert reason(plan, 39).startswith(
        "lr/a did not change at step 39; it changed last at step 20 from 0.1 to 0.01: StepLR: milestone"
    )


def plateau(values: list[float], **config: Any) -> tuple[Tape, Plan]:
    """Five steps an epoch, recorded with the metric, as the app does."""
    made = optimizer()
    scheduler = schedulers.ReduceLROnPlateau(made, **config)
    n_steps = 5 * len(values)
    plan = plan_of(made, scheduler, n_steps, interval="epoch", steps_per_epoch=5, metrics=values)
    assert plan.simulated is not None
    losses = [Point("val/loss", 5 * epoch + 4, 5 * epoch + 4, value) for epoch, value in enumerate(values)]
    described = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "monitor": "val/loss", **config}
    tape = Tape([*plan.simulated.points(), *losses])
    return tape, Plan(n_steps, "epoch", 5, scheduler=described)


def test_a_plateau_names_the_metric() -> None:
    """What it had not improved on, and for how long."""
    tape, plan = plateau([0.5, 0.123, 0.2, 0.3, 0.2, 0.2, 0.2], patience=2)

    assert why(tape, "lr/a", 25, plan) == (
        "lr/a changed at step 25 from 0.1 to 0.01: ReduceLROnPlateau: val/loss had not improved on 0.123 for 3 epochs "
        "(patience 2, factor 0.1)."
    )


@pytest.mark.parametrize(
    "config",
    [
        {"patience": 1},
        {"patience": 0, "cooldown": 2},
        {"patience": 1, "mode": "max"},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
        {"patience": 1, "threshold": 0.2, "mode": "max", "threshold_mode": "abs"},
    ],
)
def test_every_change_of_a_plateau_is_explained(config: dict[str, Any]) -> None:
    """The rule is torch's own: no change of its scheduler is taken for somebody else's."""
    tape, plan = plateau([0.5, 0.4, 0.45, 0.44, 0.39, 0.6, 0.6, 0.7, 0.1, 0.2, 0.3, 0.4, 0.05, 0.9, 0.9, 0.9], **config)
    series = tape["lr/a"]
    changes = [step for step in series.steps if step and series.values[step] != series.values[step - 1]]

    assert changes
    assert all("val/loss had not improved on" in why(tape, "lr/a", step, plan) for step in changes)


def test_a_plateau_without_its_metric_says_what_the_config_says() -> None:
    """The metric may not have been recorded; where it has a value for each step, the scheduler was given another."""
    tape, plan = plateau([0.5, 0.5, 0.5], patience=0)
    losses = Tape([Point("val/loss", step, step, 1.0 - step / 100) for step in range(15)])

    assert "val/loss had not improved for more than 0 epochs" in why(tape.lr, "lr/a", 10, plan)
    per_step = Tape.union([tape.lr, losses])
    assert "val/loss had not improved for more than 0 epochs" in why(per_step, "lr/a", 10, plan)


def changed_by_hand(step: int, lr: float) -> tuple[Tape, Plan]:
    plan = planned(lambda o: schedulers.StepLR(o, 20))
    assert plan.simulated is not None
    return Tape(p._replace(value=lr) if p.step == step else p for p in plan.simulated.points()), plan


def test_a_change_that_the_scheduler_did_not_make_is_told_apart() -> None:
    """By the simulated tape."""
    tape, plan = changed_by_hand(33, 0.05)

    assert why(tape, "lr/a", 33, plan) == (
        "lr/a changed at step 33 from 0.01 to 0.05: changed outside the scheduler: by the plan it stays at 0.01."
    )


def test_without_a_simulation_the_config_tells_it_apart() -> None:
    """StepLR changes nothing at step 33, and an epoch-wise scheduler nothing within an epoch."""
    tape, plan = changed_by_hand(33, 0.05)
    by_epoch = Plan(60, "epoch", 10, scheduler=plan.scheduler)

    assert "changed outside the scheduler: StepLR changes nothing at step 33" in why(
        tape, "lr/a", 33, Plan(60, scheduler=plan.scheduler)
    )
    assert "step 33 is not the first of an epoch" in why(tape, "lr/a", 33, by_epoch)
    assert "the scheduler's config is not known" in why(tape, "lr/a", 33, Plan(60))


def test_a_timing_that_is_not_the_plans_is_named() -> None:
    """Where the whole tape tells what went wrong, that is the reason."""
    plan = planned(lambda o: schedulers.ExponentialLR(o, 0.9))
    assert plan.simulated is not None
    values = plan.simulated["lr/a"].values
    tape = Tape(Point("lr/a", step, step, values[min(2 * step, 59)]) for step in range(30))

    assert "The scheduler is stepped 2 times in each step" in why(tape, "lr/a", 3, plan)


def test_an_unknown_key_or_step_is_refused() -> None:
    """With those that there are."""
    plan = planned(lambda o: schedulers.StepLR(o, 20))
    assert plan.simulated is not None
    with pytest.raises(ConfigError, match="`key` must be one of lr/a, but is 'lr/b' instead"):
        why(plan.simulated, "lr/b", 0, plan)
    with pytest.raises(ConfigError, match="`step` must be a recorded step of lr/a, from 0 to 59, but is 60 instead"):
        why(plan.simulated, "lr/a", 60, plan)


def test_after_a_change_by_hand_the_scheduler_is_known_again() -> None:
    """It goes on from the lr that somebody set: its own changes are its own, by their factor."""
    plan = planned(lambda o: schedulers.StepLR(o, 20))
    assert plan.simulated is not None
    tape = Tape(p._replace(value=p.value * (2 if p.step >= 33 else 1)) for p in plan.simulated.points())

    assert "from 0.01 to 0.02: changed outside the scheduler: by the plan it stays at 0.01" in why(
        tape, "lr/a", 33, plan
    )
    assert "from 0.02 to 0.002: StepLR: milestone at step 40" in why(tape, "lr/a", 40, plan)
    twice = Tape(p._replace(value=p.value * (3 if p.step >= 40 else 1)) for p in tape.points())
    assert "by the plan it goes from 0.01 to 0.001, and they had parted before, at step 33." in why(
        twice, "lr/a", 40, plan
    )


def test_a_planned_change_that_the_config_does_not_know_is_no_change_outside() -> None:
    """The plan of a resumed training is newer than the config that its run began with."""
    tape, plan = changed_by_hand(33, 0.05)

    assert "as planned, but not by the config that the run began with: StepLR changes nothing there" in why(
        tape, "lr/a", 33, replace(plan, simulated=tape)
    )


def test_a_group_that_is_frozen_has_no_lr_that_changes() -> None:
    """If the tape says so: where it is thawed it begins; and before that it is frozen, in a step that was recorded."""
    rows = [Point("lr/a", step, step, 0.1) for step in range(20, 30)]
    head = [Point("lr/head", step, step, 1.0) for step in range(30)]
    frozen = [Point("frozen/a", 0, 0, 1.0), Point("frozen/a", 20, 20, 0.0)]
    plan = Plan(30)

    assert why(Tape([*rows, *head, *frozen]), "lr/a", 20, plan) == (
        "lr/a begins with 0.1 at step 20, where it was thawed."
    )
    assert why(Tape([*rows, *head]), "lr/a", 20, plan) == "lr/a begins with 0.1 at step 20."
    assert why(Tape([*rows, *head, *frozen]), "lr/a", 7, plan) == (
        "lr/a is frozen at step 7: no lr moves its group. It begins at step 20."
    )
    assert why(Tape([*head, *frozen[:1]]), "lr/a", 7, plan) == "lr/a is frozen at step 7: no lr moves its group."
    with pytest.raises(ConfigError, match="`key` must be one of lr/head, but is 'lr/a' instead"):
        why(Tape([*head, *frozen[:1]]), "lr/a", 30, plan)
