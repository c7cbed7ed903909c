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
