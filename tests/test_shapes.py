import doctest
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

import lrtape.shapes
from lrtape.shapes import InverseSqrt, WarmupCosine, WarmupLinear, WarmupStableDecay

Shape = Callable[[int], float]

TOTALS = [(0, 10), (1, 5), (3, 10), (10, 10), (0, 1), (1, 1), (7, 100)]
"""(warm-up, total)"""


@pytest.mark.parametrize(("warmup", "total"), TOTALS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (0.01, 0.1), (1.0, 2.0)])
def test_a_warmup_and_a_way_down_follow_their_formulas(warmup: int, total: int, start: float, end: float) -> None:
    """Every step equals the closed form, and the last value stays."""
    cosine, line = WarmupCosine(warmup, total, start, end), WarmupLinear(warmup, total, start, end)
    for step in range(total + 5):
        if step < warmup:
            expected = (start + (1 - start) * step / warmup,) * 2
        elif step < total:
            x = (step - warmup) / (total - warmup)
            expected = (end + (1 - end) * (1 + math.cos(math.pi * x)) / 2, 1 + (end - 1) * x)
        else:
            expected = (end, end)
        assert (cosine(step), line(step)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("warmup", "decay", "total"), [(2, 3, 10), (0, 10, 10), (5, 5, 10), (0, 0, 4), (1, 1, 2), (1, 1, 1)]
)
@pytest.mark.parametrize("strategy", ["linear", "cos"])
def test_warmup_stable_decay_follows_its_formula(warmup: int, decay: int, total: int, strategy: str) -> None:
    """Up, exactly 1 between, and down in the last `decay` steps."""
    shape = WarmupStableDecay(warmup, decay, total, 0.1, 0.2, strategy)
    for step in range(total + 3):
        if step < warmup:
            expected = 0.1 + 0.9 * step / warmup
        elif step <= total - decay and step < total:
            expected = 1.0
        elif step < total:
            x = (step - (total - decay)) / decay
            expected = 0.2 + 0.8 * ((1 + math.cos(math.pi * x)) / 2 if strategy == "cos" else 1 - x)
        else:
            expected = 0.2
        assert shape(step) == pytest.approx(expected, rel=1e-12)


def test_inverse_sqrt_follows_its_formula() -> None:
    """It peaks at 1 at the end of the warm-up, and four times as far it is at a half."""
    shape = InverseSqrt(4, 0.2)

    assert [shape(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [shape(step) for step in range(4, 100)] == pytest.approx([2 / math.sqrt(step) for step in range(4, 100)])


@pytest.mark.parametrize(
    "shape",
    [
        WarmupCosine(2, 6, 0.5, 0.0),
        WarmupLinear(2, 6, 0.5, 0.0),
        WarmupStableDecay(2, 2, 6, 0.5, 0.0, "cos"),
        InverseSqrt(4, 0.5),
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_a_shape_is_its_plain_attributes(shape: Shape) -> None:
    """What torch keeps in the state of the scheduler is `__dict__`: plain, and not changed by mistake."""
    assert all(type(value) in {int, float, str} for value in vars(shape).values())
    with pytest.raises(FrozenInstanceError):
        shape.warmup_iters = 5  # type: ignore[attr-defined]


def test_the_examples_are_right() -> None:
    """Every example in a docstring gives what it says."""
    results = doctest.testmod(lrtape.shapes)

    assert results.attempted > 0
    assert results.failed == 0
