import inspect
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from lrtape.errors import ConfigError
from lrtape.schedules import Constant, one_cycle_lr, resolve_shares


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
