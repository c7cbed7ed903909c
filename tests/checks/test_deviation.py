import math
from collections.abc import Callable

import pytest

from lrtape.checks.deviation import DIFFERS, NEVER_STEPPED, OTHER_LR, compare_with_plan
from lrtape.checks.timings import EVERY_EPOCH, EVERY_STEP, SEVERAL_TIMES, TOO_RARELY
from lrtape.plan import Plan
from lrtape.tape import Point, Tape

N_STEPS = 60


def tape(lr: Callable[[int], float], n_steps: int = N_STEPS, first: int = 0, key: str = "lr/a") -> Tape:
    return Tape(Point(key, step, 1000 + step, lr(step)) for step in range(first, n_steps))


def decay(step: int) -> float:
    return 0.1 * (1 + math.cos(math.pi * step / N_STEPS)) / 2


def test_an_equal_tape_has_no_finding() -> None:
    """Times do not count; a shorter tape is equal as far as it goes; so is one that begins later."""
    simulated = tape(decay)

    assert compare_with_plan(tape(decay), simulated) is None
    assert compare_with_plan(tape(decay, 10), simulated) is None
    assert compare_with_plan(tape(decay, 40, first=20), simulated) is None
    assert compare_with_plan(Tape(), simulated) is None


def test_the_last_bits_do_not_count() -> None:
    """Another machine may compute another cosine; a real difference is larger."""
    assert compare_with_plan(tape(lambda step: decay(step) * (1 + 1e-12)), tape(decay)) is None
    assert compare_with_plan(tape(lambda step: decay(step) * (1 + 1e-6 * (step == 30))), tape(decay)) is not None


def test_of_several_records_of_a_step_the_first_counts() -> None:
    """A resumed training may have made a step twice."""
    twice = Tape([*tape(decay).points(), Point("lr/a", 20, 9999, 0.5)])

    assert compare_with_plan(twice, tape(decay)) is None


def test_the_first_step_where_they_part_is_named() -> None:
    """With both values, and what was looked for."""
    finding = compare_with_plan(tape(lambda step: 0.5 if step == 33 else decay(step)), tape(decay))
    assert finding is not None

    assert (finding.code, finding.key, finding.step, finding.severity) == (DIFFERS, "lr/a", 33, "error")
    assert f"lr/a of step 33 is 0.5, and by the plan {decay(33)!r}." in finding.message


@pytest.mark.parametrize(
    ("lr", "plan", "code"),
    [
        (lambda step: decay(0), Plan(N_STEPS), NEVER_STEPPED),
        (lambda step: decay(min(3 * step, 59)), Plan(N_STEPS), SEVERAL_TIMES),
        (lambda step: decay(step // 7), Plan(N_STEPS), TOO_RARELY),
        (lambda step: decay(step // 6), Plan(N_STEPS, "step", 6), EVERY_EPOCH),
        (lambda step: 2 * decay(step), Plan(N_STEPS), OTHER_LR),
        (lambda step: decay(step * step % 59), Plan(N_STEPS), DIFFERS),
    ],
)
def test_a_cause_is_named(lr: Callable[[int], float], plan: Plan, code: str) -> None:
    """The one under which every recorded step is as planned."""
    finding = compare_with_plan(tape(lr), tape(decay), plan)
    assert finding is not None

    assert finding.code == code


def test_a_coincidence_is_no_cause() -> None:
    """A timing that the plan can follow for one step only explains nothing."""
    planned = tape(lambda step: 0.1 if step < 50 else 0.01)
    finding = compare_with_plan(tape(lambda step: 0.1 if step < 1 else 0.01), planned, Plan(N_STEPS))
    assert finding is not None

    assert finding.code == DIFFERS


def test_a_schedule_of_epochs_is_recognised_within_its_epochs() -> None:
    """Of a schedule with ten states only the first ten steps can be compared, and that is enough."""
    plan = Plan(N_STEPS, "epoch", 6)
    planned = tape(lambda step: decay(6 * (step // 6)))
    finding = compare_with_plan(tape(lambda step: decay(min(6 * step, 59))), planned, plan)
    assert finding is not None

    assert finding.code == EVERY_STEP


def test_a_group_that_was_not_recorded_is_named() -> None:
    """Where the groups have other names, nothing else is compared."""
    simulated = Tape([*tape(decay).points(), *tape(decay, key="lr/b").points()])
    finding = compare_with_plan(tape(decay, key="lr/c"), simulated)
    assert finding is not None

    assert finding.code == DIFFERS
    assert "the plan has lr/a, lr/b, which was not recorded; recorded are lr/c" in finding.message


def thawed(lr: Callable[[int], float], at: int = 24, n_steps: int = N_STEPS) -> Tape:
    """A head, and a backbone that is frozen at first."""
    backbone = tape(lambda step: lr(step) / 10, n_steps, at, "lr/backbone")
    return Tape([*backbone.points(), *tape(lr, n_steps, key="lr/head").points()])


def test_a_group_that_was_frozen_as_planned_is_no_finding() -> None:
    """Not before it is thawed, where its key is not recorded yet, not after, and not where it never is."""
    for n_steps in (5, 24, 25, N_STEPS):
        assert compare_with_plan(thawed(decay, n_steps=n_steps), thawed(decay)) is None
    later = Tape(point for point in thawed(decay).points() if point.step >= 40)
    assert compare_with_plan(later, thawed(decay)) is None
    assert compare_with_plan(tape(decay, key="lr/head"), thawed(decay, at=N_STEPS)) is None


@pytest.mark.parametrize("at", [0, 18, 30])
def test_a_group_that_was_thawed_at_another_time_is_named(at: int) -> None:
    """With both steps; a schedule that is right by itself is not blamed."""
    finding = compare_with_plan(thawed(decay, at), thawed(decay), Plan(N_STEPS, "step", 6))
    assert finding is not None

    assert (finding.code, finding.key, finding.step) == (DIFFERS, "lr/backbone", min(at, 24))
    assert f"lr/backbone begins at step {at}, and by the plan at step 24" in finding.message


def test_a_group_that_was_never_thawed_is_named() -> None:
    """As one that was not recorded."""
    finding = compare_with_plan(tape(decay, key="lr/head"), thawed(decay))
    assert finding is not None

    assert "the plan has lr/backbone, which was not recorded; recorded are lr/head" in finding.message


@pytest.mark.parametrize(
    ("lr", "code"),
    [
        (lambda step: decay(0), NEVER_STEPPED),
        (lambda step: decay(min(3 * step, 59)), SEVERAL_TIMES),
        (lambda step: decay(step // 6), EVERY_EPOCH),
        (lambda step: 2 * decay(step), OTHER_LR),
        (lambda step: 0.5 if step == 30 else decay(step), DIFFERS),
    ],
)
def test_a_cause_is_named_where_a_group_was_frozen(lr: Callable[[int], float], code: str) -> None:
    """The scheduler goes on while a group is frozen, and is found out by the others."""
    finding = compare_with_plan(thawed(lr), thawed(decay), Plan(N_STEPS, "step", 6))
    assert finding is not None

    assert finding.code == code
