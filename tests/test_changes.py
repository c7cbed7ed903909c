"""Where an lr changes, and where it drops."""

import math
import tracemalloc
from collections.abc import Iterable

import pytest

from lrtape.changes import MAX_CHANGES, Change, Changes


def changes_of(values: Iterable[float]) -> Changes:
    changes = Changes()
    for step, value in enumerate(values):
        changes.add(step, value)
    return changes


def test_a_steplr_has_a_change_and_a_drop_at_each_milestone() -> None:
    """With the lr before and after."""
    changes = changes_of([1.0, 1.0, 0.5, 0.5, 0.25, 0.25])

    assert changes.all() == [Change(2, 2, 1.0, 0.5), Change(4, 4, 0.5, 0.25)]
    assert (changes.drops, changes.n_drops) == ([2, 4], 2)


def test_steps_that_all_change_are_one_change() -> None:
    """A warm-up and a cosine: one row each, and nothing drops, not even near the end."""
    cosine = [(1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    changes = changes_of([0.1, 0.4, 0.7, 1.0, 1.0, *cosine])

    assert changes.all() == [Change(1, 3, 0.1, 1.0), Change(6, 104, 1.0, cosine[-1])]
    assert changes.drops == []


def test_a_schedule_that_decays_steeply_in_every_step_drops_in_every_step() -> None:
    """The one that costs a week: StepLR stepped after each batch."""
    assert changes_of([1.0, 0.1, 0.01, 0.001]).drops == [1, 2, 3]


def test_the_last_step_of_a_curve_that_falls_ever_more_steeply_is_no_drop() -> None:
    """Of OneCycleLR, say, whose last step uses a tenth of the one before."""
    assert changes_of([1.0, 0.9, 0.6, 0.2, 0.02]).drops == []


@pytest.mark.parametrize("values", [[0.1, 0.1, 1.0, 1.0], [1.0, 1.0], [1.0], [math.nan, math.nan], [1.0, math.nan]])
def test_what_does_not_fall_is_no_drop(values: list[float]) -> None:
    """A rise, a constant, and what is no number."""
    assert changes_of(values).drops == []


def test_memory_does_not_grow_with_the_steps() -> None:
    """An lr that changes at every second step: the first changes are kept, and the others counted."""
    changes = Changes()
    for step in range(2 * MAX_CHANGES + 2):
        changes.add(step, float(step // 2))
    tracemalloc.start()
    for step in range(2 * MAX_CHANGES + 2, 4 * MAX_CHANGES):
        changes.add(step, float(step // 2))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(changes.kept) == MAX_CHANGES
    assert changes.n_left_out > MAX_CHANGES / 2
    assert grown < 10_000
