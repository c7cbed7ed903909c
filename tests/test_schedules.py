import doctest
import inspect
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LambdaLR, OneCycleLR, StepLR
from torch.optim.swa_utils import SWALR

import lrtape.schedules
from lrtape.errors import ConfigError
from lrtape.schedules import (
    Constant,
    cyclic_lr,
    exponential_lr,
    inverse_sqrt,
    lambda_lr,
    multiplicative_lr,
    one_cycle_lr,
    resolve_shares,
    share_of,
    swa_lr,
    warmup_cosine,
    warmup_linear,
    wsd,
)
from lrtape.shapes import InverseSqrt, WarmupCosine, WarmupLinear, WarmupStableDecay


def adam(*lrs: float) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs])


def used(optimizer: torch.optim.Optimizer, scheduler: Any, n_steps: int) -> list[list[float]]:
    """The lrs of each step of a loop, as a step would use them."""
    rows = []
    for _ in range(n_steps):
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rows


@pytest.mark.parametrize(
    ("given", "length", "expected"),
    [
        ("100%", 20, 20),
        ("30%", 20, 6),
        (" 30 % ", 20, 6),
        ("12.5%", 40, 5),
        ("33%", 10, 3),
        ("37%", 10, 4),
        ("150%", 10, 15),
        ("1%", 3, 1),
        ("0.001%", 1, 1),
    ],
)
def test_a_share_is_a_rounded_part_of_the_run_and_at_least_one(given: str, length: int, expected: int) -> None:
    """`30%` of 20 epochs is 6, an int, as torch's schedulers need it; a share is never rounded down to nothing."""
    resolved = resolve_shares(given, length)

    assert (resolved, type(resolved)) == (expected, int)


def test_shares_are_found_in_lists_and_mappings() -> None:
    """However deep they are; the given value is left as it was."""
    given = {"milestones": ["50%", "75%", 90], "inner": [{"T_max": "100%"}, ["10%"]], "gamma": 0.1}
    resolved = resolve_shares(given, 200)

    assert resolved == {"milestones": [100, 150, 90], "inner": [{"T_max": 200}, [20]], "gamma": 0.1}
    assert given["milestones"] == ["50%", "75%", 90]


@pytest.mark.parametrize("value", ["cos", "", "%", "30", "30%off", "-30%", "3e1%", "30%%", 30, 0.3, None, True, [], {}])
def test_anything_else_is_returned_as_it_is(value: Any) -> None:
    """A text that is not exactly a share is an argument like any other."""
    assert resolve_shares(value, 20) is value or resolve_shares(value, 20) == value
    assert type(resolve_shares(value, 20)) is type(value)


@pytest.mark.parametrize("value", ["0%", "0.0 %", ["50%", "0%"]])
def test_nothing_of_the_run_is_refused(value: Any) -> None:
    """0% is no length that a schedule can have."""
    with pytest.raises(ConfigError, match=r"a share of the run must be more than 0%, but is '0(.0 )?%' instead"):
        resolve_shares(value, 20)


def test_constant_keeps_every_lr() -> None:
    """Whatever lr a group has, also one that is set by hand in between, `Constant` leaves it."""
    optimizer = adam(0.1, 1e-7)
    scheduler = Constant(optimizer)
    assert used(optimizer, scheduler, 3) == [[0.1, 1e-7]] * 3
    optimizer.param_groups[0]["lr"] = 0.5

    assert used(optimizer, scheduler, 2) == [[0.5, 1e-7]] * 2
    assert scheduler.get_last_lr() == [0.5, 1e-7]


def test_constant_has_the_interface_of_a_torch_scheduler() -> None:
    """What a training loop and a checkpoint call is there, and takes the arguments that torch's takes."""
    constant = Constant(adam(0.1))
    for name in ("step", "get_last_lr", "state_dict", "load_state_dict"):
        required = [
            parameter.name
            for parameter in inspect.signature(getattr(StepLR, name)).parameters.values()
            if parameter.default is inspect.Parameter.empty and parameter.name != "self"
        ]
        assert list(inspect.signature(getattr(constant, name)).parameters) == required
    constant.load_state_dict(constant.state_dict())


def test_one_cycle_peaks_at_each_groups_own_lr() -> None:
    """Without `max_lr` the peak of a group is the lr it was built with; with one it is torch's, for all or for each."""
    for max_lr, peaks in [(None, [0.1, 0.002]), (0.5, [0.5, 0.5]), ([0.3, 0.4], [0.3, 0.4])]:
        optimizer = adam(0.1, 0.002)
        rows = used(optimizer, one_cycle_lr(optimizer, max_lr, total_steps=20), 19)

        assert [max(column) for column in zip(*rows, strict=True)] == pytest.approx(peaks, rel=1e-12)
        assert rows[0] == pytest.approx([peak / 25 for peak in peaks], rel=1e-12)


def test_one_cycle_is_torchs_otherwise() -> None:
    """Every other argument reaches `OneCycleLR`: the lrs are equal step by step."""
    arguments: dict[str, Any] = {"total_steps": 30, "pct_start": 0.5, "anneal_strategy": "linear", "three_phase": True}
    ours, theirs = adam(0.1, 0.2), adam(0.1, 0.2)

    assert used(ours, one_cycle_lr(ours, **arguments), 29) == used(
        theirs, OneCycleLR(theirs, [0.1, 0.2], **arguments), 29
    )


@pytest.mark.parametrize(
    ("value", "point"), [("50%", 5.0), ("12.5 %", 1.25), (3, 3), (0.5, 0.5), ("half", math.nan), (None, math.nan)]
)
def test_the_point_of_a_share_is_not_rounded(value: Any, point: float) -> None:
    """So that 50% and 55% of one epoch are two points, in this order; what is neither share nor number is none."""
    assert share_of(value, 10) == pytest.approx(point, nan_ok=True)


def test_lambda_lr_is_torchs_with_arithmetic() -> None:
    """A text, a number and a function mean the same as torch's own lambda: one for all groups, or one for each."""
    own = lambda epoch: 0.5**epoch  # noqa: E731
    given: Any
    for given in ("0.5 ** epoch", own, ["0.5 ** epoch", own]):
        ours, theirs = adam(0.1, 0.2), adam(0.1, 0.2)
        assert used(ours, lambda_lr(ours, given), 10) == used(theirs, LambdaLR(theirs, own), 10)

    optimizer = adam(0.1, 0.2)
    rows = used(optimizer, lambda_lr(optimizer, ["1 - epoch / n", 0.5], n=10), 10)
    assert rows == [[0.1 * (1 - epoch / 10), 0.1] for epoch in range(10)]


def test_multiplicative_lr_multiplies_what_is_there() -> None:
    """The factor of call `epoch`, from 1, is on top of all factors before; without a factor, none."""
    optimizer = adam(0.1, 0.2)
    rows = used(optimizer, multiplicative_lr(optimizer, ["1 / epoch", "0.01 ** (1 / n)"], n=8), 9)

    assert [row[0] for row in rows] == pytest.approx([0.1 / math.factorial(epoch) for epoch in range(9)])
    assert [row[1] for row in rows] == pytest.approx([0.2 * 0.01 ** (epoch / 8) for epoch in range(9)])


def test_exponential_lr_is_torchs_or_falls_to_one_percent() -> None:
    """`gamma` is torch's; without one the lr is 1 % after `n` calls."""
    ours, theirs, ours_without = adam(0.1), adam(0.1), adam(0.1)

    assert used(ours, exponential_lr(ours, 0.9), 10) == used(theirs, ExponentialLR(theirs, 0.9), 10)
    rows = used(ours_without, exponential_lr(ours_without, n=50), 51)
    assert [row[0] for row in rows] == pytest.approx([0.1 * 0.01 ** (call / 50) for call in range(51)])


def test_cyclic_lr_goes_from_a_tenth_to_each_groups_own_lr() -> None:
    """Without bounds they are each group's lr and a tenth of it; with them, and for everything else, it is torch's."""
    optimizer = adam(0.1, 0.002)
    rows = used(optimizer, cyclic_lr(optimizer, step_size_up=4), 17)
    heights = [1 - abs(step % 8 - 4) / 4 for step in range(17)]
    for column, top in zip(zip(*rows, strict=True), (0.1, 0.002), strict=True):
        assert column == pytest.approx([top / 10 + (top - top / 10) * height for height in heights])

    given: dict[str, Any] = {"base_lr": [0.01, 0.02], "max_lr": 0.5, "step_size_up": 3, "mode": "triangular2"}
    ours, theirs = adam(0.1, 0.2), adam(0.1, 0.2)
    assert used(ours, cyclic_lr(ours, **given), 20) == used(theirs, CyclicLR(theirs, **given), 20)


def test_cyclic_lr_takes_arithmetic_of_x() -> None:
    """`scale_fn` as a text is the function of `x` that torch's is."""
    ours, theirs = adam(0.1), adam(0.1)
    given: dict[str, Any] = {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 3}
    scaled = CyclicLR(theirs, **given, scale_fn=lambda x: 1 / x)

    assert used(ours, cyclic_lr(ours, **given, scale_fn="1 / x"), 20) == used(theirs, scaled, 20)


def test_swa_lr_goes_to_a_tenth_of_each_groups_own_lr() -> None:
    """Without `swa_lr`; with one, for all or for each, it is torch's."""
    optimizer = adam(0.1, 0.002)
    rows = used(optimizer, swa_lr(optimizer, anneal_epochs=5), 10)
    assert rows[0] == [0.1, 0.002]
    assert rows[-1] == pytest.approx([0.01, 0.0002])

    ours, theirs = adam(0.1, 0.2), adam(0.1, 0.2)
    assert used(ours, swa_lr(ours, [0.05, 0.03]), 15) == used(theirs, SWALR(theirs, [0.05, 0.03]), 15)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [cyclic_lr, one_cycle_lr, swa_lr])
def test_the_own_lr_of_a_group_is_the_one_before_any_schedule(build: Callable[..., Any]) -> None:
    """Where another scheduler has changed the lr already, as within SequentialLR, the optimizer's counts still."""
    optimizer = adam(0.1)
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
    scheduler = build(optimizer, **({"total_steps": 10} if build is one_cycle_lr else {}))
    group = optimizer.param_groups[0]

    found = {
        cyclic_lr: lambda: scheduler.max_lrs[0],
        one_cycle_lr: lambda: group["max_lr"],
        swa_lr: lambda: group["swa_lr"] * 10,
    }
    assert found[build]() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda o: warmup_cosine(o, 3, 20, 0.1, 0.2), WarmupCosine(3, 20, 0.1, 0.2)),
        (lambda o: warmup_linear(o, 3, 20, 0.1, 0.2), WarmupLinear(3, 20, 0.1, 0.2)),
        (lambda o: wsd(o, 3, 5, 20, 0.1, 0.2, "cos"), WarmupStableDecay(3, 5, 20, 0.1, 0.2, "cos")),
        (lambda o: inverse_sqrt(o, 3, 0.1), InverseSqrt(3, 0.1)),
    ],
)
def test_a_schedule_of_ours_is_each_groups_lr_times_its_shape(build: Any, shape: Any) -> None:
    """At every step, exactly: nothing adds up along the way."""
    optimizer = adam(0.1, 0.002)

    assert used(optimizer, build(optimizer), 25) == [[0.1 * shape(step), 0.002 * shape(step)] for step in range(25)]


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda_lr": lambda o: lambda_lr(o, ["1 - epoch / n", "0.9 ** epoch"], n=20),
    "multiplicative_lr": lambda o: multiplicative_lr(o, "0.9"),
    "exponential_lr": lambda o: exponential_lr(o, n=20),
    "cyclic_lr": lambda o: cyclic_lr(o, step_size_up=4, scale_fn="1 / x"),
    "swa_lr": lambda o: swa_lr(o),
    "warmup_cosine": lambda o: warmup_cosine(o, 3, 20),
    "warmup_linear": lambda o: warmup_linear(o, 3, 20),
    "wsd": lambda o: wsd(o, 3, 5, 20),
    "inverse_sqrt": lambda o: inverse_sqrt(o, 3),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_from_a_file_and_from_a_pickle(name: str) -> None:
    """Its state loads with `weights_only=True`, and it is a picklable object; both go on where it was."""
    optimizer = adam(0.1, 0.002)
    scheduler = SCHEDULES[name](optimizer)
    used(optimizer, scheduler, 7)
    file = io.BytesIO()
    torch.save((optimizer.state_dict(), scheduler.state_dict()), file)
    file.seek(0)
    pickled = pickle.dumps((optimizer, scheduler))
    rest = used(optimizer, scheduler, 12)

    loaded = adam(0.1, 0.002)
    loaded_scheduler = SCHEDULES[name](loaded)
    optimizer_state, scheduler_state = torch.load(file, weights_only=True)
    loaded.load_state_dict(optimizer_state)
    loaded_scheduler.load_state_dict(scheduler_state)
    assert used(loaded, loaded_scheduler, 12) == rest
    unpickled, unpickled_scheduler = pickle.loads(pickled)
    assert used(unpickled, unpickled_scheduler, 12) == rest


REFUSED: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "`scheduler.lr_lambda` must be arithmetic of epoch and n, as '0.95 ** epoch', but is 'import os' instead": (
        lambda o: lambda_lr(o, "import os", n=5)
    ),
    "but is '1 / n' instead: 'n' is none of the names epoch, pi": lambda o: multiplicative_lr(o, "1 / n"),
    "`scheduler.scale_fn` must be arithmetic of x": lambda o: cyclic_lr(o, scale_fn="epoch"),
    "number for every epoch of the run, but at epoch=0 '1 / epoch' has no value": lambda o: lambda_lr(o, "1 / epoch"),
    "`scheduler.n` must be a whole number >= 1": lambda o: exponential_lr(o),
    "`scheduler.cycle_momentum` must be false for Adagrad, which has neither momentum nor betas": lambda o: cyclic_lr(
        torch.optim.Adagrad(o.param_groups[0]["params"])
    ),
    "`scheduler.cycle_momentum` must be false": lambda o: one_cycle_lr(
        torch.optim.Adagrad(o.param_groups[0]["params"]), total_steps=5
    ),
    "`scheduler.pct_start` must not be exactly one step of the run, but is 0.25 of 4": lambda o: one_cycle_lr(
        o, total_steps=4, pct_start=0.25
    ),
    "`scheduler.warmup_iters` must be at most `scheduler.total_iters`, 10, but is 11": lambda o: warmup_cosine(
        o, 11, 10
    ),
    "must be at most `scheduler.total_iters`, 5, but is 6": lambda o: warmup_linear(o, 6, 5),
    "`scheduler.warmup_iters` + `scheduler.decay_iters` must be at most `scheduler.total_iters`, 10, but is 4 + 7": (
        lambda o: wsd(o, 4, 7, 10)
    ),
    "`scheduler.start_factor` must be a number >= 0, but is -1": lambda o: wsd(o, 1, 1, 10, start_factor=-1),
    "`scheduler.end_factor` must be a number >= 0, but is inf": lambda o: warmup_linear(o, 1, 10, end_factor=math.inf),
    "`scheduler.warmup_iters` must be at least 1, but is 0": lambda o: inverse_sqrt(o, 0),
}


@pytest.mark.parametrize("said", REFUSED)
def test_wrong_arguments_are_refused(said: str) -> None:
    """Before the first step, with the argument, what it is, and what it must be."""
    with pytest.raises(ConfigError) as refusal:
        REFUSED[said](adam(0.1))
    assert said in str(refusal.value)


def test_an_expression_that_fails_later_says_where() -> None:
    """A pole within the run is found by stepping through it."""
    optimizer = adam(0.1)
    scheduler = lambda_lr(optimizer, "1 / (5 - epoch)")
    with pytest.raises(ConfigError, match=r"at epoch=5 '1 / .5 - epoch.' has no value: .*division by zero"):
        used(optimizer, scheduler, 10)


def test_a_phase_of_a_very_short_run_may_be_rounded_up() -> None:
    """A share is never less than one step: in a run of one step, warm-up and decay have that one both."""
    assert wsd(adam(0.1), 1, 1, 1).get_last_lr() == [0.1 * 0.01]


def test_the_examples_are_right() -> None:
    """Every example in a docstring gives what it says."""
    results = doctest.testmod(lrtape.schedules)

    assert results.attempted > 0
    assert results.failed == 0
